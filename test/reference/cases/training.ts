import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { float32, type HostTensor, zeros } from "../../../src/core/host-tensor.ts";
import type { NoiseSchedule } from "../../../src/diffusion/index.ts";
import { gradients, input, type Tensor, toOnnx } from "../../../src/graph/index.ts";
import { readSafetensors } from "../../../src/io/index.ts";
import {
  autoencoderKL,
  bindWeights,
  type Config,
  dit,
  matchWeights,
  unet2d,
  type Weighted,
} from "../../../src/models/index.ts";
import { namedParameters } from "../../../src/nn/module.ts";
import { adamwScalars, emaDecay, type FlatLayout, packed, unpacked } from "../../../src/optim/index.ts";
import { openSession, trainingTarget } from "../../../src/runtime/index.ts";
import { autoencoderLoss, codedByGaussian } from "../../../src/train/autoencoder-loss.ts";
import { diffusionLoss, type Objective } from "../../../src/train/objective.ts";
import { STATE, scalarFeeds, trainingStep } from "../../../src/train/step.ts";
import { type CaseKind, type Comparison, compare, type ReferenceCase } from "../case.ts";
import { scheduleOf } from "./process.ts";

type Tensors = ReadonlyMap<string, HostTensor>;
type Differences = Readonly<Record<string, number>>;

interface GradientNote {
  readonly file: string;
  readonly norm?: number;
  readonly difference_to_float64: Differences;
  readonly absmax: Differences;
}

interface TrainNote {
  readonly steps: number;
  readonly lr: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weight_decay: number;
  readonly clip_grad_norm: number;
  readonly losses: readonly number[];
  readonly gradient_norms_before_clipping: readonly number[];
  readonly ema_decay: number;
  readonly ema_diffusers_decay_used: readonly number[];
  readonly final_difference_to_float64: Differences;
  readonly ema_plain_difference_to_float64: Differences;
  readonly ema_diffusers_difference_to_float64: Differences;
}

interface DenoiserNote {
  readonly class: string;
  readonly scheduler: { readonly config: Config };
  readonly losses: Differences;
  readonly gradients: Readonly<Record<string, GradientNote>>;
  /** Parameters that the loss does not depend on. */
  readonly parameters_without_gradient?: readonly string[];
  readonly train?: TrainNote;
}

interface AutoencoderNote {
  readonly class: string;
  readonly loss: number;
  readonly l2: number;
  readonly kl: number;
  readonly kl_weight: number;
  readonly gradients: GradientNote;
}

/** The folder of one model: what was trained, and all its tensors. */
interface Model {
  readonly folder: string;
  readonly config: Config;
  readonly weights: Tensors;
  readonly io: Tensors;
}

/** Networks that are trained to denoise, by class: built and called as {@link diffusionLoss} calls them. */
const denoisers: Readonly<Record<string, (config: Config) => Weighted & Denoiser>> = {
  UNet2DModel: unet2d,
  DiTTransformer2DModel: (config) => {
    const network = dit(config);
    return Object.assign((x: Tensor, t: Tensor, labels?: Tensor) => network(x, t, labels!), { parts: network.parts });
  },
};
type Denoiser = (x: Tensor, timesteps: Tensor, labels?: Tensor) => Tensor;

/** Losses, gradients and training steps of whole networks (`training/`). */
export const training: CaseKind = {
  kind: "training",
  async discover(folder) {
    const root = join(folder, "training");
    const names = await readdir(root).catch(() => []);
    const found: ReferenceCase[] = [];
    for (const name of names.sort()) {
      const path = join(root, name);
      const text = await readFile(join(path, "training.json"), "utf8").catch(() => null);
      if (text !== null) found.push({ name: `training/${name}`, run: () => runFolder(path, JSON.parse(text)) });
    }
    return found;
  },
};

async function runFolder(folder: string, note: DenoiserNote | AutoencoderNote): Promise<Comparison[]> {
  const model: Model = {
    folder,
    config: JSON.parse(await readFile(join(folder, "config.json"), "utf8")),
    weights: await readSafetensors(join(folder, "diffusion_pytorch_model.safetensors")),
    io: await readSafetensors(join(folder, "io.safetensors")),
  };
  if ("kl" in note) return runAutoencoder(model, note);
  const build = denoisers[note.class];
  if (!build) throw new Error(`training of ${note.class} is not built yet`);
  const schedule = scheduleOf(note.scheduler.config);
  const comparisons: Comparison[] = [];
  for (const [key, gradient] of Object.entries(note.gradients)) {
    const network = build(model.config);
    const batch = batchInputs(model.io, "");
    const loss = lossOf(network, objectiveOf(key, schedule), batch);
    const { values, found } = await gradientsOf(network, loss, {}, model, feedsOf(model.io, ""));
    comparisons.push(compare(`${key}.loss`, [values.loss!], [note.losses[key]!], { relative: 1e-5 }));
    comparisons.push(...(await judgeGradients(`${key}.`, model, gradient, found, note.parameters_without_gradient)));
  }
  if (note.train) {
    for (const average of ["plain", "diffusers"] as const) {
      comparisons.push(...(await runSteps(model, build(model.config), schedule, note, note.train, average)));
    }
  }
  return comparisons;
}

