import { UserError } from "../core/errors.ts";
import type { Random } from "../core/random.ts";
import { type FlowPath, flowTimestep, isFlowPath } from "./flow-path.ts";
import type { NoiseSchedule } from "./schedule.ts";

/** How often each time from 0 (image) to 1 (noise) is trained. */
export type TimestepSampling =
  | { readonly kind: "uniform" }
  /**
   * The sigmoid of a normal number: the middle is trained most (Esser et al. 2024, "Scaling rectified flow transformers
   * for high-resolution image synthesis", eq. 19). A positive mean trains noise more. Defaults 0 and 1.
   */
  | { readonly kind: "logit-normal"; readonly mean?: number; readonly std?: number }
  /**
   * A peak in the middle over tails that stay (the same, eq. 20); negative scales train the ends more. Default 1.29, the
   * best of this kind there (table 1).
   */
  | { readonly kind: "mode"; readonly scale?: number };

/** The names of the kinds of {@link TimestepSampling}. */
export const TIMESTEP_SAMPLINGS = ["uniform", "logit-normal", "mode"] as const satisfies TimestepSampling["kind"][];

/** From this scale of mode sampling on, f of eq. 20 is no longer monotonic. */
const MODE_SCALES = [-1, 2 / (Math.PI - 2)] as const;

/**
 * One training timestep per image. Of a schedule whole numbers from 0 to `schedule.steps - 1`; of a flow-matching path
 * what the network is told, t = 1000·s with s in [0, 1], in float32.
 *
 * @throws UserError for a density that cannot be
 */
export function sampleTimesteps(
  schedule: NoiseSchedule,
  count: number,
  random: Random,
  sampling?: TimestepSampling,
): Int32Array;
export function sampleTimesteps(
  path: FlowPath,
  count: number,
  random: Random,
  sampling?: TimestepSampling,
): Float32Array;
export function sampleTimesteps(
  path: NoiseSchedule | FlowPath,
  count: number,
  random: Random,
  sampling?: TimestepSampling,
): Int32Array | Float32Array;
export function sampleTimesteps(
  path: NoiseSchedule | FlowPath,
  count: number,
  random: Random,
  sampling: TimestepSampling = { kind: "uniform" },
): Int32Array | Float32Array {
  if (isFlowPath(path)) return sampleTimes(count, random, sampling).map((u) => flowTimestep(path, u));
  const { steps } = path;
  if (sampling.kind === "uniform") return Int32Array.from({ length: count }, () => random.integer(0, steps));
  // Rounding to float32 can give exactly 1.
  return Int32Array.from(sampleTimes(count, random, sampling), (u) => Math.min(Math.floor(u * steps), steps - 1));
}

/** Continuous times from 0 (image) to 1 (noise). */
export function sampleTimes(
  count: number,
  random: Random,
  sampling: TimestepSampling = { kind: "uniform" },
): Float32Array {
  switch (sampling.kind) {
    case "uniform":
      return random.uniform([count]).data;
    case "logit-normal":
      return sampleLogitNormal(count, random, sampling);
    case "mode": {
      const { scale = 1.29 } = sampling;
      return random.uniform([count]).data.map((u) => modeTime(u, scale));
    }
  }
}

/** Times in (0, 1) whose logit is normal: see {@link TimestepSampling}. */
export function sampleLogitNormal(
  count: number,
  random: Random,
  { mean = 0, std = 1 }: { readonly mean?: number; readonly std?: number } = {},
): Float32Array {
  if (!(std > 0)) {
    throw new UserError(`Logit-normal timesteps need a standard deviation above 0; ${std} was given.`, {
      hint: "Stable Diffusion 3 uses 1.",
      field: "std",
    });
  }
  return random.normal([count], { mean, std }).data.map((x) => 1 / (1 + Math.exp(-x)));
}

/**
 * f_mode(u; s) = 1 − u − s·(cos²(π/2·u) − 1 + u), which turns a uniform number into a time of mode sampling (Esser et al.
 * 2024, eq. 20).
 * @throws UserError for a scale at which it is not monotonic
 */
export function modeTime(u: number, scale: number): number {
  const [lowest, highest] = MODE_SCALES;
  if (!(scale >= lowest && scale <= highest)) {
    throw new UserError(`Mode sampling has no scale ${scale}.`, {
      hint: `Give a number from ${lowest} to ${highest.toFixed(3)}; 0 is uniform, 1.29 was the best in its paper.`,
      field: "scale",
    });
  }
  return 1 - u - scale * (Math.cos((Math.PI / 2) * u) ** 2 - 1 + u);
}

/** Noise levels with log-normal σ (Karras et al. 2022, table 1: ln σ ~ N(−1.2, 1.2²)). */
export function sampleLogNormalSigmas(
  count: number,
  random: Random,
  { mean = -1.2, std = 1.2 }: { readonly mean?: number; readonly std?: number } = {},
): Float32Array {
  return random.normal([count], { mean, std }).data.map(Math.exp);
}
