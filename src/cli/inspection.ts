import { existsSync } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { UserError } from "../core/errors.ts";
import { bytesPerElement, type HostTensor, type Shape, sizeOf } from "../core/host-tensor.ts";
import {
  type BetaSchedule,
  customSchedule,
  type NoiseSchedule,
  namedSchedule,
  samplerFromConfig,
  signalToNoise,
} from "../diffusion/index.ts";
import {
  isPipelineFolder,
  type JsonObject,
  type ModelWeights,
  openWeightFile,
  readJsonObject,
  readModelFolder,
  readPipelineFolder,
  readSchedulerConfig,
} from "../io/index.ts";
import {
  type Adapter,
  isOriginalCheckpoint,
  matchWeights,
  networkName,
  networks,
  originalCheckpoint,
  readAdapter,
  type Weighted,
} from "../models/index.ts";
import { externalWeights } from "../pipelines/single-file.ts";
import { checkpointFiles, readProgress, runPaths } from "../train/index.ts";

/** One tensor of a file. */
export interface TensorFacts {
  readonly name: string;
  readonly dtype: string;
  readonly shape: Shape;
  readonly bytes: number;
}

/** A network on disk. */
export interface ModelFacts {
  readonly name: string;
  readonly className: string | undefined;
  readonly parameters: number;
  readonly bytes: number;
  readonly dtypes: readonly string[];
  /** Parameters by the first step of their names, such as `encoder` and `decoder`. */
  readonly groups: readonly { readonly name: string; readonly parameters: number }[];
  /** Why these weights do not make this network: what is missing, unknown or of another shape; or that it is not built. */
  readonly problem?: string;
  readonly config: JsonObject;
  readonly tensors: readonly TensorFacts[];
}

/** A noise schedule on disk. */
export interface ScheduleFacts {
  readonly className: string;
  readonly options: JsonObject;
  /** ᾱ and SNR at some timesteps, for schedules of β. */
  readonly levels: readonly { readonly t: number; readonly alphaBar: number; readonly snr: number }[] | undefined;
}

/** A training run. */
export interface RunFacts {
  readonly recipe: JsonObject;
  readonly step: number;
  readonly steps: number;
  readonly seconds: number;
  readonly loss: number | undefined;
  readonly checkpoints: readonly string[];
}

/** What lies at a path. */
export interface Inspection {
  readonly what: string;
  readonly path: string;
  /** Metadata and the like, in words. */
  readonly notes: Readonly<Record<string, string>>;
  readonly run?: RunFacts;
  readonly models: readonly ModelFacts[];
  readonly schedule?: ScheduleFacts;
  readonly tensors?: readonly TensorFacts[];
}

/**
 * Finds out what lies at a path: headers and configurations are read, weights are not.
 * @throws UserError for anything but a run, a checkpoint, a safetensors file, a model or a pipeline
 */
export async function inspectPath(path: string): Promise<Inspection> {
  if (!(await stat(path)).isDirectory()) return inspectFile(path);
  if (existsSync(runPaths(path).recipe)) return inspectRun(path);
  if (isPipelineFolder(path)) return { path, ...(await inspectPipeline(path)) };
  if (existsSync(join(path, "config.json"))) {
    return { what: "model folder", path, notes: {}, models: [await modelFacts(path, basename(path))] };
  }
  if (existsSync(join(path, "scheduler_config.json"))) {
    return { what: "scheduler folder", path, notes: {}, models: [], schedule: await scheduleFacts(path) };
  }
  throw new UserError(`${path} is neither a run, nor a model, nor a pipeline.`, {
    hint: "A run has recipe.json, a model config.json and weights, a pipeline model_index.json.",
  });
}

async function inspectFile(path: string): Promise<Inspection> {
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
  for (const [key, value] of Object.entries(rest)) notes[key] = value.length > 200 ? `${value.slice(0, 200)}…` : value;
  if (!progress || !format?.startsWith("allegory-checkpoint")) {
    const what = adapter ? "LoRA" : "safetensors file";
    return { what, path, notes: { ...notes, ...adapter, ...(progress ? { progress } : {}) }, models: [], tensors };
  }
  const { step, seconds, position } = await readProgress(path);
  notes.step = String(step);
  notes["seconds of training"] = seconds.toFixed(1);
  notes["data position"] = `epoch ${position.epoch}, image ${position.index}`;
  return { what: "checkpoint of a training run", path, notes, models: [], tensors };
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
      return { name, className, ...totals(tensors), groups: groupsOf(tensors), config, tensors };
    });
    return {
      what: family ? `${what} ${family}` : "autoencoder of Stable Diffusion in a single file",
      path,
      notes: {
        ...(unused.length > 0 ? { "not used": `${unused.length} tensors (${shortened(unused)})` } : {}),
        ...(notes.length > 0 ? { assumed: notes.join(" ") } : {}),
      },
      models,
      ...(scheduler ? { schedule: scheduleOf(scheduler) } : {}),
    };
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return { what: `${what}, which cannot be read`, path, notes: { problem: error.message }, models: [] };
  }
}

