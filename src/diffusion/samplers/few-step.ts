import { combine } from "../combine.ts";
import type { Denoiser } from "../denoiser.ts";
import { noNoise } from "../noise-source.ts";
import type { Level } from "../prediction.ts";
import type { Samples } from "../process.ts";
import { type NoiseOptions, type SamplerRun, type Step, stateAfter } from "./sampler.ts";

export interface ConsistencyStep extends Step {
  /** c_skip and c_out: what of x and of the network's x0 is the image (Song et al. 2023, eq. 5). */
  readonly skip: number;
  readonly out: number;
  /** The noise added to the image to reach the next level; null after the last step, where none is drawn. */
  readonly added: number | null;
}

/**
 * Multistep consistency sampling (Song et al. 2023, "Consistency models", Algorithm 1), also that of latent consistency
 * models (Luo et al. 2023, LCM, Algorithm 3): the image in one call, noised again to a lower level, and so on.
 *
 * @param options.clip limits every image to [−clip, clip]
 */
export async function* consistency(
  denoise: Denoiser,
  x: Samples,
  steps: readonly ConsistencyStep[],
  { noise = noNoise, clip, first = 0 }: NoiseOptions & { readonly clip?: number } = {},
): SamplerRun {
  for (let i = first; i < steps.length; i++) {
    const { from, to, skip, out, added } = steps[i]!;
    const prediction = await denoise(x, from, { step: i, steps: steps.length });
    const image = combine([skip, out], [x.data, prediction.x0]);
    if (clip !== undefined)
      for (let k = 0; k < image.length; k++) image[k] = Math.min(Math.max(image[k]!, -clip), clip);
    x = { ...x, data: added === null ? image : combine([to.alpha, added], [image, noise(x.shape).data]) };
    yield stateAfter(i, steps.length, from, to, x, image);
  }
}

/** c_skip and c_out of LCM at a timestep: 1 and 0 at 0 (Luo et al. 2023, section 4.1, with their timestep scaling). */
export function lcmBoundary(timestep: number, scaling: number, sigmaData = 0.5): { skip: number; out: number } {
  const scaled = timestep * scaling;
  const total = scaled * scaled + sigmaData * sigmaData;
  return { skip: (sigmaData * sigmaData) / total, out: scaled / Math.sqrt(total) };
}

export interface TrajectoryStep extends Step {
  /** The level between, which the network's deterministic part goes to before noise brings x up to `to`. */
  readonly between: Level;
}

/**
 * Trajectory consistency sampling (Zheng et al. 2024, TCD, "strategic stochastic sampling", Algorithm 4): a
 * deterministic jump below the next level, then noise up to it. γ (diffusers' η) decides how far below: with 0 there
 * is no noise, with 1 it is consistency sampling.
 */
export async function* trajectoryConsistency(
  denoise: Denoiser,
  x: Samples,
  steps: readonly TrajectoryStep[],
  { gamma = 0.3, noise = noNoise, first = 0 }: NoiseOptions & { readonly gamma?: number } = {},
): SamplerRun {
  for (let i = first; i < steps.length; i++) {
    const { from, to, between } = steps[i]!;
    const prediction = await denoise(x, from, { step: i, steps: steps.length });
    let data = combine([between.alpha, between.sigma], [prediction.x0, prediction.noise]);
    if (gamma > 0 && i < steps.length - 1) {
      const kept = to.alpha / between.alpha;
      data = combine([kept, Math.sqrt(Math.max(1 - kept * kept, 0))], [data, noise(x.shape).data]);
    }
    x = { ...x, data };
    yield stateAfter(i, steps.length, from, to, x, prediction.x0);
  }
}
