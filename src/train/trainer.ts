import { availableParallelism } from "node:os";
import { cutBatch } from "../core/batch-parts.ts";
import { UserError } from "../core/errors.ts";
import { type HostTensor, hostTensor, sizeOf } from "../core/host-tensor.ts";
import { type Random, type RandomState, restored, seeded } from "../core/random.ts";
import { type Batches, type BatchPosition, batches, type Dataset, fingerprint } from "../data/index.ts";
import { sampleTimesteps } from "../diffusion/index.ts";
import { initialize } from "../models/index.ts";
import { namedParameters } from "../nn/module.ts";
import { adamwScalars, emaDecay, type FlatLayout, learningRate, packed, unpacked } from "../optim/index.ts";
import { availableDevice, type Device } from "../runtime/index.ts";
import type { Checkpoint, Progress } from "./checkpoint.ts";
import { lossFor, type TrainedNetwork } from "./network.ts";
import type { Recipe } from "./recipe.ts";
import { STATE, type StateName } from "./step.ts";
import { openStepRunner } from "./step-runner.ts";

/** What one step measured. */
export interface StepMetrics {
  /** Steps done, this one included. */
  readonly step: number;
  readonly loss: number;
  /** Norm of the gradient before clipping. */
  readonly gradientNorm: number;
  readonly learningRate: number;
  /** Wall-clock seconds of the step, data included. */
  readonly seconds: number;
}

/** A run's arithmetic: takes steps, gives checkpoints and averaged weights. Files and progress are others' business. */
export interface Trainer {
  readonly layout: FlatLayout;
  /** Parameters that are not trained, by name. */
  readonly frozen: ReadonlyMap<string, HostTensor<"float32">>;
  /** What it computes on, and why. */
  readonly device: Device;
  /** Steps done. */
  step(): number;
  /** Takes one step. */
  next(): Promise<StepMetrics>;
  checkpoint(): Promise<Checkpoint>;
  /** The moving average of the parameters as one vector. */
  average(): Promise<Float32Array>;
  close(): Promise<void>;
}

/**
 * Opens the training step of a recipe, from the beginning or from a checkpoint.
 * @throws UserError where the checkpoint belongs to another network or other data
 */
export async function openTrainer(
  recipe: Recipe,
  dataset: Dataset,
  trained: TrainedNetwork,
  from?: Checkpoint,
): Promise<Trainer> {
  const data = from ? requireSameData(from.progress, dataset) : fingerprint(dataset);
  const random = from ? restored(from.progress.random) : seeded(recipe.seed);
  const start = from ? undefined : initialize(trained.network, random);
  const frozen = frozenParameters(trained, from, start);
  const device = await availableDevice(recipe.device);
  const runner = await openStepRunner({
    network: trained.network,
    lossOf: (count) => lossFor(recipe, dataset, trained, count),
    batch: recipe.batch,
    accumulate: recipe.accumulate,
    clip: recipe.clip,
    beta1: recipe.beta1,
    beta2: recipe.beta2,
    epsilon: recipe.epsilon,
    weightDecay: recipe.weightDecay,
    frozen,
    device: device.name,
    threads: recipe.threads ?? availableParallelism(),
  });
  const { layout } = runner;
  try {
    for (const name of STATE) await runner.write(name, startOf(name, layout, from, start));
  } catch (error) {
    await runner.close();
    throw error;
  }

  const images = batches(dataset, { batch: recipe.batch, seed: recipe.seed, from: from?.progress.position });
  const dropping = { classes: trained.classes, nullClass: trained.nullClass, share: recipe.classDropout };
  const prepare = () => prepareRuns(runner.parts, images, random, trained, dropping);
  let done = from?.progress.step ?? 0;
  let spent = from?.progress.seconds ?? 0;
  let after: Prepared["after"] = { position: images.position(), random: random.state() };
  let prepared: Prepared | undefined;
  const rate = { rate: recipe.lr, kind: recipe.lrSchedule, warmup: recipe.warmup, steps: recipe.steps };

  return {
    layout,
    frozen,
    device,
    step: () => done,
    async next() {
      const started = performance.now();
      const current = prepared ?? prepare();
      const lr = learningRate(done, rate, recipe.minutes === undefined ? 0 : spent / (60 * recipe.minutes));
      const decay = emaDecay(done + 1, recipe.ema, { warmup: recipe.emaWarmup });
      const scalars = { ...adamwScalars(done + 1, lr, recipe), averaging: 1 - decay };
      const stepped = runner.step(current.runs, scalars);
      // The next batch is put together while the workers compute this one.
      prepared = prepare();
      const { loss, gradientNorm } = await stepped;
      done++;
      after = current.after;
      const seconds = (performance.now() - started) / 1000;
      spent += seconds;
      return { step: done, loss, gradientNorm, learningRate: lr, seconds };
    },
    async checkpoint() {
      const tensors = new Map<string, HostTensor<"float32">>();
      for (const name of STATE) {
        for (const [parameter, value] of unpacked(await runner.read(name), layout)) {
          tensors.set(`${name}/${parameter}`, value);
        }
      }
      for (const [name, value] of frozen) tensors.set(`frozen/${name}`, value);
      const progress: Progress = { step: done, seconds: spent, ...after, data };
      return { progress, tensors };
    },
    average: () => runner.read("average"),
    close: () => runner.close(),
  };
}

