import { UserError } from "../core/errors.ts";
import type { Random } from "../core/random.ts";
import type { NoiseSchedule } from "./schedule.ts";
import { signalToNoise } from "./schedule.ts";

/** How the timesteps of a training batch are drawn. */
export type TimestepSampling =
  | { readonly kind: "uniform" }
  /** The sigmoid of a normal number (Esser et al. 2024, "Scaling rectified flow transformers", eq. 19). */
  | { readonly kind: "logit-normal"; readonly mean?: number; readonly std?: number };

/** One training timestep per image, from 0 to `schedule.steps - 1`. */
export function sampleTimesteps(
  schedule: NoiseSchedule,
  count: number,
  random: Random,
  sampling: TimestepSampling = { kind: "uniform" },
): Int32Array {
  if (sampling.kind === "uniform") return Int32Array.from({ length: count }, () => random.integer(0, schedule.steps));
  const times = sampleLogitNormal(count, random, sampling);
  return Int32Array.from(times, (u) => Math.min(Math.floor(u * schedule.steps), schedule.steps - 1));
}

/** Continuous times in (0, 1) for flow matching: 1 is noise. */
export function sampleLogitNormal(
  count: number,
  random: Random,
  { mean = 0, std = 1 }: { readonly mean?: number; readonly std?: number } = {},
): Float32Array {
  return random.normal([count], { mean, std }).data.map((x) => 1 / (1 + Math.exp(-x)));
}

/** Noise levels with log-normal σ (Karras et al. 2022, table 1: ln σ ~ N(−1.2, 1.2²)). */
export function sampleLogNormalSigmas(
  count: number,
  random: Random,
  { mean = -1.2, std = 1.2 }: { readonly mean?: number; readonly std?: number } = {},
): Float32Array {
  return random.normal([count], { mean, std }).data.map(Math.exp);
}

/** How the squared errors of different timesteps are weighted. */
export type LossWeighting = { readonly kind: "uniform" } | { readonly kind: "min-snr"; readonly gamma?: number };

/**
 * The weight of the squared error at timestep t.
 *
 * Min-SNR-γ weights the error in x0 by min(SNR, γ) (Hang et al. 2023, "Efficient diffusion training via min-SNR
 * weighting strategy", section 3.4); divided by SNR for noise prediction and by SNR + 1 for v.
 */
export function lossWeight(
  schedule: NoiseSchedule,
  t: number,
  predict: "noise" | "x0" | "v",
  weighting: LossWeighting = { kind: "uniform" },
): number {
  if (weighting.kind === "uniform") return 1;
  const { gamma = 5 } = weighting;
  if (!(gamma > 0))
    throw new UserError(`min-SNR weighting needs γ > 0; ${gamma} was given.`, {
      hint: "The paper uses 5.",
      field: "gamma",
    });
  const snr = signalToNoise(schedule, t);
  const clipped = Math.min(snr, gamma);
  switch (predict) {
    case "x0":
      return clipped;
    case "noise":
      // Written so that it is 1, not 0/0, where a zero-terminal-SNR schedule has no signal.
      return snr <= gamma ? 1 : gamma / snr;
    case "v":
      return clipped / (snr + 1);
  }
}

/** `lossWeight` of every timestep: a table for the training graph. */
export function lossWeights(
  schedule: NoiseSchedule,
  predict: "noise" | "x0" | "v",
  weighting: LossWeighting = { kind: "uniform" },
): Float32Array {
  return Float32Array.from({ length: schedule.steps }, (_, t) => lossWeight(schedule, t, predict, weighting));
}

/** Karras et al.'s λ(σ) = (σ² + σ_data²) / (σ σ_data)², which makes the loss 1 at every σ at the start (2022, table 1). */
export function edmLossWeight(sigma: number, sigmaData = 0.5): number {
  return (sigma * sigma + sigmaData * sigmaData) / (sigma * sigmaData) ** 2;
}
