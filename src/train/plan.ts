import { availableParallelism, totalmem } from "node:os";
import { join } from "node:path";
import { seeded } from "../core/random.ts";
import type { Dataset } from "../data/index.ts";
import { type GraphCost, graphCost } from "../graph/index.ts";
import { readProgress } from "./checkpoint.ts";
import { datasetOf } from "./dataset.ts";
import { imageDenoisingTask } from "./image-denoising.ts";
import { lossFor, networkFor, type TrainedNetwork } from "./network.ts";
import { type Recipe, type RecipeInput, readRecipe } from "./recipe.ts";
import { replicatedStep } from "./replicated-step.ts";
import { newestCheckpoint, runPaths } from "./run-folder.ts";
import { trainingStep } from "./step.ts";
import { replicasFor } from "./step-runner.ts";
import { openTrainer, requireSameData } from "./trainer.ts";

/** What a training run would take. Sizes are bytes, times seconds. */
export interface TrainingPlan {
  readonly recipe: Recipe;
  /** Numbers that are trained. */
  readonly parameters: number;
  readonly images: {
    readonly count: number;
    readonly channels: number;
    readonly height: number;
    readonly width: number;
    /** Classes the network is conditioned on; 0 for none. */
    readonly classes: number;
  };
  /** What the network sees of an image: [channels, height, width]. */
  readonly sample: readonly [number, number, number];
  readonly memory: MemoryEstimate;
  readonly time: TimeEstimate;
  /** Steps that the run folder's newest checkpoint has done already. */
  readonly done: number;
  /** Steps that are left, or as many of them as `minutes` allows. */
  readonly steps: number;
  /** How often every image is seen in the whole run, what is done already included. */
  readonly epochs: number;
  /** What to know before starting: about the data, and when memory will not do. */
  readonly warnings: readonly string[];
}

/** The largest resident memory of the process, and what it consists of. See {@link memoryEstimate}. */
export interface MemoryEstimate {
  readonly peak: number;
  /** Node and ONNX Runtime themselves. */
  readonly fixed: number;
  readonly images: number;
  /** Parameters, moments and average, their next values, and their copies while a checkpoint is written. */
  readonly state: number;
  /** Intermediate results of a step. */
  readonly activations: number;
}

export interface TimeEstimate {
  readonly perStep: number;
  readonly imagesPerSecond: number;
  /** For the steps that are left. */
  readonly total: number;
  /** How many steps were measured, and with how many images each. */
  readonly measured: { readonly steps: number; readonly images: number };
}

/** Node and ONNX Runtime before a step is loaded, and each session's thread (measured). */
const FIXED_BYTES = 160e6;
const SESSION_BYTES = 70e6;
/** What ONNX Runtime's arena takes for each byte that is alive at the peak (measured, see train-plan.slow.test.ts). */
const ARENA_FACTOR = 1.65;
/** Vectors of all parameters that a session keeps besides what its step computes: parameters, moments and average. */
const SESSION_VECTORS = 4;
/** Vectors on the main thread: the start, and copies while a checkpoint and the model are written. */
const MAIN_VECTORS = 5;
/** Work and intermediate results of one measured step at most: a second or a few on two cores. */
const PROBE_FLOPS = 60e9;
const PROBE_BYTES = 300e6;
/** Images that each session sees at least. */
const PROBE_IMAGES = 4;
/** Measuring ends after so many steps, or when it has taken so long. */
const PROBE_STEPS = 3;
const PROBE_SECONDS = 6;

/**
 * Says what a training run would take, without taking a step of it and without writing a file. Everything that `train`
 * checks before its first step is checked, and the time is that of a few steps of the real graph on random pictures,
 * with a smaller batch where the real one would take long.
 *
 * @param options.dataset data that is already open; otherwise the recipe's is decoded
 * @throws UserError for a recipe, data or run folder that `train` would refuse
 */
