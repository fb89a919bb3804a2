import type { HostTensor } from "../core/host-tensor.ts";
import type { Random } from "../core/random.ts";
import { type BatchPosition, type LatentDataset, latentBatches } from "../data/index.ts";
import { flowPath, offsetNoise } from "../diffusion/index.ts";
import { add, input, mul, sub, type Tensor } from "../graph/index.ts";
import { diagonalGaussian, initialize } from "../models/index.ts";
import { type Condition, withDropout } from "./condition.ts";
import { conditionedNetwork, DENOISERS, type Denoiser } from "./denoisers.ts";
import { scheduleOf, weightingOf } from "./noise-fields.ts";
import { diffusionLoss, drawTimesteps, type Objective, timestepsInput } from "./objective.ts";
import type { RunOptions } from "./run-options.ts";
import type { TaskFeeds, TrainingTask } from "./task.ts";
import type { DenoiserStage } from "./text-to-image-recipe.ts";

/** Latents with captions, what turns captions into conditions, and the network that is to learn. */
export interface LatentDenoising {
  readonly latents: LatentDataset;
  readonly condition: Condition;
  readonly denoiser: Denoiser;
}

/** The denoiser that a stage asks for, on latents of a set. */
export function denoiserFor(stage: DenoiserStage, latents: LatentDataset, condition: Condition): Denoiser {
  const { network, channels, layers, attentionAt, middleAttention, headWidth, patch, width, depth } = stage;
  const sample = [latents.channels, latents.height, latents.width] as const;
  const shared = { sample, condition: condition.shape };
  if (network !== "unet") return DENOISERS[network]({ ...shared, patch, width, depth });
  return DENOISERS.unet({ ...shared, channels, layers, attentionAt, middleAttention, headWidth });
}

/** What a stage trains its network for. */
export function objectiveOf(stage: DenoiserStage): Objective {
  const { predict, timesteps } = stage;
  if (predict === "flow") return { schedule: flowPath({ steps: timesteps }), predict };
  return { schedule: scheduleOf(stage), predict, weighting: weightingOf(stage) };
}

/**
 * Latent diffusion (Rombach et al. 2022, eq. 2 and 3): the denoiser learns on z = scaling·(μ + σ·ε′ − shift), where μ and
 * σ are what the autoencoder says of a picture and ε′ is drawn anew each time, under the picture's caption. Everything
 * that the condition trains learns with it.
 *
 * @param parts the pictures' preview and the folder to write, which are made of all that a text-to-image system has
 */
export function latentDenoisingTask(
  options: RunOptions & DenoiserStage,
  { latents, condition, denoiser }: LatentDenoising,
  parts: Pick<TrainingTask, "preview" | "write">,
): TrainingTask {
  const network = conditionedNetwork(denoiser, condition);
  const objective = objectiveOf(options);
  const { name, count, channels, height, width, captions = [] } = latents;
  const sample = [channels, height, width];
  return {
    data: {
      name,
      count,
      warnings: condition.warnings(captions.flat()),
      fingerprint: () => latents.fingerprint,
    },
    network,
    start: (random) => initialize(network, random),
    lossOf(samples) {
      const states = condition.states(samples);
      return diffusionLoss((x, timesteps) => denoiser.call(x, timesteps, states), objective, {
        x0: sampledLatent(latents, samples),
        noise: input("noise", [samples, ...sample]),
        timesteps: timestepsInput(objective, samples),
      });
    },
    feeds: (random, from) => latentFeeds(options, { latents, condition, objective }, random, from),
    ...parts,
  };
}

/** z of inputs `moments` and `posteriorNoise`: the latent that the denoiser sees. */
export function sampledLatent(
  {
    channels,
    height,
    width,
    scalingFactor,
    shiftFactor,
  }: Pick<LatentDataset, "channels" | "height" | "width" | "scalingFactor" | "shiftFactor">,
  count: number,
): Tensor {
  const moments = input("moments", [count, 2 * channels, height, width]);
  const { mean, deviation } = diagonalGaussian(moments);
  const drawn = add(mean, mul(deviation, input("posteriorNoise", [count, channels, height, width])));
  return mul(sub(drawn, shiftFactor), scalingFactor);
}

/** Moments, noise, timesteps and captions, some of these replaced by the empty one. */
function latentFeeds(
  { batch, seed, times, offsetNoise: offset, captionDropout }: RunOptions & DenoiserStage,
  { latents, condition, objective }: { latents: LatentDataset; condition: Condition; objective: Objective },
  random: Random,
  from: BatchPosition | undefined,
): TaskFeeds {
  const data = latentBatches(latents, { batch, seed, from });
  const shape = [batch, latents.channels, latents.height, latents.width];
  const sampling = times === "uniform" ? undefined : { kind: times };
  return {
    next() {
      const { moments, captions } = data.next();
      const posteriorNoise = random.normal(shape);
      const noise = offsetNoise(random.normal(shape), offset, random);
      const timesteps = drawTimesteps(objective, batch, random, sampling);
      const given = withDropout(captions!, condition.none, captionDropout, random);
      const feeds: Record<string, HostTensor> = { moments, posteriorNoise, noise, timesteps };
      return { ...feeds, ...condition.feeds(given) };
    },
    position: data.position,
  };
}
