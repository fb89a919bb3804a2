import { UserError } from "../../core/errors.ts";
import { firstNonFinite } from "../denoiser.ts";
import type { Level } from "../prediction.ts";
import type { Samples } from "../process.ts";

/** One step of a path: from one level to the next. Steps of a grid need not touch (DDIM's do not in diffusers). */
export interface Step {
  readonly from: Level;
  readonly to: Level;
}

/** What a sampler yields after each step. */
export interface SamplerState {
  /** How many steps are done, from 1 to `steps`. */
  readonly step: number;
  readonly steps: number;
  /** The timestep the step started from. */
  readonly timestep: number;
  /** σ of the level the step started from. */
  readonly sigma: number;
  /** The level that x is at now. */
  readonly level: Level;
  /** x after the step. A consumer may change its data in place between steps; the sampler goes on from there. */
  readonly x: Samples;
  /** The last estimate of the image. */
  readonly x0: Samples;
}

/** A sampler: draws an image out of x step by step. Ending the iteration (`break`) stops it between steps. */
export type SamplerRun = AsyncGenerator<SamplerState, void, void>;

/** The steps between consecutive levels. */
export function stepsBetween(levels: readonly Level[]): Step[] {
  return levels.slice(1).map((to, i) => ({ from: levels[i]!, to }));
}

/** Runs a sampler to its end and returns the last x; `x` itself when there are no steps. */
export async function finished(run: SamplerRun, x: Samples): Promise<Samples> {
  let last = x;
  for await (const state of run) last = state.x;
  return last;
}

/**
 * Builds what is yielded after step `index` (from 0).
 * @throws UserError when the step itself, and not the network, made x infinite or NaN
 */
export function stateAfter(
  index: number,
  steps: number,
  from: Level,
  to: Level,
  x: Samples,
  x0: Float32Array,
): SamplerState {
  const bad = firstNonFinite(x.data);
  if (bad !== undefined) {
    throw new UserError(
      `Step ${index + 1} of ${steps}, from σ ${from.sigma} to ${to.sigma}, made ${bad} out of a finite prediction.`,
      {
        hint: "The sampler cannot take this step: ask for another number of steps, another spread or another sampler.",
      },
    );
  }
  return {
    step: index + 1,
    steps,
    timestep: from.timestep,
    sigma: from.sigma,
    level: to,
    x,
    x0: { dtype: "float32", shape: x.shape, data: x0 },
  };
}
