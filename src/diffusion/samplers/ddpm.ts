import { invariant } from "../../core/errors.ts";
import type { Denoiser } from "../denoiser.ts";
import { noNoise } from "../noise-source.ts";
import {
  fixedVariance,
  learnedDeviation,
  posteriorBetween,
  type ReverseVariance,
  reverseStep,
  type Samples,
} from "../process.ts";
import { type NoiseOptions, type SamplerRun, type Step, stateAfter } from "./sampler.ts";

export interface DdpmOptions extends NoiseOptions {
  /** σ² of the reverse process, `small` (β̃) by default. */
  readonly variance?: ReverseVariance;
}

/**
 * Ancestral sampling (Ho et al. 2020, Algorithm 2), with x0 in the place of ε (eq. 7) so that it can be clipped.
 *
 * No noise is drawn in a step from timestep 0.
 * @param steps levels in variance-preserving coordinates
 */
export async function* ddpm(
  denoise: Denoiser,
  x: Samples,
  steps: readonly Step[],
  { noise = noNoise, variance = "small", first = 0 }: DdpmOptions = {},
): SamplerRun {
  for (let i = first; i < steps.length; i++) {
    const { from, to } = steps[i]!;
    const prediction = await denoise(x, from, { step: i, steps: steps.length });
    const at = posteriorBetween(alphaBar(from.alpha, from.sigma), alphaBar(to.alpha, to.sigma));
    const draw = from.timestep > 0 ? noise(x.shape) : null;
    let std: number | Float32Array = 0;
    if (variance === "learned" || variance === "learned_range") {
      invariant(prediction.variance, "the denoiser predicts no variance");
      std = learnedDeviation(variance, prediction.variance, at);
    } else std = Math.sqrt(fixedVariance(variance, at));
    x = reverseStep(x, { ...x, data: prediction.x0 }, at, std, draw);
    yield stateAfter(i, steps.length, from, to, x, prediction.x0);
  }
}

/** ᾱ from whichever of α and σ is the smaller and so the more exact. */
function alphaBar(alpha: number, sigma: number): number {
  return alpha < sigma ? alpha * alpha : 1 - sigma * sigma;
}
