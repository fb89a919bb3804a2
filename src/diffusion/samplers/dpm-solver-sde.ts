import { combine } from "../combine.ts";
import type { Denoiser } from "../denoiser.ts";
import { noNoise } from "../noise-source.ts";
import type { Samples } from "../process.ts";
import { ancestralSplit } from "./ddim.ts";
import type { MidpointStep } from "./midpoint.ts";
import { type NoiseOptions, type SamplerRun, stateAfter } from "./sampler.ts";

/**
 * Crowson's "DPM-Solver++ (stochastic)" (k-diffusion, `sample_dpmpp_sde` with r = 1/2 and η = 1): an ancestral step to a
 * middle level, and one of the whole way with the x0 that is predicted there. Two calls and two draws a step;
 * variance-exploding coordinates. The last step, to σ = 0, has one call and no draw.
 *
 * Both parts of a step follow one Brownian motion whose time is σ: the noise of the whole step is that of its first part
 * and of its second, put together. Crowson's code draws it from a tree that gives the same motion to any number of steps;
 * here every part has a draw of its own, so that a seed means another picture than there.
 */
export async function* dpmSolverSde(
  denoise: Denoiser,
  x: Samples,
  steps: readonly MidpointStep[],
  { noise = noNoise, first = 0 }: NoiseOptions = {},
): SamplerRun {
  for (let i = first; i < steps.length; i++) {
    const { from, middle, to } = steps[i]!;
    const call = { step: i, steps: steps.length };
    let { x0 } = await denoise(x, from, call);
    if (!middle) {
      const kept = to.sigma / from.sigma;
      x = { ...x, data: combine([kept, 1 - kept], [x.data, x0]) };
      yield stateAfter(i, steps.length, from, to, x, x0);
      continue;
    }
    const half = ancestralSplit(from, middle, 1);
    const before = noise(x.shape).data;
    const kept = half.down / from.sigma;
    const there: Samples = { ...x, data: combine([kept, 1 - kept, half.up], [x.data, x0, before]) };
    ({ x0 } = await denoise(there, middle, call));
    const whole = ancestralSplit(from, to, 1);
    const after = noise(x.shape).data;
    const share = (from.sigma - middle.sigma) / (from.sigma - to.sigma);
    const left = whole.down / from.sigma;
    x = {
      ...x,
      data: combine(
        [left, 1 - left, whole.up * Math.sqrt(share), whole.up * Math.sqrt(1 - share)],
        [x.data, x0, before, after],
      ),
    };
    yield stateAfter(i, steps.length, from, to, x, x0);
  }
}
