import type { Random } from "../core/random.ts";
import type { Denoiser } from "./denoiser.ts";
import { levelOfAlphaBar } from "./prediction.ts";
import { addNoise, learnedRangeLogVariance, posterior, type Samples } from "./process.ts";
import type { NoiseSchedule } from "./schedule.ts";

/** The variational bound on −log₂ p(x_0) in bits per dimension, one number per image. */
export interface VariationalBound {
  /** L_T: how far q(x_T | x_0) is from the standard normal. */
  readonly prior: Float64Array;
  /** L_{t−1} for t = 1 … T−1 and L_0 at index 0, each [batch]; only the computed timesteps are there. */
  readonly terms: ReadonlyMap<number, Float64Array>;
  /** The whole bound: the sum of all terms when every timestep was computed, an unbiased estimate otherwise. */
  readonly total: Float64Array;
}

export interface BoundOptions {
  /** σ² of the reverse process: `small` (β̃, default), `large` (β) or the network's `learned_range`. */
  readonly variance?: "small" | "large" | "learned_range";
  /** Evaluates only this many timesteps, evenly spread; all by default. */
  readonly timesteps?: number;
  /** The images were quantized to this many levels in [−1, 1]: 256 for 8 bits. */
  readonly levels?: number;
}

/**
 * The variational bound L = L_T + Σ L_{t−1} + L_0 (Ho et al. 2020, eq. 5), in bits per dimension.
 * @param x0 images in [−1, 1] whose values lie on `levels` equidistant steps
 * @param random one source per image, so that the result of an image does not depend on its batch
 */
export async function variationalBound(
  denoise: Denoiser,
  schedule: NoiseSchedule,
  x0: Samples,
  random: readonly Random[],
  { variance = "small", timesteps = schedule.steps, levels = 256 }: BoundOptions = {},
): Promise<VariationalBound> {
  const chosen = evenlySpread(schedule.steps, timesteps);
  const images = x0.shape[0]!;
  const size = x0.data.length / images;
  const prior = priorTerm(schedule, x0);
  const terms = new Map<number, Float64Array>();
  const total = Float64Array.from(prior);
  for (const [index, t] of chosen.entries()) {
    const noise = new Float32Array(x0.data.length);
    random.forEach((source, n) => {
      source.fillNormal(noise.subarray(n * size, (n + 1) * size));
    });
    const x = addNoise(schedule, x0, { ...x0, data: noise }, t);
    const prediction = await denoise(x, levelOfAlphaBar(schedule.alphasCumprod[t]!, t), {
      step: index,
      steps: chosen.length,
    });
    const at = posterior(schedule, t);
    const term = new Float64Array(images);
    for (let i = 0; i < x.data.length; i++) {
      const mean = at.x0Weight * prediction.x0[i]! + at.xWeight * x.data[i]!;
      // β̃ of timestep 0 is 0, no variance of a decoder; β_0 is what x_0 given x_1 has.
      const fixed = variance === "large" || t === 0 ? at.beta : at.variance;
      const logVariance =
        variance === "learned_range" ? learnedRangeLogVariance(prediction.variance![i]!, at) : Math.log(fixed);
      const trueMean = at.x0Weight * x0.data[i]! + at.xWeight * x.data[i]!;
      term[Math.floor(i / size)]! +=
        t === 0
          ? -discretizedGaussianLogLikelihood(x0.data[i]!, mean, Math.exp(0.5 * logVariance), levels)
          : gaussianDivergence(trueMean, Math.log(at.variance), mean, logVariance);
    }
    const bits = term.map((nats) => nats / size / Math.LN2);
    terms.set(t, bits);
    bits.forEach((value, n) => {
      total[n]! += (value * schedule.steps) / chosen.length;
    });
  }
  return { prior, terms, total };
}

/** L_T = KL(q(x_T | x_0) ‖ N(0, I)) in bits per dimension, per image (Ho et al. 2020, eq. 5). */
export function priorTerm(schedule: NoiseSchedule, x0: Samples): Float64Array {
  const alphaBar = schedule.alphasCumprod[schedule.steps - 1]!;
  const images = x0.shape[0]!;
  const size = x0.data.length / images;
  const bits = new Float64Array(images);
  for (let i = 0; i < x0.data.length; i++) {
    bits[Math.floor(i / size)]! += gaussianDivergence(Math.sqrt(alphaBar) * x0.data[i]!, Math.log(1 - alphaBar), 0, 0);
  }
  return bits.map((nats) => nats / size / Math.LN2);
}

/** KL(N(mean1, var1) ‖ N(mean2, var2)) in nats. */
export function gaussianDivergence(mean1: number, logVariance1: number, mean2: number, logVariance2: number): number {
  return (
    0.5 *
    (logVariance2 -
      logVariance1 -
      1 +
      Math.exp(logVariance1 - logVariance2) +
      (mean1 - mean2) ** 2 * Math.exp(-logVariance2))
  );
}

/**
 * log of the probability that a Gaussian gives to the bin around x, the outermost bins reaching to infinity (Ho et al.
 * 2020, eq. 13).
 * @param x one of `levels` equidistant values in [−1, 1]
 */
export function discretizedGaussianLogLikelihood(x: number, mean: number, std: number, levels = 256): number {
  const half = 1 / (levels - 1);
  const upper = x > 1 - half ? Number.POSITIVE_INFINITY : (x + half - mean) / std;
  const lower = x < -1 + half ? Number.NEGATIVE_INFINITY : (x - half - mean) / std;
  // The upper tail of a far bin is mirrored: differences of numbers near 1 would lose everything.
  const probability = lower > 0 ? normalTail(lower) - normalTail(upper) : normalTail(-upper) - normalTail(-lower);
  return Math.log(Math.max(probability, 1e-12));
}

/** P(Z > x) of a standard normal: a series near 0 and a continued fraction in the tail, to double precision. */
export function normalTail(x: number): number {
  if (x === Number.POSITIVE_INFINITY) return 0;
  if (x < 0) return 1 - normalTail(-x);
  const density = Math.exp(-0.5 * x * x) / Math.sqrt(2 * Math.PI);
  if (x < 3) {
    // Φ(x) − 1/2 = φ(x) Σ x^{2k+1} / (1·3·…·(2k+1)) (Abramowitz & Stegun 26.2.11).
    let term = x;
    let sum = x;
    for (let k = 1; term > 1e-17 * sum; k++) sum += term *= (x * x) / (2 * k + 1);
    return 0.5 - density * sum;
  }
  // Laplace's continued fraction (Abramowitz & Stegun 26.2.14).
  let fraction = x;
  for (let k = 60; k > 0; k--) fraction = x + k / fraction;
  return density / fraction;
}

function evenlySpread(steps: number, count: number): number[] {
  if (count >= steps) return Array.from({ length: steps }, (_, t) => t);
  return Array.from({ length: count }, (_, i) => Math.floor(((i + 0.5) * steps) / count));
}
