import { UserError } from "../../core/errors.ts";
import { firstNonFinite } from "../denoiser.ts";
import type { NoiseSource } from "../noise-source.ts";
import type { Level } from "../prediction.ts";
import type { Samples } from "../process.ts";

// What all samplers have in common.
//
// Each is called with a denoiser, with x and with a path, and yields a state after each step.
//
// - `x` is `[batch, …]`, float32, and stands at the level that step `first` starts from: α x0 + σ ε there. It is not
//   changed; every state has an x of its own.
// - The path is a list of steps, or of levels (one more than there are steps) where a method needs earlier ones: from noise
//   to image, or the other way for an inversion. All levels of a path are in one system of coordinates: variance
//   preserving, exploding (α = 1) or flow matching (α = 1 − σ). A sampler takes any of them unless it names its own.
// - A step to σ = 0 gives the image. Where a method of higher order has no formula for it (λ is infinite), it takes order 1.
// - Weights are computed in double precision, x is kept in float32.
//
// Errors: a `UserError` for an order that there is not, for noise that is needed and was not given, and whatever the
// denoiser throws (`denoiser`: NaN in an answer, an answer of the wrong size). They come with the first state asked for, or
// with that of the step they belong to; calling a sampler throws nothing.

/** Where a run begins. */
export interface StartOptions {
  /**
   * Index of the first step to run, from 0, for images that start part of the way. Multistep methods begin there without
   * a history, as at the very start; the number of steps that states tell is that of the whole path.
   */
  readonly first?: number;
}

/** Of samplers that add fresh noise. */
export interface NoiseOptions extends StartOptions {
  /**
   * Where fresh noise is drawn from: asked for noise of x's shape once in every step that adds some, in the order of the
   * steps. One source for each image (`noiseFrom(seededPerImage(…))`) keeps an image independent of its batch.
   */
  readonly noise?: NoiseSource;
}

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

/** Throws a UserError unless an order is a whole number from 1 to the highest that a method has. */
export function mustHaveOrder(method: string, order: number, highest: number): void {
  if (Number.isInteger(order) && order >= 1 && order <= highest) return;
  throw new UserError(`${method} has no order ${order}.`, {
    hint: `Give a whole number from 1 to ${highest}.`,
    field: "order",
  });
}

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
