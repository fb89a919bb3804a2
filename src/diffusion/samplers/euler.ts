import { combine } from "../combine.ts";
import type { Denoiser } from "../denoiser.ts";
import { type NoiseSource, noNoise } from "../noise-source.ts";
import type { Level } from "../prediction.ts";
import type { Samples } from "../process.ts";
import { type NoiseOptions, type SamplerRun, type Step, stateAfter } from "./sampler.ts";

/** Noise added back before a step, "churn" (Karras et al. 2022, Algorithm 2, with their S_churn, S_min, S_max, S_noise). */
export interface Churn {
  /** S_churn: 0 is none; spread over the steps. */
  readonly amount: number;
  /** S_min and S_max: only steps from a σ between them are churned, all by default. */
  readonly minimum?: number;
  readonly maximum?: number;
  /** S_noise: the standard deviation of the added noise. */
  readonly noise?: number;
}

export interface EulerOptions extends NoiseOptions {
  readonly churn?: Churn;
  /** What `churn.amount` is divided by; the number of steps by default. */
  readonly churnSteps?: number;
}

/**
 * Euler's method for dx/dσ = ε with churn, in variance-exploding coordinates, as Crowson's and diffusers' codes have
 * it: the network is called before the noise is added and its output read again against the noisier x, so that a step
 * costs one call. Without churn it is `ddim` with η = 0. For churn as the paper has it see `edmHeun`.
 */
export async function* euler(
  denoise: Denoiser,
  x: Samples,
  steps: readonly Step[],
  { churn, churnSteps = steps.length, noise = noNoise, first = 0 }: EulerOptions = {},
): SamplerRun {
  for (let i = first; i < steps.length; i++) {
    const { from, to } = steps[i]!;
    const prediction = await denoise(x, from, { step: i, steps: steps.length });
    const gamma = churnAt(from, churn, churnSteps);
    let { x0, noise: epsilon } = prediction;
    let sigma = from.sigma;
    if (gamma > 0) {
      const raised = raisedLevel(from, gamma);
      x = churned(x, from, raised, churn!, noise);
      sigma = raised.sigma;
      ({ x0 } = prediction.read(prediction.output, x, raised));
      epsilon = combine([1 / sigma, -1 / sigma], [x.data, x0]);
    }
    // A step of the velocities of both coordinates, so that flow matching takes it too.
    x = { ...x, data: combine([1, to.alpha - from.alpha, to.sigma - sigma], [x.data, x0, epsilon]) };
    yield stateAfter(i, steps.length, from, to, x, x0);
  }
}

/** γ = min(S_churn / N, √2 − 1) inside [S_min, S_max], else 0 (Karras et al. 2022, Algorithm 2, line 4). */
export function churnAt({ sigma }: Level, churn: Churn | undefined, steps: number): number {
  if (!churn || sigma < (churn.minimum ?? 0) || sigma > (churn.maximum ?? Number.POSITIVE_INFINITY)) return 0;
  return Math.min(churn.amount / steps, Math.SQRT2 - 1);
}

/** The level with (1 + γ) times the σ. */
export function raisedLevel(level: Level, gamma: number): Level {
  return { ...level, sigma: level.sigma * (1 + gamma) };
}

/** x with noise added up to the raised level (Algorithm 2, lines 5 and 6). */
export function churned(x: Samples, from: Level, raised: Level, churn: Churn, noise: NoiseSource): Samples {
  const added = Math.sqrt(raised.sigma ** 2 - from.sigma ** 2) * (churn.noise ?? 1);
  return { ...x, data: combine([1, added], [x.data, noise(x.shape).data]) };
}
