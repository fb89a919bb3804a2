import { invariant, UserError } from "../core/errors.ts";
import { float32 } from "../core/host-tensor.ts";
import { combine } from "./combine.ts";
import type { Denoiser, Estimate, Network } from "./denoiser.ts";
import type { Level } from "./prediction.ts";
import type { Samples } from "./process.ts";

export interface GuidanceOptions {
  /** w: 1 is no guidance, above 1 away from the unconditional prediction. */
  readonly scale: number;
  /** φ: how much of the conditional prediction's deviation is restored (Lin et al. 2024, section 3.4); 0.7 there. */
  readonly rescale?: number;
  /** Guides only while σ per unit of signal lies inside (Kynkäänniemi et al. 2024, "Applying guidance in a limited interval"). */
  readonly interval?: { readonly minimum: number; readonly maximum: number };
}

/**
 * Classifier-free guidance (Ho & Salimans 2022, eq. 6) around two networks: with the condition and without it. A
 * negative prompt is the condition of the second. Outside the interval only the first is called.
 *
 * @throws UserError for a scale or a rescale that is none, and an interval that holds no level
 */
export function guided(conditional: Network, unconditional: Network, options: GuidanceOptions): Network {
  checked(options);
  return async (x, timestep, at) => {
    const said = await conditional(x, timestep, at);
    if (!guides(options, at.level)) return said;
    return guide(said, await unconditional(x, timestep, at), options);
  };
}

/** Whether guidance applies at a level. A pipeline that calls both conditions in one batch asks this first. */
export function guides({ scale, interval }: GuidanceOptions, { alpha, sigma }: Level): boolean {
  if (scale === 1) return false;
  if (!interval) return true;
  const ratio = alpha === 0 ? Number.POSITIVE_INFINITY : sigma / alpha;
  return ratio >= interval.minimum && ratio <= interval.maximum;
}

/** unconditional + w (conditional − unconditional), and its rescaling per image (Lin et al. 2024, eq. 14–16). */
export function guide(conditional: Samples, unconditional: Samples, { scale, rescale = 0 }: GuidanceOptions): Samples {
  invariant(conditional.data.length === unconditional.data.length, "guidance between predictions of different sizes");
  const data = combine([scale, 1 - scale], [conditional.data, unconditional.data]);
  if (rescale > 0) {
    const images = conditional.shape[0]!;
    const size = data.length / images;
    for (let n = 0; n < images; n++) {
      const image = data.subarray(n * size, (n + 1) * size);
      const wanted = deviation(conditional.data.subarray(n * size, (n + 1) * size));
      const given = deviation(image);
      // Of a prediction that is one number everywhere there is nothing to restore.
      const factor = given === 0 ? 1 : rescale * (wanted / given) + (1 - rescale);
      for (let i = 0; i < size; i++) image[i]! *= factor;
    }
  }
  return float32(conditional.shape, data);
}

/** ∇ log p(y | x) of a classifier that was trained on noisy images, of the shape of x. */
export type ClassifierGradient = (x: Samples, level: Level) => Promise<Samples>;

/**
 * Classifier guidance (Dhariwal & Nichol 2021, Algorithm 2): ε̂ = ε − σ s ∇ log p(y | x), and the x0 that belongs to it.
 *
 * Where no signal is left (α = 0, a terminal SNR of zero) x says nothing of y: the gradient is 0 and is not asked for.
 */
export function classifierGuided(denoise: Denoiser, gradient: ClassifierGradient, scale = 1): Denoiser {
  return async (x, level, call) => {
    const prediction = await denoise(x, level, call);
    if (level.alpha === 0) return prediction;
    const slope = (await gradient(x, level)).data;
    const moved = ({ x0, noise }: Estimate, { alpha, sigma }: Level): Estimate => ({
      noise: combine([1, -sigma * scale], [noise, slope]),
      x0: combine([1, (sigma * sigma * scale) / alpha], [x0, slope]),
    });
    return {
      ...prediction,
      ...moved(prediction, level),
      read: (output, at, other) => moved(prediction.read(output, at, other), other),
    };
  };
}

function checked({ scale, rescale = 0, interval }: GuidanceOptions): void {
  if (!Number.isFinite(scale))
    throw new UserError(`A guidance scale of ${scale} is not possible.`, { field: "guidance" });
  if (!(rescale >= 0 && rescale <= 1)) {
    throw new UserError(`A guidance rescale of ${rescale} is not possible.`, {
      hint: "Give a number from 0 to 1.",
      field: "rescale",
    });
  }
  if (interval && !(interval.minimum >= 0 && interval.maximum >= interval.minimum)) {
    throw new UserError(`A guidance interval from ${interval.minimum} to ${interval.maximum} holds no level.`, {
      hint: "Give σ per unit of signal, 0 or more, the smaller first.",
      field: "interval",
    });
  }
}

/** With Bessel's correction, as torch's `std`; 0 for a single number. */
function deviation(values: Float32Array): number {
  if (values.length === 1) return 0;
  let mean = 0;
  for (const value of values) mean += value;
  mean /= values.length;
  let squares = 0;
  for (const value of values) squares += (value - mean) ** 2;
  return Math.sqrt(squares / (values.length - 1));
}

/**
 * The embedding of a guidance scale that latent consistency models are told (Luo et al. 2023, section 4.2): sines and
 * cosines of 1000 w, in float32 as diffusers computes it.
 */
export function guidanceEmbedding(w: number, width: number): Float32Array {
  const f = Math.fround;
  const half = Math.floor(width / 2);
  const step = f(f(Math.log(10000)) / (half - 1));
  const scaled = f(f(w) * 1000);
  const row = new Float32Array(width);
  for (let i = 0; i < half; i++) {
    const angle = f(scaled * f(Math.exp(f(-step * i))));
    row[i] = Math.sin(angle);
    row[half + i] = Math.cos(angle);
  }
  return row;
}