/** What the names and shapes of a LoRA say. */
function adapterNotes({ tensors, metadata }: ModelWeights): Readonly<Record<string, string>> | undefined {
  const empty = (shape: Shape): HostTensor => ({ dtype: "float32", shape, data: new Float32Array(1) });
  let adapter: Adapter;
  try {
    const shapes = new Map([...tensors].map(([name, { shape }]) => [name, empty(shape)]));
    adapter = readAdapter(shapes, { name: "LoRA", metadata });
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

async function inspectRun(path: string): Promise<Inspection> {
  const paths = runPaths(path);
  const recipe = await readJsonObject(paths.recipe);
  const checkpoints = await checkpointFiles(paths.checkpoints);
  const newest = checkpoints.at(-1);
  const progress = newest ? await readProgress(join(paths.checkpoints, newest)) : undefined;
  const run: RunFacts = {
    recipe,
    step: progress?.step ?? 0,
    steps: Number(recipe.steps),
    seconds: progress?.seconds ?? 0,
    loss: await lastLoss(paths.metrics),
    checkpoints,
  };
  const model = isPipelineFolder(paths.model) ? await inspectPipeline(paths.model) : { notes: {}, models: [] };
  return { ...model, what: "training run", path, run };
}

async function lastLoss(file: string): Promise<number | undefined> {
  const text = await readFile(file, "utf8").catch(() => "");
  // The last line may be half written while the run goes on.
  for (const line of text.trimEnd().split("\n").slice(-2).reverse()) {
    try {
      return (JSON.parse(line) as { loss: number }).loss;
    } catch {}
  }
  return undefined;
}

async function inspectPipeline(path: string): Promise<Omit<Inspection, "path">> {
  const { className, components, options } = await readPipelineFolder(path);
  const index = await readJsonObject(join(path, "model_index.json"));
  const models: ModelFacts[] = [];
  const notes: Record<string, string> = {};
  let schedule: ScheduleFacts | undefined;
  for (const [name, component] of components) {
    // The first published pipelines have the files of their parts beside model_index.json.
    const folder = existsSync(component.path) ? component.path : path;
    const isScheduler = name === "scheduler";
    if (!isScheduler && existsSync(join(folder, "config.json"))) models.push(await modelFacts(folder, name));
    else if (isScheduler && existsSync(join(folder, "scheduler_config.json"))) schedule = await scheduleFacts(folder);
    else if (name !== "classes") notes[name] = component.className;
  }
  if (Array.isArray(index.classes)) notes.classes = index.classes.join(", ");
  for (const [name, value] of Object.entries(options)) if (name !== "classes") notes[name] = JSON.stringify(value);
  return { what: `pipeline folder (${className})`, notes, models, ...(schedule ? { schedule } : {}) };
}

async function modelFacts(path: string, name: string): Promise<ModelFacts> {
  const { className, config, weights } = await readModelFolder(path);
  const tensors = tensorFacts(weights);
  const problem = problemOf(config, weights);
  return {
    name,
    className,
    ...totals(tensors),
    groups: groupsOf(tensors),
    ...(problem ? { problem } : {}),
    config,
    tensors,
  };
}

/** Why the weights do not make the network of the configuration, if they do not. */
function problemOf(config: JsonObject, weights: ModelWeights): string | undefined {
  try {
    const network = networks[networkName(config)](config as never) as Weighted;
    matchWeights(network, externalWeights(weights).weights, { what: weights.source });
    return undefined;
  } catch (error) {
    if (error instanceof UserError) return error.message;
    throw error;
  }
}

function groupsOf(tensors: readonly TensorFacts[]): ModelFacts["groups"] {
  const groups = new Map<string, number>();
  for (const { name, shape } of tensors) {
    const [first, second = ""] = name.split(".");
    // A part that holds everything says nothing: its own parts do.
    const group = first === "text_model" ? `${first}.${second}` : first!;
    groups.set(group, (groups.get(group) ?? 0) + sizeOf(shape));
  }
  return [...groups].map(([name, parameters]) => ({ name, parameters }));
}

function tensorFacts({ tensors }: ModelWeights): TensorFacts[] {
  return [...tensors].map(([name, { dtype, shape, length }]) => ({ name, dtype, shape, bytes: length }));
}

function totals(tensors: readonly TensorFacts[]): Pick<ModelFacts, "parameters" | "bytes" | "dtypes"> {
  return {
    parameters: tensors.reduce((sum, { shape }) => sum + sizeOf(shape), 0),
    bytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0),
    dtypes: [...new Set(tensors.map(({ dtype }) => dtype))].sort(),
  };
}

async function scheduleFacts(folder: string): Promise<ScheduleFacts> {
  return scheduleOf(await readSchedulerConfig(folder));
}

function scheduleOf(config: JsonObject): ScheduleFacts {
  const { className, options } = samplerFromConfig(config);
  const schedule = betaSchedule(options);
  if (!schedule) return { className, options, levels: undefined };
  const T = schedule.steps;
  const timesteps = [...new Set([0, 0.25, 0.5, 0.75, 1].map((share) => Math.round(share * (T - 1))))];
  const levels = timesteps.map((t) => ({ t, alphaBar: schedule.alphasCumprod[t]!, snr: signalToNoise(schedule, t) }));
  return { className, options, levels };
}

/** The schedule of β that the options describe, where they describe one. */
function betaSchedule(options: JsonObject): NoiseSchedule | undefined {
  const zeroTerminalSnr = options.rescale_betas_zero_snr === true;
  if (Array.isArray(options.trained_betas)) return customSchedule(options.trained_betas, { zeroTerminalSnr });
  if (options.beta_schedule === undefined) return undefined;
  return namedSchedule(options.beta_schedule as BetaSchedule, {
    steps: options.num_train_timesteps as number,
    start: options.beta_start as number,
    end: options.beta_end as number,
    zeroTerminalSnr,
  });
}
