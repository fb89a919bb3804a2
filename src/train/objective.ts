import { sizeOf } from "../core/host-tensor.ts";
import { type LossWeighting, levelOfAlphaBar, lossWeights, type NoiseSchedule, target } from "../diffusion/index.ts";
import { add, cast, gather, mean, mul, reshape, sub, sumSquares, type Tensor, values } from "../graph/index.ts";

/** What a denoising network is trained for. */
export interface Objective {
  readonly schedule: NoiseSchedule;
  readonly predict: "noise" | "x0" | "v";
  readonly weighting?: LossWeighting;
}

/** A batch as the loss sees it. */
export interface NoisyBatch {
  /** Images in [−1, 1], [n, c, h, w]. */
  readonly x0: Tensor;
  /** Standard normal noise of the same shape. */
  readonly noise: Tensor;
  /** int64 [n], each from 0 to T − 1. */
  readonly timesteps: Tensor;
}

/** Bytes 0…255 as numbers −1…1. */
export function normalizedPixels(images: Tensor): Tensor {
  return sub(mul(cast(images, "float32"), 1 / 127.5), 1);
}

/**
 * The denoising loss (Ho et al. 2020, eq. 14, for ε): the network is asked at x_t = √ᾱ_t·x₀ + √(1 − ᾱ_t)·ε for ε, x₀ or
 * v = √ᾱ_t·ε − √(1 − ᾱ_t)·x₀, and the squared errors are averaged, each image with the weight of its timestep.
 *
 * @param network called with x_t [n, c, h, w] and the timesteps as float32 [n]; labels and the like are its own business
 * @returns a scalar
 */
export function diffusionLoss(
  network: (x: Tensor, timesteps: Tensor) => Tensor,
  { schedule, predict, weighting = { kind: "uniform" } }: Objective,
  { x0, noise, timesteps }: NoisyBatch,
): Tensor {
  const n = x0.shape[0]!;
  const levels = Array.from(schedule.alphasCumprod, (alphaBar, t) => levelOfAlphaBar(alphaBar, t));
  const ofTimestep = (table: readonly number[] | Float32Array) =>
    reshape(gather(values([table.length], table), timesteps), [n, 1, 1, 1]);
  const alpha = ofTimestep(levels.map((level) => level.alpha));
  const sigma = ofTimestep(levels.map((level) => level.sigma));
  const noisy = add(mul(x0, alpha), mul(noise, sigma));
  const output = network(noisy, cast(timesteps, "float32"));
  const error = sub(output, wanted());
  if (weighting.kind === "uniform") return mean(mul(error, error));
  const perImage = mul(sumSquares(error, [1, 2, 3]), n / sizeOf(x0.shape));
  const weights = reshape(ofTimestep(lossWeights(schedule, predict, weighting)), [n]);
  return mean(mul(perImage, weights));

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
