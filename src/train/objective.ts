import { type HostTensor, hostTensor, sizeOf } from "../core/host-tensor.ts";
import type { Random } from "../core/random.ts";
import {
  type FlowPath,
  isFlowPath,
  type LossWeighting,
  levelOfAlphaBar,
  lossWeights,
  type NoiseSchedule,
  sampleTimesteps,
  type TimestepSampling,
  target,
} from "../diffusion/index.ts";
import { add, cast, gather, input, mean, mul, reshape, sub, sumSquares, type Tensor, values } from "../graph/index.ts";

/** What a network is trained for on a noise schedule. */
export interface ScheduleObjective {
  readonly schedule: NoiseSchedule;
  readonly predict: "noise" | "x0" | "v";
  readonly weighting?: LossWeighting;
}

/** Flow matching: the velocity ε − x₀ of the straight path. What is trained most is a matter of how times are drawn. */
export interface FlowObjective {
  readonly schedule: FlowPath;
  readonly predict: "flow";
}

/** What a denoising network is trained for. */
export type Objective = ScheduleObjective | FlowObjective;

/** A batch as the loss sees it. */
export interface NoisyBatch {
  /** Images in [−1, 1] or latents, [n, c, h, w]. */
  readonly x0: Tensor;
  /** Standard normal noise of the same shape, perhaps with an offset (`offsetNoise`). */
  readonly noise: Tensor;
  /** int64 [n], each from 0 to T − 1; for flow matching float32 [n] from 0 to T. See {@link timestepsInput}. */
  readonly timesteps: Tensor;
}

/** Bytes 0…255 as numbers −1…1. */
export function normalizedPixels(images: Tensor): Tensor {
  return sub(mul(cast(images, "float32"), 1 / 127.5), 1);
}

/** The graph input for the timesteps of `count` images, of the type that the objective's are. */
export function timestepsInput({ schedule }: Pick<Objective, "schedule">, count: number, name = "timesteps"): Tensor {
  return input(name, [count], isFlowPath(schedule) ? "float32" : "int64");
}

/** Draws what that input is fed. */
export function drawTimesteps(
  { schedule }: Pick<Objective, "schedule">,
  count: number,
  random: Random,
  sampling?: TimestepSampling,
): HostTensor<"int64"> | HostTensor<"float32"> {
  const drawn = sampleTimesteps(schedule, count, random, sampling);
  return drawn instanceof Float32Array
    ? hostTensor("float32", [count], drawn)
    : hostTensor("int64", [count], BigInt64Array.from(drawn, BigInt));
}

/** The network of a loss: called with x_t [n, c, h, w] and the timesteps as float32 [n]; conditions are its own business. */
export type LossNetwork = (x: Tensor, timesteps: Tensor) => Tensor;

/**
 * The denoising loss. On a noise schedule (Ho et al. 2020, eq. 14, for ε) the network is asked at
 * x_t = √ᾱ_t·x₀ + √(1 − ᾱ_t)·ε for ε, x₀ or v = √ᾱ_t·ε − √(1 − ᾱ_t)·x₀, and the squared errors are averaged, each image
 * with the weight of its timestep. For flow matching it is asked at x_s = (1 − s)·x₀ + s·ε for ε − x₀ (Liu et al. 2023,
 * eq. 1; Esser et al. 2024, eq. 13), all with equal weight.
 *
 * @returns a scalar
 */
export function diffusionLoss(network: LossNetwork, objective: Objective, batch: NoisyBatch): Tensor {
  const errors = errorsOf(network, objective, batch);
  return errors.weights ? mean(perImage(errors)) : mean(mul(errors.error, errors.error));
}

/** The same for each image, [n]: their mean is {@link diffusionLoss}. */
export function imageLosses(network: LossNetwork, objective: Objective, batch: NoisyBatch): Tensor {
  return perImage(errorsOf(network, objective, batch));
}

interface Errors {
  /** What the network is wrong by, [n, c, h, w]. */
  readonly error: Tensor;
  /** The weight of each image's timestep, [n]; all equal where there are none. */
  readonly weights?: Tensor;
}

function errorsOf(network: LossNetwork, objective: Objective, batch: NoisyBatch): Errors {
  return objective.predict === "flow" ? flowErrors(network, objective, batch) : noiseErrors(network, objective, batch);
}

function perImage({ error, weights }: Errors): Tensor {
  const squares = mul(sumSquares(error, [1, 2, 3]), error.shape[0]! / sizeOf(error.shape));
  return weights ? mul(squares, weights) : squares;
}

function flowErrors(network: LossNetwork, { schedule }: FlowObjective, { x0, noise, timesteps }: NoisyBatch): Errors {
  const n = x0.shape[0]!;
  const sigma = reshape(mul(timesteps, 1 / schedule.steps), [n, 1, 1, 1]);
  const velocity = sub(noise, x0);
  return { error: sub(network(add(x0, mul(velocity, sigma)), timesteps), velocity) };
}

function noiseErrors(
  network: LossNetwork,
  { schedule, predict, weighting = { kind: "uniform" } }: ScheduleObjective,
  { x0, noise, timesteps }: NoisyBatch,
): Errors {
  const n = x0.shape[0]!;
  const levels = Array.from(schedule.alphasCumprod, (alphaBar, t) => levelOfAlphaBar(alphaBar, t));
  const ofTimestep = (table: readonly number[] | Float32Array) =>
    reshape(gather(values([table.length], table), timesteps), [n, 1, 1, 1]);
  const alpha = ofTimestep(levels.map((level) => level.alpha));
  const sigma = ofTimestep(levels.map((level) => level.sigma));
  const noisy = add(mul(x0, alpha), mul(noise, sigma));
  const output = network(noisy, cast(timesteps, "float32"));
  const error = sub(output, wanted());
  if (weighting.kind === "uniform") return { error };
  return { error, weights: reshape(ofTimestep(lossWeights(schedule, predict, weighting)), [n]) };

  function wanted(): Tensor {
    if (predict === "noise") return noise;
    if (predict === "x0") return x0;
    const coefficients = levels.map((level) => target(predict, level));
    return add(
      mul(x0, ofTimestep(coefficients.map(([ofX0]) => ofX0))),
      mul(noise, ofTimestep(coefficients.map(([, ofNoise]) => ofNoise))),
    );
  }
}
