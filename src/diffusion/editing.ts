import { invariant, UserError } from "../core/errors.ts";
import type { SamplingPlan } from "./config/plan.ts";
import type { Denoiser } from "./denoiser.ts";
import type { Level } from "./prediction.ts";
import type { Samples } from "./process.ts";
import type { SamplerRun, SamplerState } from "./samplers/sampler.ts";

/**
 * The step that image-to-image starts with: of `steps` steps the last ⌊steps · strength⌋ are run (Meng et al. 2022,
 * SDEdit). No step left is a `UserError` and not an unchanged image.
 *
 * @param rounds "up" runs the last ⌈steps · strength⌉, as diffusers' pipelines for flow matching do
 */
export function firstStep(steps: number, strength: number, rounds: "down" | "up" = "down"): number {
  if (!(strength > 0 && strength <= 1)) {
    throw new UserError(`A strength of ${strength} is not possible.`, {
      hint: "Give a number above 0, at most 1.",
      field: "strength",
    });
  }
  // As diffusers computes it, also where steps · strength is off by a rounding error.
  const run = rounds === "down" ? Math.trunc(steps * strength) : steps - Math.trunc(steps - steps * strength);
  if (run === 0) {
    throw new UserError(`A strength of ${strength} leaves none of ${steps} steps to run.`, {
      hint: `Give a strength of at least ${(1 / steps).toPrecision(2)} or more steps.`,
      field: "strength",
    });
  }
  return steps - run;
}

/** An image noised to where a strength starts, and the step to start with: `plan.run(denoise, x, { first })`. */
export function noisedStart(
  plan: SamplingPlan,
  x0: Samples,
  noise: Samples,
  strength: number,
  rounds?: "down" | "up",
): { readonly x: Samples; readonly first: number } {
  const first = firstStep(plan.steps, strength, rounds);
  const { alpha, sigma } = plan.levelBefore(first);
  return { x: mix(x0, alpha, noise, sigma), first };
}

export interface InpaintOptions {
  readonly original: Samples;
  /** 1 is painted anew and 0 kept; of the shape of the images, or with one channel. */
  readonly mask: Samples;
  /** The noise that the kept part is noised with, the same in every step. */
  readonly noise: Samples;
  /** The level the kept part is noised to after a step; default: that of x. */
  readonly levelAfter?: (state: SamplerState) => Level;
}

/**
 * Inpainting by blending (Lugmayr et al. 2022, RePaint, eq. 8, without resampling; Avrahami et al. 2022): after each
 * step the kept part of x is replaced with the original at the same noise level. Wraps any sampler's run.
 */
export async function* inpainted(
  run: SamplerRun,
  { original, mask, noise, levelAfter = ({ level }) => level }: InpaintOptions,
): SamplerRun {
  const keep = keptPart({ original, mask, noise });
  for await (const state of run) {
    // At the end the kept part is the original itself, also where the last level has some noise left.
    keep(state.x.data, state.step === state.steps ? { alpha: 1, sigma: 0 } : levelAfter(state));
    yield state;
  }
}

/**
 * The same inside of steps, for samplers that call more than once in a step (Heun, PNDM's first): each call but the first,
 * which sees what `inpainted` left, sees the kept part at its own level.
 */
export function inpaintedCalls(denoise: Denoiser, options: InpaintOptions): Denoiser {
  const keep = keptPart(options);
  let last = -1;
  return (x, level, call) => {
    // What is tried inside a step is the sampler's own array, not its state.
    if (call.step === last) keep(x.data, level);
    last = call.step;
    return denoise(x, level, call);
  };
}

/** Replaces the kept part of x, in place, with the original at a noise level. */
function keptPart({ original, mask, noise }: InpaintOptions) {
  const weight = expandedMask(mask, original);
  return (x: Float32Array, { alpha, sigma }: Pick<Level, "alpha" | "sigma">): void => {
    for (let i = 0; i < x.length; i++) {
      const kept = alpha * original.data[i]! + sigma * noise.data[i]!;
      x[i] = weight[i]! * x[i]! + (1 - weight[i]!) * kept;
    }
  };
}

/**
 * Spherical interpolation between two noises, image by image: every point in between is as far from 0 as noise is
 * (Shoemake 1985; White 2016). Nearly parallel noises are interpolated linearly.
 */
export function slerp(from: Samples, to: Samples, share: number): Samples {
  const images = from.shape[0] ?? 1;
  const size = from.data.length / images;
  const data = new Float32Array(from.data.length);
  for (let n = 0; n < images; n++) {
    const a = from.data.subarray(n * size, (n + 1) * size);
    const b = to.data.subarray(n * size, (n + 1) * size);
    const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
    let [ofA, ofB] = [1 - share, share];
    if (Math.abs(cosine) < 0.9995) {
      const angle = Math.acos(cosine);
      ofA = Math.sin((1 - share) * angle) / Math.sin(angle);
      ofB = Math.sin(share * angle) / Math.sin(angle);
    }
    for (let i = 0; i < size; i++) data[n * size + i] = ofA * a[i]! + ofB * b[i]!;
  }
  return { ...from, data };
}

function mix(a: Samples, ofA: number, b: Samples, ofB: number): Samples {
  const data = new Float32Array(a.data.length);
  for (let i = 0; i < data.length; i++) data[i] = ofA * a.data[i]! + ofB * b.data[i]!;
  return { ...a, data };
}

function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

/** A mask of one channel or one image, repeated over those of the images. */
function expandedMask(mask: Samples, images: Samples): Float32Array {
  if (mask.data.length === images.data.length) return mask.data;
  const [count = 1, channels = 1] = images.shape;
  const pixels = images.data.length / (count * channels);
  const masks = mask.data.length / pixels;
  invariant(
    masks === 1 || (masks === count && mask.shape[1] === 1),
    `a mask of shape [${mask.shape}] for images of [${images.shape}]`,
  );
  const out = new Float32Array(images.data.length);
  for (let i = 0; i < out.length; i++) {
    const image = masks === 1 ? 0 : Math.floor(i / (channels * pixels));
    out[i] = mask.data[image * pixels + (i % pixels)]!;
  }
  return out;
}
