import { combine } from "../combine.ts";
import { type Denoiser, noiseBeside } from "../denoiser.ts";
import { noNoise } from "../noise-source.ts";
import type { Level } from "../prediction.ts";
import type { Samples } from "../process.ts";
import { ancestralSplit } from "./ddim.ts";
import { type NoiseOptions, type SamplerRun, type Step, stateAfter } from "./sampler.ts";

/** A step with the level between its ends that the second call is made at; none in the last step to σ = 0. */
export interface MidpointStep extends Step {
  readonly middle: Level | null;
}

export interface MidpointOptions extends NoiseOptions {
  /** 1: ancestral, the deterministic part ends lower and fresh noise brings it back up. 0: deterministic. */
  readonly eta?: number;
}

/**
 * The midpoint method in σ: an Euler step to a middle level, the slope there taken for the whole step. Order 2, two calls
 * a step.
 *
 * With the middle halfway in log σ it is what Crowson's code calls DPM2, after DPM-Solver-2 (Lu et al. 2022, Algorithm 1
 * with r₁ = 1/2), which places its middle there and integrates exponentially. It is one of the general second-order
 * Runge–Kutta methods (Karras et al. 2022, Algorithm 3), that with all the weight on the second slope; Heun's is another.
 */
export async function* midpoint(
  denoise: Denoiser,
  x: Samples,
  steps: readonly MidpointStep[],
  { eta = 0, noise = noNoise, first = 0 }: MidpointOptions = {},
): SamplerRun {
  for (let i = first; i < steps.length; i++) {
    const { from, middle, to } = steps[i]!;
    const call = { step: i, steps: steps.length };
    let { x0 } = await denoise(x, from, call);
    if (!middle) {
      x = moved(x, x0, noiseBeside(x0, x.data, from), from, to.alpha, to.sigma);
      yield stateAfter(i, steps.length, from, to, x, x0);
      continue;
    }
    const half = moved(x, x0, noiseBeside(x0, x.data, from), from, middle.alpha, middle.sigma);
    ({ x0 } = await denoise(half, middle, call));
    const { down, up } = ancestralSplit(from, to, eta);
    x = moved(x, x0, noiseBeside(x0, half.data, middle), from, to.alpha, down);
    if (eta > 0) x = { ...x, data: combine([1, up], [x.data, noise(x.shape).data]) };
    yield stateAfter(i, steps.length, from, to, x, x0);
  }
}

/** x moved along a slope: x + Δα x0 + Δσ ε. */
function moved(x: Samples, x0: Float32Array, noise: Float32Array, from: Level, alpha: number, sigma: number): Samples {
  return { ...x, data: combine([1, alpha - from.alpha, sigma - from.sigma], [x.data, x0, noise]) };
}