export async function planTraining(
  input: RecipeInput,
  options: { readonly signal?: AbortSignal; readonly dataset?: Dataset } = {},
): Promise<TrainingPlan> {
  const recipe = readRecipe(input);
  const dataset = options.dataset ?? (await datasetOf(recipe, { signal: options.signal, cache: false }));
  const trained = networkFor(recipe, dataset);
  const newest = await newestCheckpoint(recipe, readRecipe);
  const progress = newest ? await readProgress(join(runPaths(recipe.run).checkpoints, newest)) : undefined;
  if (progress) requireSameData(progress, imageDenoisingTask(recipe, dataset, trained).data);
  const sessions = replicasFor({ ...recipe, threads: recipe.threads ?? availableParallelism() });
  // Images that a session sees at once: a batch is shared by sessions or cut into parts, not both.
  const part = recipe.batch / recipe.accumulate / sessions;
  const loss = lossFor(recipe, dataset, trained, part);
  const step =
    sessions > 1
      ? replicatedStep(trained.network, loss, sessions, recipe)
      : trainingStep(trained.network, loss, recipe);
  const cost = graphCost(Object.values(step.outputs));
  const parameters = step.layout.size;
  const memory = memoryEstimate({ parameters, cost, sessions, images: dataset.images.length });

  const share = Math.min(1, PROBE_FLOPS / (sessions * cost.flops), PROBE_BYTES / (sessions * cost.peakBytes));
  // As many sessions take part in the measured steps: they need some images each.
  const images = sessions * Math.max(Math.min(part, PROBE_IMAGES), Math.floor(part * share));
  const measured = await measure({ ...recipe, batch: images, accumulate: 1 }, dataset, trained, options.signal);
  const perStep = (measured.seconds * recipe.batch) / images;
  const done = progress?.step ?? 0;
  const left = Math.max(0, recipe.steps - done);
  const secondsLeft = Math.max(0, (recipe.minutes ?? Number.POSITIVE_INFINITY) * 60 - (progress?.seconds ?? 0));
  const steps = Math.min(left, Math.ceil(secondsLeft / perStep));
  return {
    recipe,
    parameters,
    images: {
      count: dataset.count,
      channels: dataset.channels,
      height: dataset.height,
      width: dataset.width,
      classes: trained.classes,
    },
    sample: trained.sample,
    memory,
    time: {
      perStep,
      imagesPerSecond: recipe.batch / perStep,
      total: steps * perStep,
      measured: { steps: measured.steps, images },
    },
    done,
    steps,
    epochs: ((done + steps) * recipe.batch) / dataset.count,
    warnings: [...dataset.warnings, ...memoryWarnings(memory, recipe)],
  };
}

/**
 * The peak of resident memory as the sum of
 * - what Node and ONNX Runtime take before anything is loaded, and a thread for each session,
 * - the images, a byte a sample,
 * - vectors of 4 bytes a parameter: in each session parameters, both moments and the average; where several share a
 *   batch, two gradients of each; on the main thread what is copied while a checkpoint is written,
 * - for each session the intermediate results alive at the step's worst moment, which `graphCost` counts, times what
 *   the memory arena of ONNX Runtime adds by the sizes it rounds to.
 */
export function memoryEstimate({
  parameters,
  cost,
  sessions,
  images,
}: {
  readonly parameters: number;
  readonly cost: GraphCost;
  readonly sessions: number;
  readonly images: number;
}): MemoryEstimate {
  const gradients = sessions > 1 ? 2 * sessions : 0;
  const state = (sessions * SESSION_VECTORS + gradients + MAIN_VECTORS) * 4 * parameters;
  const activations = Math.round(sessions * ARENA_FACTOR * cost.peakBytes);
  const fixed = FIXED_BYTES + sessions * SESSION_BYTES;
  return { peak: fixed + images + state + activations, fixed, images, state, activations };
}

/** The median time of a few steps on random images. */
async function measure(recipe: Recipe, like: Dataset, trained: TrainedNetwork, signal: AbortSignal | undefined) {
  const images = randomImages(like, recipe.batch, trained.classes);
  const trainer = await openTrainer(recipe, imageDenoisingTask(recipe, images, trained));
  try {
    // The first run also allocates.
    await trainer.next();
    const times: number[] = [];
    const end = performance.now() + 1000 * PROBE_SECONDS;
    do {
      signal?.throwIfAborted();
      times.push((await trainer.next()).seconds);
    } while (times.length < PROBE_STEPS && performance.now() < end);
    times.sort((a, b) => a - b);
    return { seconds: times[Math.floor(times.length / 2)]!, steps: times.length };
  } finally {
    await trainer.close();
  }
}

function randomImages(like: Dataset, count: number, classes: number): Dataset {
  const { channels, height, width } = like;
  const bytes = seeded(0).uniform([count * channels * height * width], { high: 256 }).data;
  return {
    name: "random images",
    images: Uint8Array.from(bytes),
    count,
    channels,
    height,
    width,
    ...(classes > 0 ? { labels: Int32Array.from({ length: count }, (_, i) => i % classes) } : {}),
    flip: false,
    warnings: [],
  };
}

function memoryWarnings({ peak }: MemoryEstimate, { accumulate }: Recipe): string[] {
  const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`;
  if (peak < 0.9 * totalmem()) return [];
  return [
    `A step needs about ${gigabytes(peak)} of memory and this machine has ${gigabytes(totalmem())}. Cut the batch into more parts (accumulate ${2 * accumulate}), or take a smaller batch, fewer channels or patches.`,
  ];
}
