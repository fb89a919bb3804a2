import { combine } from "../combine.ts";
import { type Denoiser, noiseBeside } from "../denoiser.ts";
import { noNoise } from "../noise-source.ts";
import type { Level } from "../prediction.ts";
import type { Samples } from "../process.ts";
import { type NoiseOptions, type SamplerRun, type Step, stateAfter } from "./sampler.ts";

export interface DdimOptions extends NoiseOptions {
  /** 0 is deterministic, 1 as random as DDPM with the small variance. */
  readonly eta?: number;
  /** Uses the noise that belongs to the clipped x0 and not the one the network said. */
  readonly clippedNoise?: boolean;
}

/**
 * DDIM (Song, Meng & Ermon 2021, eq. 12): x0 and the predicted noise, mixed again for the next level, with a share of
 * fresh noise.
 *
 * In other coordinates the same step has other names. With `alpha = 1`, η = 0 is Euler's method and η = 1 the ancestral
 * sampling of Karras et al.'s and Crowson's codes; on a flow-matching path η = 0 is Euler's method for the velocity;
 * with the levels in rising order η = 0 is DDIM inversion.
 */
export async function* ddim(
  denoise: Denoiser,
  x: Samples,
  steps: readonly Step[],
  { eta = 0, noise = noNoise, clippedNoise = false, first = 0 }: DdimOptions = {},
): SamplerRun {
  for (let i = first; i < steps.length; i++) {
    const { from, to } = steps[i]!;
    const prediction = await denoise(x, from, { step: i, steps: steps.length });
    const predicted = clippedNoise ? noiseBeside(prediction.x0, x.data, from) : prediction.noise;
    const { down, up } = ancestralSplit(from, to, eta);
    const data =
      eta > 0
        ? combine([to.alpha, down, up], [prediction.x0, predicted, noise(x.shape).data])
        : combine([to.alpha, down], [prediction.x0, predicted]);
    x = { ...x, data };
    yield stateAfter(i, steps.length, from, to, x, prediction.x0);
  }
}

/**
 * How much of the next level's σ is predicted noise (`down`) and how much fresh (`up`): up² + down² = σ'², with
 * up = η σ' √(1 − (α σ')² / (α' σ)²) (Song et al. 2021, eq. 16, in any coordinates).
 */
export function ancestralSplit(from: Level, to: Level, eta: number): { down: number; up: number } {
  if (eta === 0) return { down: to.sigma, up: 0 };
  const kept = (from.alpha * to.sigma) / (to.alpha * from.sigma);
  const fresh = eta * eta * Math.max(1 - kept * kept, 0);
  // σ'² − up² without the difference of nearly equal numbers that it is for a step from near infinite σ.
  const down = to.sigma * Math.sqrt(Math.max(1 - eta * eta, 0) + eta * eta * kept * kept);
  return { down: kept < 1 ? down : to.sigma, up: to.sigma * Math.sqrt(fresh) };
}
