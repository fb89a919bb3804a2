import { UserError } from "../../core/errors.ts";
import { combine } from "../combine.ts";
import { type Denoiser, noiseBeside } from "../denoiser.ts";
import { noNoise } from "../noise-source.ts";
import type { Level } from "../prediction.ts";
import type { Samples } from "../process.ts";
import { type Churn, churnAt, churned, raisedLevel } from "./euler.ts";
import { type NoiseOptions, type SamplerRun, type Step, stateAfter } from "./sampler.ts";

export interface HeunOptions extends NoiseOptions {
  /** Noise added before each step (Karras et al. 2022, Algorithm 2); deterministic without (Algorithm 1). */
  readonly churn?: Churn;
  /** What `churn.amount` is divided by; the number of steps by default. */
  readonly churnSteps?: number;
  /** What the network is told at a level raised by churn: needed with churn, whose levels no path has. */
  readonly timestepOf?: (sigma: number) => number;
}

/**
 * Heun's second-order method (Karras et al. 2022, Algorithms 1 and 2): an Euler step, a second call at its end, and the
 * trapezoid of both. The last step to σ = 0 is Euler's. Order 2, two calls a step.
 *
 * It integrates dx = x0 dα + ε dσ, which is Karras et al.'s equation where α = 1, and the velocity's on a
 * flow-matching path.
 */
export async function* heun(
  denoise: Denoiser,
  x: Samples,
  steps: readonly Step[],
  { churn, churnSteps = steps.length, noise = noNoise, timestepOf, first = 0 }: HeunOptions = {},
): SamplerRun {
  if (churn && !timestepOf) {
    throw new UserError("Heun's method with churn must be told what the network is told at raised levels.", {
      hint: "Pass `timestepOf`, for example `timestepOfSigma(schedule.alphasCumprod)`.",
      field: "timestepOf",
    });
  }
  for (let i = first; i < steps.length; i++) {
    const { from, to } = steps[i]!;
    const call = { step: i, steps: steps.length };
    const gamma = churnAt(from, churn, churnSteps);
    let level = from;
    if (gamma > 0) {
      const raised = raisedLevel(from, gamma);
      level = { ...raised, timestep: timestepOf!(raised.sigma) };
      x = churned(x, from, level, churn!, noise);
    }
    const predicted = await denoise(x, level, call);
    const before = slope(predicted.x0, x, level);
    const dAlpha = to.alpha - level.alpha;
    const dSigma = to.sigma - level.sigma;
    const euler: Samples = { ...x, data: combine([1, dAlpha, dSigma], [x.data, before.x0, before.noise]) };
    if (to.sigma === 0) {
      x = euler;
      yield stateAfter(i, steps.length, from, to, x, before.x0);
      continue;
    }
    const second = await denoise(euler, to, call);
    const after = slope(second.x0, euler, to);
    x = {
      ...x,
      data: combine(
        [1, dAlpha / 2, dAlpha / 2, dSigma / 2, dSigma / 2],
        [x.data, before.x0, after.x0, before.noise, after.noise],
      ),
    };
    yield stateAfter(i, steps.length, from, to, x, second.x0);
  }
}

/** The stochastic sampler of Karras et al. 2022, Algorithm 2: `heun` with churn at its place. Algorithm 1 without. */
export const edmHeun = heun;

/** dx/dα and dx/dσ: the image and the noise that belongs to x and it. */
function slope(x0: Float32Array, x: Samples, level: Level) {
  return { x0, noise: noiseBeside(x0, x.data, level) };
}
