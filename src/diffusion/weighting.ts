import { UserError } from "../core/errors.ts";
import type { NoiseSchedule } from "./schedule.ts";
import { signalToNoise } from "./schedule.ts";

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
