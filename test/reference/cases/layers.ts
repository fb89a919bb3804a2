import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { float32, type HostTensor } from "../../../src/core/host-tensor.ts";
import { input, type Tensor, toOnnx } from "../../../src/graph/index.ts";
import { readSafetensors } from "../../../src/io/index.ts";
import { bindWeights } from "../../../src/models/weights.ts";
import { activation } from "../../../src/nn/activation.ts";
import { sinusoids } from "../../../src/nn/timestep-embedding.ts";
import { inferenceTarget, openSession } from "../../../src/runtime/index.ts";
import { type CaseKind, type Comparison, compare, type ReferenceCase } from "../case.ts";
import { buildLayer } from "./layer-runs.ts";

interface LayerNote {
  readonly file: string;
  readonly class: string;
  readonly args: Readonly<Record<string, unknown>>;
  readonly calls: readonly {
    readonly inputs: Readonly<Record<string, { readonly key: string }>>;
    readonly kwargs: Readonly<Record<string, unknown>>;
    readonly output: { readonly key: string };
  }[];
}

interface TimestepsFile {
  readonly cases: readonly {
    readonly num_channels: number;
    readonly flip_sin_to_cos: boolean;
    readonly downscale_freq_shift: number;
    readonly scale?: number;
    readonly timesteps: readonly number[];
    readonly values: readonly number[];
  }[];
}

/** Single layers with their weights (`layers/`), activation functions and sinusoidal embeddings. */
export const layers: CaseKind = {
  kind: "layers",
  async discover(root) {
    const folder = join(root, "layers");
    const found: ReferenceCase[] = [];
    const list = await readFile(join(folder, "layers.json"), "utf8").catch(() => null);
    for (const note of list === null ? [] : (JSON.parse(list) as { layers: LayerNote[] }).layers) {
      found.push({
        name: `layers/${basename(note.file, ".safetensors")}`,
        run: () => runLayer(join(folder, note.file), note),
      });
    }
    const functions = join(folder, "activations.safetensors");
    const exists = await readFile(functions).catch(() => null);
    if (exists) found.push({ name: "layers/activations", run: () => runActivations(functions) });
    const waves = await readFile(join(folder, "timesteps.json"), "utf8").catch(() => null);
    if (waves !== null) found.push({ name: "layers/timesteps", run: () => runTimesteps(JSON.parse(waves)) });
    return found;
  },
};

async function runLayer(path: string, note: LayerNote): Promise<Comparison[]> {
  const tensors = await readSafetensors(path);
  const isData = (name: string) => /^(in|out)\d+/.test(name);
  const weights = new Map([...tensors].filter(([name]) => !isData(name)));
  // A downsampling convolution is registered under two names in Python.
  const storedName = (name: string) => (name.startsWith("Conv2d_0.") ? null : undefined);
  const layer = buildLayer(note.class, note.args);
  const bind = bindWeights({ parts: layer.network.parts, storedName }, weights);
  const tolerance = note.file.includes("large-mean") ? { absolute: 2e-4 } : { absolute: 2e-5, relative: 1e-5 };
  const feeds: Record<string, HostTensor> = {};
  const outputs: Record<string, Tensor> = {};
  note.calls.forEach((call, i) => {
    const inputs: Record<string, Tensor> = {};
    for (const [name, { key }] of Object.entries(call.inputs)) {
      const value = asFloat(tensors.get(key)!);
      feeds[`${i}.${name}`] = value;
      inputs[name] = input(`${i}.${name}`, value.shape);
    }
    outputs[`out${i}`] = layer.call(inputs, call.kwargs);
  });
  const results = await evaluate(outputs, feeds, bind);
  return note.calls.flatMap((call, i) => {
    const ours = results[`out${i}`]!;
    const theirs = tensors.get(call.output.key)!;
    return [
      compare(`shape${i}`, ours.shape, theirs.shape, {}),
      compare(`out${i}`, ours.data as Float32Array, theirs.data as Float32Array, tolerance),
    ];
  });
}

async function runActivations(path: string): Promise<Comparison[]> {
  const tensors = await readSafetensors(path);
  const { x, ...functions } = Object.fromEntries(tensors);
  const node = input("in", x!.shape);
  const outputs = Object.fromEntries(Object.keys(functions).map((name) => [name, named(name)(node)]));
  const results = await evaluate(outputs, { in: x! });
  return Object.entries(functions).map(([name, theirs]) =>
    compare(name, results[name]!.data as Float32Array, theirs.data as Float32Array, {
      absolute: 2e-5,
      relative: 1e-5,
    }),
  );
}

function named(name: string): (x: Tensor) => Tensor {
  return activation(name === "gelu_tanh" ? "gelu_pytorch_tanh" : name);
}

async function runTimesteps({ cases }: TimestepsFile): Promise<Comparison[]> {
  const feeds: Record<string, HostTensor> = {};
  const outputs: Record<string, Tensor> = {};
  cases.forEach((entry, i) => {
    const t = float32([entry.timesteps.length], [...entry.timesteps]);
    feeds[`t${i}`] = t;
    outputs[`case${i}`] = sinusoids(input(`t${i}`, t.shape), entry.num_channels, {
      flipSinToCos: entry.flip_sin_to_cos,
      frequencyShift: entry.downscale_freq_shift,
      scale: entry.scale,
    });
  });
  const results = await evaluate(outputs, feeds);
  return cases.map((entry, i) => {
    // float32 cannot hold t·frequency of large t more exactly than this.
    const large = entry.timesteps.some((step) => step * (entry.scale ?? 1) > 100);
    const ours = results[`case${i}`]!.data as Float32Array;
    return compare(`case${i}`, ours, entry.values, { absolute: large ? 2e-4 : 2e-5 });
  });
}

async function evaluate(
  outputs: Record<string, Tensor>,
  feeds: Record<string, HostTensor>,
  bind?: ReturnType<typeof bindWeights>,
): Promise<Record<string, HostTensor>> {
  const graph = toOnnx(outputs, { bind, target: inferenceTarget() });
  const session = await openSession(graph.bytes, { threads: 1 });
  try {
    return await session.run(Object.fromEntries(Object.keys(graph.inputs).map((name) => [name, feeds[name]!])));
  } finally {
    await session.close();
  }
}

function asFloat(tensor: HostTensor): HostTensor {
  if (tensor.dtype === "float32") return tensor;
  return float32(tensor.shape, Float32Array.from(tensor.data as ArrayLike<number | bigint>, Number));
}
