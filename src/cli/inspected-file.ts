import { basename } from "node:path";
import { UserError } from "../core/errors.ts";
import { bytesPerElement, type HostTensor, type Shape, sizeOf } from "../core/host-tensor.ts";
import { type ModelWeights, openWeightFile } from "../io/index.ts";
import {
  type Adapter,
  isOriginalCheckpoint,
  originalCheckpoint,
  readAdapter,
  readTextEmbedding,
  type TextEmbedding,
} from "../models/index.ts";
import { EMBEDDING_FILE } from "../pipelines/adapters.ts";
import { externalWeights } from "../pipelines/single-file.ts";
import { readProgress } from "../train/index.ts";
import type { Inspection } from "./inspection.ts";
import { groupsOf, type ModelFacts, tensorFacts, totals } from "./model-facts.ts";
import { scheduleOf } from "./schedule-facts.ts";

/**
 * Finds out what a safetensors file holds: a checkpoint of a run, a single-file model, a LoRA, a learned word, or tensors.
 * @throws UserError for other files
 */
export async function inspectFile(path: string): Promise<Inspection> {
  const weights = await openWeightFile(path);
  const { format, progress, ...rest } = weights.metadata;
  const tensors = tensorFacts(weights);
  const total = totals(tensors);
  const notes: Record<string, string> = {
    parameters: `${total.parameters.toLocaleString("en-US")} numbers in ${tensors.length} tensors (${total.dtypes.join(", ")})`,
    ...(format ? { format } : {}),
  };
  const original = inspectOriginal(path, weights);
  if (original) return { ...original, notes: { ...notes, ...original.notes } };
  const adapter = adapterNotes(weights);
  const word = adapter ? undefined : embeddingNotes(path, weights);
  for (const [key, value] of Object.entries(rest)) notes[key] = value.length > 200 ? `${value.slice(0, 200)}…` : value;
  if (!progress || !format?.startsWith("allegory-checkpoint")) {
    const what = adapter ? "LoRA" : word ? "textual-inversion embedding" : "safetensors file";
    const said = { ...notes, ...adapter, ...word, ...(progress ? { progress } : {}) };
    return { what, path, notes: said, models: [], tensors, problems: [] };
  }
  const { step, seconds, position } = await readProgress(path);
  notes.step = String(step);
  notes["seconds of training"] = seconds.toFixed(1);
  notes["data position"] = `epoch ${position.epoch}, image ${position.index}`;
  return { what: "checkpoint of a training run", path, notes, models: [], tensors, problems: [] };
}

/** A single-file checkpoint of Stable Diffusion, with its networks under diffusers' names. */
function inspectOriginal(path: string, file: ModelWeights): Inspection | undefined {
  const { weights } = externalWeights(file);
  if (!isOriginalCheckpoint(weights)) return undefined;
  const what = "single-file checkpoint of Stable Diffusion";
  try {
    const { family, parts, scheduler, unused, notes } = originalCheckpoint(weights, { what: path });
    const models = Object.entries(parts).map(([name, { className, config, weights: own }]): ModelFacts => {
      const tensors = [...own].map(([weight, { dtype, shape }]) => ({
        name: weight,
        dtype,
        shape,
        bytes: sizeOf(shape) * bytesPerElement(dtype),
      }));
      return { name, className, ...totals(tensors), groups: groupsOf(tensors), built: true, config, tensors };
    });
    return {
      what: family ? `${what} ${family}` : "autoencoder of Stable Diffusion in a single file",
      path,
      notes: {
        ...(unused.length > 0 ? { "not used": `${unused.length} tensors (${shortened(unused)})` } : {}),
        ...(notes.length > 0 ? { assumed: notes.join(" ") } : {}),
      },
      models,
      problems: [],
      ...(scheduler ? { schedule: scheduleOf(scheduler) } : {}),
    };
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    const notes = { problem: error.message };
    return { what: `${what}, which cannot be read`, path, notes, models: [], problems: ["it cannot be read"] };
  }
}

/** Tensors whose shapes alone are looked at. */
function shapesOf(tensors: ModelWeights["tensors"]): Map<string, HostTensor> {
  const empty = (shape: Shape): HostTensor => ({ dtype: "float32", shape, data: new Float32Array(1) });
  return new Map([...tensors].map(([name, { shape }]) => [name, empty(shape)]));
}

/** A word is no more vectors than a prompt has room for, and its name is no parameter's. */
const MOST_VECTORS = 75;

/** What the names and shapes of a textual inversion say. */
function embeddingNotes(path: string, { tensors }: ModelWeights): Readonly<Record<string, string>> | undefined {
  if (basename(path) !== EMBEDDING_FILE && [...tensors.keys()].some((name) => /\.(weight|bias)$/.test(name))) {
    return undefined;
  }
  let embedding: TextEmbedding;
  try {
    embedding = readTextEmbedding(shapesOf(tensors), { name: basename(path, ".safetensors") });
  } catch (error) {
    if (error instanceof UserError) return undefined;
    throw error;
  }
  const { token, vectors, rows } = embedding;
  if (vectors > MOST_VECTORS) return undefined;
  return {
    word: token,
    vectors: String(vectors),
    width: [...rows]
      .sort()
      .map(([part, { shape }]) => `${shape[1]} (${part})`)
      .join(", "),
  };
}

/** What the names and shapes of a LoRA say. */
function adapterNotes({ tensors, metadata }: ModelWeights): Readonly<Record<string, string>> | undefined {
  let adapter: Adapter;
  try {
    adapter = readAdapter(shapesOf(tensors), { name: "LoRA", metadata });
  } catch (error) {
    if (error instanceof UserError) return undefined;
    throw error;
  }
  const count = (values: readonly string[]) =>
    [...new Set(values)].map((value) => `${value} (${values.filter((other) => other === value).length})`).join(", ");
  return {
    layers: count(adapter.layers.map(({ part }) => part ?? "no component named")),
    rank: count(adapter.layers.map(({ down }) => String(down.shape[0]))),
    alpha: adapter.layers.some(({ alpha }) => alpha !== undefined) ? "given" : "not given: the rank",
  };
}

const shortened = (names: readonly string[]) => `${names.slice(0, 3).join(", ")}${names.length > 3 ? " …" : ""}`;