// ---- losses and gradients ----

function objectiveOf(key: string, schedule: NoiseSchedule): Objective {
  const [prediction, weighting] = key.split("-") as [string, string | undefined];
  const predict = ({ epsilon: "noise", sample: "x0", v_prediction: "v" } as const)[prediction];
  const gamma = /^minsnr([\d.]+)$/.exec(weighting ?? "")?.[1];
  if (!predict || (weighting !== undefined && gamma === undefined)) throw new Error(`what is the loss "${key}"?`);
  return {
    schedule,
    predict,
    weighting: gamma === undefined ? { kind: "uniform" } : { kind: "min-snr", gamma: Number(gamma) },
  };
}

const BATCH = ["x0", "noise", "timesteps", "class_labels"];

function feedsOf(io: Tensors, prefix: string): Record<string, HostTensor> {
  return Object.fromEntries(
    BATCH.flatMap((name) => (io.has(prefix + name) ? [[name, io.get(prefix + name)!] as const] : [])),
  );
}

function batchInputs(io: Tensors, prefix: string): Record<string, Tensor> {
  const feeds = Object.entries(feedsOf(io, prefix));
  return Object.fromEntries(feeds.map(([name, { shape, dtype }]) => [name, input(name, shape, dtype)]));
}

function lossOf(network: Denoiser, objective: Objective, batch: Record<string, Tensor>): Tensor {
  const { x0, noise, timesteps, class_labels: labels } = batch as Record<string, Tensor>;
  return diffusionLoss((x, t) => network(x, t, labels), objective, { x0: x0!, noise: noise!, timesteps: timesteps! });
}

/** The loss, further scalars and the gradient of every trainable parameter of a network with the model's weights. */
async function gradientsOf(
  network: Weighted,
  loss: Tensor,
  others: Record<string, Tensor>,
  { weights }: Model,
  feeds: Record<string, HostTensor>,
) {
  const trainable = [...namedParameters(network)].filter(([, parameter]) => parameter.trainable);
  const wanted = gradients(
    loss,
    trainable.map(([, parameter]) => parameter.tensor),
  );
  const scalars = { loss, ...others };
  const outputs = Object.fromEntries(trainable.map(([name], i) => [`gradient ${name}`, wanted[i]!]));
  const graph = toOnnx(
    { ...scalars, ...outputs },
    { bind: bindWeights(network, weights), target: await trainingTarget("cpu") },
  );
  const session = await openSession(graph.bytes, { name: "gradients", threads: 1 });
  try {
    const results = await session.run(feeds);
    return {
      values: Object.fromEntries(Object.keys(scalars).map((name) => [name, Number(results[name]!.data[0])])),
      found: new Map(trainable.map(([name]) => [name, results[`gradient ${name}`]! as HostTensor<"float32">])),
    };
  } finally {
    await session.close();
  }
}

async function judgeGradients(
  prefix: string,
  { folder }: Model,
  note: GradientNote,
  found: ReadonlyMap<string, HostTensor<"float32">>,
  without: readonly string[] = [],
): Promise<Comparison[]> {
  const expected = new Map(await readSafetensors(join(folder, note.file)));
  for (const name of without) {
    const shape = found.get(name)?.shape;
    if (shape) expected.set(name, zeros("float32", shape));
  }
  const comparisons = [
    compare(`${prefix}names`, [symmetricDifference([...found.keys()], [...expected.keys()]).length], [0], {}),
  ];
  let squares = 0;
  for (const [name, theirs] of expected) {
    const ours = found.get(name);
    if (!ours) continue;
    for (const g of ours.data) squares += g * g;
    const rounding = 10 * (note.difference_to_float64[name] ?? 0);
    comparisons.push(
      compare(`${prefix}gradient ${name}`, ours.data, theirs.data as Float32Array, {
        ofMaximum: 1e-4,
        absolute: Math.max(1e-7, isNoise(note, name) ? rounding : 0),
      }),
    );
  }
  if (note.norm !== undefined) {
    comparisons.push(compare(`${prefix}norm`, [Math.sqrt(squares)], [note.norm], { relative: 1e-4 }));
  }
  return comparisons;
}

/** Whether a parameter's gradient is nothing but rounding: the true one is zero. */
function isNoise({ absmax, difference_to_float64: difference }: GradientNote, name: string): boolean {
  return (difference[name] ?? 0) >= 0.1 * (absmax[name] ?? Number.POSITIVE_INFINITY);
}

// ---- steps of the optimizer ----

