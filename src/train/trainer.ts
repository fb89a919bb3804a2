import { availableParallelism } from "node:os";
import { cutBatch } from "../core/batch-parts.ts";
import { UserError } from "../core/errors.ts";
import { type HostTensor, sizeOf } from "../core/host-tensor.ts";
import { type Random, type RandomState, restored, seeded } from "../core/random.ts";
import type { BatchPosition } from "../data/index.ts";
import { namedParameters } from "../nn/module.ts";
import { adamwScalars, emaDecay, type FlatLayout, learningRate, packed, unpacked } from "../optim/index.ts";
import { availableDevice, type Device } from "../runtime/index.ts";
import type { Checkpoint, Progress } from "./checkpoint.ts";
import type { RunOptions } from "./run-options.ts";
import { STATE, type StateName } from "./step.ts";
import { openStepRunner, type StepResult } from "./step-runner.ts";
import type { TaskData, TaskFeeds, TrainedWeights, TrainingTask } from "./task.ts";

/** What one step measured. */
export interface StepMetrics extends Omit<StepResult, "measures"> {
  /** Steps done, this one included. */
  readonly step: number;
  readonly learningRate: number;
  /** Wall-clock seconds of the step, data included. */
  readonly seconds: number;
  /** What else the task's loss says, by name. */
  readonly measures?: Readonly<Record<string, number>>;
}

/** A run's arithmetic: takes steps, gives checkpoints and averaged weights. Files and progress are others' business. */
export interface Trainer extends TrainedWeights {
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
 * Opens the training step of a task, from the beginning or from a checkpoint.
 * @throws UserError where the checkpoint belongs to another network or other data
 */
export async function openTrainer(options: RunOptions, task: TrainingTask, from?: Checkpoint): Promise<Trainer> {
  const data = from ? requireSameData(from.progress, task.data) : task.data.fingerprint();
  const random = from ? restored(from.progress.random) : seeded(options.seed);
  const start = from ? undefined : task.start(random);
  const frozen = frozenParameters(task, from, start);
  const device = await availableDevice(options.device);
  const { batch, accumulate, clip, beta1, beta2, epsilon, weightDecay } = options;
  const runner = await openStepRunner({
    network: task.network,
    lossOf: task.lossOf,
    ...{ batch, accumulate, clip, beta1, beta2, epsilon, weightDecay, frozen, fixed: task.fixed },
    averaged: task.averaged,
    device: device.name,
    threads: options.threads ?? availableParallelism(),
  });
  const { layout } = runner;
  try {
    for (const name of STATE) await runner.write(name, startOf(name, layout, from, start));
  } catch (error) {
    await runner.close();
    throw error;
  }

  const feeds = task.feeds(random, from?.progress.position);
  let done = from?.progress.step ?? 0;
  let spent = from?.progress.seconds ?? 0;
  const prepare = (step: number) => prepareRuns(runner.parts, feeds, step, random);
  let after: Prepared["after"] = { position: feeds.position(), random: random.state() };
  let prepared: Prepared | undefined;
  const rate = { rate: options.lr, kind: options.lrSchedule, warmup: options.warmup, steps: options.steps };

  return {
    layout,
    frozen,
    device,
    step: () => done,
    async next() {
      const started = performance.now();
      const current = prepared ?? prepare(done + 1);
      const lr = learningRate(done, rate, options.minutes === undefined ? 0 : spent / (60 * options.minutes));
      const decay = emaDecay(done + 1, options.ema, { warmup: options.emaWarmup });
      const scalars = { ...adamwScalars(done + 1, lr, options), averaging: 1 - decay };
      const stepped = runner.step(current.runs, scalars);
      // The next batch is put together while the workers compute this one.
      prepared = prepare(done + 2);
      const { loss, gradientNorm, measures } = await stepped;
      done++;
      after = current.after;
      const seconds = (performance.now() - started) / 1000;
      spent += seconds;
      const more = Object.keys(measures).length > 0 ? { measures } : {};
      return { step: done, loss, gradientNorm, learningRate: lr, seconds, ...more };
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
export function requireSameData({ data }: Pick<Progress, "data">, { name, fingerprint }: TaskData): string {
  if (data === fingerprint()) return data;
  throw new UserError(`The run was started on other data than ${name}.`, {
    hint: "Give the data it was started with, or another run folder.",
    field: "data",
  });
}

interface Prepared {
  readonly runs: readonly Record<string, HostTensor>[];
  /** Where data and random numbers stand once this batch has been used. */
  readonly after: { readonly position: BatchPosition; readonly random: RandomState };
}

/** Draws what one optimizer step is fed and cuts it into parts, so that their number changes only the memory needed. */
function prepareRuns(parts: number, feeds: TaskFeeds, step: number, random: Random): Prepared {
  const cut = Object.entries(feeds.next(step)).map(([name, tensor]) => {
    const pieces = tensor.shape.length === 0 ? Array<HostTensor>(parts).fill(tensor) : cutBatch(tensor, parts);
    return [name, pieces] as const;
  });
  const runs = Array.from({ length: parts }, (_, i) =>
    Object.fromEntries(cut.map(([name, tensors]) => [name, tensors[i]!])),
  );
  return { runs, after: { position: feeds.position(), random: random.state() } };
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
  { network }: TrainingTask,
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
