import { readdir, readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { float32, type HostTensor } from "../../../src/core/host-tensor.ts";
import { cast, input, type Tensor, toOnnx } from "../../../src/graph/index.ts";
import { readSafetensors, readSafetensorsHeader } from "../../../src/io/index.ts";
import { bindWeights, type StoredWeight } from "../../../src/models/weights.ts";
import { inferenceTarget, openSession } from "../../../src/runtime/index.ts";
import { type CaseKind, type Comparison, compare, type ReferenceCase } from "../case.ts";
import { type Run, runners } from "./model-runs.ts";

interface TensorNote {
  readonly key: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly difference_to_float64?: number;
}

export interface ModelCase {
  readonly id: string;
  readonly inputs: Readonly<Record<string, TensorNote>>;
  readonly kwargs: Readonly<Record<string, unknown>>;
  readonly outputs: Readonly<Record<string, TensorNote>>;
}

interface IoFile {
  readonly class: string;
  readonly cases: readonly ModelCase[];
}

/** Networks with their weights, run on stored inputs (`models/`). */
export const models: CaseKind = {
  kind: "models",
  async discover(folder) {
    const names = await readdir(join(folder, "models")).catch(() => []);
    const found: ReferenceCase[] = [];
    for (const name of names.sort()) {
      const path = join(folder, "models", name);
      const text = await readFile(join(path, "io.json"), "utf8").catch(() => null);
      if (text === null) continue;
      const io = JSON.parse(text) as IoFile;
      for (const entry of io.cases) {
        found.push({ name: `models/${name}/${entry.id}`, run: () => runCase(path, io.class, entry) });
      }
    }
    return found;
  },
};

async function runCase(path: string, className: string, entry: ModelCase): Promise<Comparison[]> {
  const runner = runners[className];
  if (!runner) throw new Error(`the network ${className} is not built yet`);
  const config = JSON.parse(await readFile(join(path, "config.json"), "utf8"));
  const tensors = await readSafetensors(join(path, "io.safetensors"));
  const feeds: Record<string, HostTensor> = {};
  const inputs = new Map<string, Tensor>();
  for (const [name, note] of Object.entries(entry.inputs)) {
    const value = tensors.get(note.key)!;
    // An output may have the same name.
    feeds[`in.${name}`] = value;
    inputs.set(name, input(`in.${name}`, value.shape, value.dtype));
  }
  const unread = new Set([...inputs.keys(), ...Object.keys(entry.kwargs)]);
  const run: Run = {
    has: (name) => inputs.has(name),
    input(name) {
      unread.delete(name);
      const tensor = inputs.get(name);
      if (!tensor) throw new Error(`the case has no input ${name}`);
      return tensor;
    },
    float(name) {
      return cast(run.input(name), "float32");
    },
    optional: (name) => (inputs.has(name) ? run.input(name) : undefined),
    timestep(batch) {
      unread.delete("timestep");
      const given = inputs.get("timestep");
      if (given) return cast(given, "float32");
      feeds["in.timestep"] = float32([batch], Array(batch).fill(Number(entry.kwargs.timestep)));
      const scalar = input("in.timestep", [batch]);
      inputs.set("timestep", scalar);
      return scalar;
    },
    kwarg(name) {
      unread.delete(name);
      return entry.kwargs[name] as never;
    },
  };
  const { network, outputs } = runner(config, run);
  if (unread.size > 0) throw new Error(`the case gives what this network does not take: ${[...unread].join(", ")}`);
  const graph = toOnnx(outputs, { bind: bindWeights(network, await folderWeights(path)), target: inferenceTarget() });
  const fed = Object.fromEntries(Object.keys(graph.inputs).map((name) => [name, feeds[name]!]));
  const session = await openSession(graph.bytes, { name: basename(path), threads: 1, externalData: path });
  try {
    const results = await session.run(fed);
    return Object.entries(entry.outputs).flatMap(([name, note]) => judge(name, note, tensors, results));
  } finally {
    await session.close();
  }
}

/** The tolerance of the reference README. */
function judge(
  name: string,
  note: TensorNote,
  tensors: ReadonlyMap<string, HostTensor>,
  results: Readonly<Record<string, HostTensor>>,
): Comparison[] {
  // The smallest gap between nearest and second-nearest codebook entries: a note on VQModel's indices, not an output.
  if (name === "margin") return [];
  const ours = results[name];
  const theirs = tensors.get(note.key)!;
  if (!ours) throw new Error(`the output ${name} is not computed`);
  const exact = note.dtype.startsWith("int");
  const shape = compare(`${name}.shape`, ours.shape, theirs.shape, {});
  const values = compare(
    name,
    Float64Array.from(ours.data as Float32Array, Number),
    Float64Array.from(theirs.data as Float32Array, Number),
    exact ? {} : { absolute: 1e-4, ofMaximum: 1e-4 },
  );
  // A scalar is stored as a list of one number.
  return shape.pass || ours.data.length === 1 ? [values] : [shape, values];
}

/** Where the weights of a model's folder lie. */
export async function folderWeights(folder: string): Promise<Map<string, StoredWeight>> {
  const names = ["diffusion_pytorch_model.safetensors", "model.safetensors"];
  const present = await readdir(folder);
  const file = names.find((name) => present.includes(name));
  if (!file) throw new Error(`${dirname(folder)} has no weights`);
  const { tensors } = await readSafetensorsHeader(join(folder, file));
  return new Map([...tensors].map(([name, entry]) => [name, { ...entry, file }]));
}