/**
 * Checks that a run goes on with the data it was started on.
 * @returns the data's fingerprint
 */
export function requireSameData({ data }: Pick<Progress, "data">, dataset: Dataset): string {
  if (data === fingerprint(dataset)) return data;
  throw new UserError(`The run was started on other data than ${dataset.name}.`, {
    hint: "Give the data it was started with, or another run folder.",
    field: "data",
  });
}

interface Prepared {
  readonly runs: readonly Record<string, HostTensor>[];
  /** Where data and random numbers stand once this batch has been used. */
  readonly after: { readonly position: BatchPosition; readonly random: RandomState };
}

/**
 * Draws what one optimizer step is fed: pictures, noise, timesteps and labels; then cuts it into parts, so that their
 * number changes nothing but the memory needed.
 */
function prepareRuns(
  parts: number,
  data: Batches,
  random: Random,
  { schedule, sample }: TrainedNetwork,
  { classes, nullClass, share }: { classes: number; nullClass?: number; share: number },
): Prepared {
  const { images, labels } = data.next();
  const count = images.shape[0]!;
  const feeds: Record<string, HostTensor> = {
    images,
    noise: random.normal([count, ...sample]),
    timesteps: hostTensor("int64", [count], BigInt64Array.from(sampleTimesteps(schedule, count, random), BigInt)),
  };
  if (classes > 0) {
    const dropped = nullClass === undefined ? undefined : random.bernoulli(share, [count]).data;
    const kept = labels!.data.map((label, i) => (dropped?.[i] ? BigInt(nullClass!) : label));
    feeds.labels = hostTensor("int64", [count], kept);
  }
  const cut = Object.entries(feeds).map(([name, tensor]) => [name, cutBatch(tensor, parts)] as const);
  const runs = Array.from({ length: parts }, (_, i) =>
    Object.fromEntries(cut.map(([name, tensors]) => [name, tensors[i]!])),
  );
  return { runs, after: { position: data.position(), random: random.state() } };
}

/** A vector of the state as the run begins: from its checkpoint, or as a network starts. */
function startOf(
  name: StateName,
  layout: FlatLayout,
  from: Checkpoint | undefined,
  start: ReadonlyMap<string, HostTensor> | undefined,
): Float32Array {
  if (!from) return name === "mean" || name === "square" ? new Float32Array(layout.size) : packed(start!, layout);
  const parts = new Map(
    layout.entries.map((entry) => {
      const value = from.tensors.get(`${name}/${entry.name}`);
      if (value?.data.length !== sizeOf(entry.shape)) {
        throw new UserError(`The run's checkpoint is of another network: it has no ${entry.name} [${entry.shape}].`, {
          hint: "Continue with the recipe it was started with (recipe.json in the run folder), or start another run.",
        });
      }
      return [entry.name, value] as const;
    }),
  );
  return packed(parts, layout);
}

function frozenParameters(
  { network }: TrainedNetwork,
  from: Checkpoint | undefined,
  start: ReadonlyMap<string, HostTensor<"float32">> | undefined,
): Map<string, HostTensor<"float32">> {
  const frozen = new Map<string, HostTensor<"float32">>();
  for (const [name, parameter] of namedParameters(network)) {
    if (parameter.trainable) continue;
    const value = from ? from.tensors.get(`frozen/${name}`) : start!.get(name);
    if (value) frozen.set(name, value);
  }
  return frozen;
}