async function runSteps(
  { folder, weights, io }: Model,
  network: Weighted & Denoiser,
  schedule: NoiseSchedule,
  { gradients: gradientNotes }: DenoiserNote,
  train: TrainNote,
  average: "plain" | "diffusers",
): Promise<Comparison[]> {
  const loss = lossOf(network, { schedule, predict: "noise" }, batchInputs(io, "train.0."));
  const optimizer = {
    beta1: train.betas[0],
    beta2: train.betas[1],
    epsilon: train.eps,
    weightDecay: train.weight_decay,
  };
  const graph = trainingStep(network, loss, {
    clip: train.clip_grad_norm,
    target: await trainingTarget("cpu"),
    ...optimizer,
  });
  const { layout } = graph;
  const decay = (n: number) => emaDecay(n, train.ema_decay, { warmup: average === "diffusers" });
  const losses: number[] = [];
  const norms: number[] = [];
  const session = await openSession(graph.model.bytes, { name: "training step", threads: 1, resident: graph.resident });
  try {
    const initial = initialVector(network, weights, layout);
    for (const name of STATE) {
      const zero = name === "mean" || name === "square";
      await session.write(`state.${name}`, float32([layout.size], zero ? new Float32Array(layout.size) : initial));
    }
    for (let n = 1; n <= train.steps; n++) {
      const scalars = { ...adamwScalars(n, train.lr, optimizer), averaging: 1 - decay(n) };
      const result = await session.run({ ...feedsOf(io, `train.${n - 1}.`), ...scalarFeeds(graph, scalars) });
      losses.push(Number(result.loss!.data[0]));
      norms.push(Number(result.gradientNorm!.data[0]));
    }
    const ours = async (name: string) => unpacked((await session.read(name)).data as Float32Array, layout);
    const noisy = (name: string) => Object.values(gradientNotes).some((note) => isNoise(note, name));
    const judge = async (what: string, file: string, state: string, differences: Differences) =>
      judgeParameters(what, await readSafetensors(join(folder, file)), await ours(state), differences, noisy, train.lr);
    return [
      compare(`train.losses (${average})`, losses, train.losses, { relative: 1e-5 }),
      compare(`train.norms (${average})`, norms, train.gradient_norms_before_clipping, { relative: 1e-4 }),
      ...(average === "plain"
        ? [
            ...(await judge("final", "final.safetensors", "state.parameters", train.final_difference_to_float64)),
            ...(await judge(
              "ema-plain",
              "ema-plain.safetensors",
              "state.average",
              train.ema_plain_difference_to_float64,
            )),
          ]
        : [
            compare(
              "ema-diffusers.decays",
              losses.map((_, i) => decay(i + 1)),
              train.ema_diffusers_decay_used,
              {
                absolute: 1e-7,
              },
            ),
            ...(await judge(
              "ema-diffusers",
              "ema-diffusers.safetensors",
              "state.average",
              train.ema_diffusers_difference_to_float64,
            )),
          ]),
    ];
  } finally {
    await session.close();
  }
}

function initialVector(network: Weighted, weights: Tensors, layout: FlatLayout): Float32Array {
  const matched = matchWeights(network, weights);
  const values = new Map<string, HostTensor>();
  for (const [name, { storedName }] of matched) values.set(name, weights.get(storedName)!);
  return packed(values, layout);
}

/** 2e-5, but no sharper than rounding is; Adam makes steps of up to lr out of a gradient that is only rounding. */
function judgeParameters(
  what: string,
  expected: Tensors,
  found: ReadonlyMap<string, HostTensor<"float32">>,
  differences: Differences,
  noisy: (name: string) => boolean,
  lr: number,
): Comparison[] {
  const unmatched = symmetricDifference([...found.keys()], [...expected.keys()]);
  return [
    compare(`${what}.names`, [unmatched.length], [0], {}),
    ...[...found].flatMap(([name, ours]) => {
      const theirs = expected.get(name);
      if (!theirs) return [];
      const absolute = Math.max(2e-5, 10 * (differences[name] ?? 0), noisy(name) ? 5 * lr : 0);
      return [compare(`${what}.${name}`, ours.data, theirs.data as Float32Array, { absolute })];
    }),
  ];
}

function symmetricDifference(a: readonly string[], b: readonly string[]): string[] {
  return [...a.filter((name) => !b.includes(name)), ...b.filter((name) => !a.includes(name))];
}

// ---- autoencoders ----

async function runAutoencoder(model: Model, note: AutoencoderNote): Promise<Comparison[]> {
  if (note.class !== "AutoencoderKL") throw new Error(`training of ${note.class} is not built yet`);
  const network = autoencoderKL(model.config);
  const image = input("image", model.io.get("image")!.shape);
  const noise = input("noise", model.io.get("noise")!.shape);
  const lastLayer = network.parts.decoder.parts.conv_out.parts.weight.tensor;
  const { loss, measures } = autoencoderLoss(
    image,
    codedByGaussian(network, image, noise, note.kl_weight),
    { reconstruction: "l2" },
    lastLayer,
  );
  const { reconstruction: l2, kl } = measures as Record<string, Tensor>;
  const feeds = { image: model.io.get("image")!, noise: model.io.get("noise")! };
  const { values, found } = await gradientsOf(network, loss, { l2: l2!, kl: kl! }, model, feeds);
  return [
    ...(["loss", "l2", "kl"] as const).map((name) => compare(name, [values[name]!], [note[name]], { relative: 1e-5 })),
    ...(await judgeGradients("", model, note.gradients, found)),
  ];
}
