import { invariant, UserError } from "../core/errors.ts";
import { float32, type Shape, sizeOf } from "../core/host-tensor.ts";
import { type Random, seeded } from "../core/random.ts";
import type { Samples } from "./process.ts";

/** Gives standard normal noise of a shape; a stochastic sampler calls it once per draw. */
export type NoiseSource = (shape: Shape) => Samples;

/**
 * Noise from one random source for a whole batch, or from one per image so that an image does not depend on its batch.
 * A source per image draws `[1, …]` for each, as a list of generators does in diffusers.
 */
export function noiseFrom(random: Random | readonly Random[]): NoiseSource {
  if (!Array.isArray(random)) return (shape) => (random as Random).normal(shape);
  const sources = random as readonly Random[];
  return (shape) => {
    if (shape[0] !== sources.length) {
      throw new UserError(`${sources.length} seeds were given for ${shape[0]} images.`, {
        hint: "Give one seed per image.",
        field: "seed",
      });
    }
    const data = new Float32Array(sizeOf(shape));
    const size = data.length / sources.length;
    sources.forEach((source, n) => {
      source.fillNormal(data.subarray(n * size, (n + 1) * size));
    });
    return float32(shape, data);
  };
}

/** One random source per image: `seed`, `seed + 1`, … */
export function seededPerImage(seed: number, images: number): Random[] {
  return Array.from({ length: images }, (_, n) => seeded(seed + n));
}

/** Noise that was recorded: hands out the given draws in order. */
export function recordedNoise(draws: Iterable<ArrayLike<number>>): NoiseSource {
  const remaining = draws[Symbol.iterator]();
  return (shape) => {
    const next = remaining.next();
    invariant(!next.done, "more noise was drawn than was recorded");
    return float32(shape, Float32Array.from(next.value as ArrayLike<number>));
  };
}

/** For samplers that must not draw: drawing is an error that says what is missing. */
export const noNoise: NoiseSource = () => {
  throw new UserError("This sampler adds noise and was given no source for it.", {
    hint: "Pass `noise: noiseFrom(seededPerImage(seed, images))`.",
    field: "noise",
  });
};
