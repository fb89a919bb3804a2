import { invariant, UserError } from "../core/errors.ts";
import { describeShape, float32, sameShape, sizeOf } from "../core/host-tensor.ts";
import { combine } from "./combine.ts";
import { type Level, type PredictionKind, reading } from "./prediction.ts";
import type { Samples } from "./process.ts";

/** Where in a sampling run a network is called. */
export interface Call {
  /** Counted from 0. */
  readonly step: number;
  readonly steps: number;
}

/**
 * A raw network: what it says about noisy images at a timestep.
 * @param x `[batch, …]`, scaled as the network expects it
 * @param timestep what the network is told; fractional for some samplers
 */
export type Network = (x: Samples, timestep: number, at: Call & { readonly level: Level }) => Promise<Samples>;

/** An estimate of the image and of the noise in x. */
export interface Estimate {
  /** After clipping or thresholding, if any. */
  readonly x0: Float32Array;
  /** As the network has it: clipping x0 does not change it. */
  readonly noise: Float32Array;
}

/** What a denoiser says about x. Arrays are read-only for samplers. */
export interface Prediction extends Estimate {
  /** The network's output that the estimate was read from, without the channels of a learned variance. */
  readonly output: Float32Array;
  /** The output's second half of channels, where the network predicts the variance too. */
  readonly variance?: Float32Array;
  /**
   * Reads an output again against another x: multistep solvers average outputs, and noise added after the call
   * (churn) changes what the output says about the image.
   */
  read(output: Float32Array, x: Samples, level: Level): Estimate;
}

/** The one interface samplers know: x at a level in, what is image and what is noise out. */
export type Denoiser = (x: Samples, level: Level, call: Call) => Promise<Prediction>;

export interface DenoiserOptions {
  readonly prediction: PredictionKind;
  /**
   * Divides the network's input by √(α² d² + σ²), where d is this standard deviation of the training images: 1 for
   * variance-exploding coordinates of a network trained in preserving ones, 0.5 for EDM. As is, by default.
   */
  readonly scaleInput?: number;
  /** Clips x0 to [−clip, clip]. */
  readonly clip?: number;
  readonly threshold?: DynamicThreshold;
  /** The network predicts a variance in a second half of its channels. */
  readonly learnsVariance?: boolean;
}

/** Dynamic thresholding (Saharia et al. 2022, Imagen, section 2.3). */
export interface DynamicThreshold {
  /** The quantile of |x0| that becomes 1, 0.995 usually. */
  readonly ratio: number;
  /** The quantile is taken as at least 1 and at most this. */
  readonly maximum: number;
}

/**
 * Wraps a raw network into a denoiser: scales its input, reads its output as the given kind of prediction and clips.
 *
 * A NaN or infinity in the output is a `UserError` that names the step and the timestep.
 */
export function denoiser(network: Network, options: DenoiserOptions): Denoiser {
  const { prediction, scaleInput, learnsVariance = false } = options;
  const read = (output: Float32Array, x: Samples, level: Level): Estimate => {
    const { x0, noise } = reading(prediction, level);
    return {
      x0: limited(weigh(x0, x.data, output), x, options),
      noise: weigh(noise, x.data, output),
    };
  };
  return async (x, level, call) => {
    const { alpha, sigma } = level;
    const scale = scaleInput === undefined ? 1 : 1 / Math.sqrt(alpha * alpha * scaleInput * scaleInput + sigma * sigma);
    const input = scale === 1 ? x : float32(x.shape, combine([scale], [x.data]));
    const said = await network(input, level.timestep, { ...call, level });
    mustBeFinite(said.data, x, level, call);
    const { output, variance } = learnsVariance ? splitChannels(said, x) : { output: said.data, variance: undefined };
    if (output.length !== x.data.length) {
      throw new UserError(`The network answered ${describeShape(x.shape)} with ${describeShape(said.shape)}.`, {
        hint: "Its output must have the shape of its input; twice the channels only where it predicts a variance.",
      });
    }
    return { output, variance, read, ...read(output, x, level) };
  };
}

/** ε̂ = (x − α x0) / σ: the noise that belongs to x and a (clipped) x0. */
export function noiseBeside(x0: Float32Array, x: Float32Array, { alpha, sigma }: Level): Float32Array {
  const out = new Float32Array(x.length);
  for (let i = 0; i < out.length; i++) out[i] = (x[i]! - alpha * x0[i]!) / sigma;
  return out;
}

/** Clips x0 image by image at a quantile of its magnitudes and divides by it. */
export function thresholded(x0: Float32Array, images: number, { ratio, maximum }: DynamicThreshold): Float32Array {
  const size = x0.length / images;
  const out = new Float32Array(x0.length);
  for (let n = 0; n < images; n++) {
    const start = n * size;
    const magnitudes = x0
      .slice(start, start + size)
      .map(Math.abs)
      .sort();
    const rank = ratio * (size - 1);
    const below = Math.floor(rank);
    const low = magnitudes[below]!;
    const high = magnitudes[Math.min(below + 1, size - 1)]!;
    const limit = Math.min(Math.max(low + (high - low) * (rank - below), 1), maximum);
    for (let i = start; i < start + size; i++) out[i] = Math.min(Math.max(x0[i]!, -limit), limit) / limit;
  }
  return out;
}

function limited(x0: Float32Array, x: Samples, { clip, threshold }: DenoiserOptions): Float32Array {
  if (threshold) return thresholded(x0, x.shape[0]!, threshold);
  if (clip === undefined) return x0;
  const out = new Float32Array(x0.length);
  for (let i = 0; i < out.length; i++) out[i] = Math.min(Math.max(x0[i]!, -clip), clip);
  return out;
}

function weigh([ofX, ofOutput]: readonly [number, number], x: Float32Array, output: Float32Array): Float32Array {
  return ofX === 0 && ofOutput === 1 ? output : combine([ofX, ofOutput], [x, output]);
}

/**
 * A network that also predicts a variance, for samplers that draw none: the half of its channels that predicts the
 * noise. An output of the input's shape is taken as it is.
 */
export function withoutVariance(network: Network): Network {
  return async (x, timestep, at) => {
    const said = await network(x, timestep, at);
    if (said.shape[1] !== 2 * (x.shape[1] ?? 1)) return said;
    return { ...x, data: splitChannels(said, x).output };
  };
}

/** Splits `[batch, 2·channels, …]` into the prediction and the variance, both of the shape of x. */
function splitChannels(said: Samples, x: Samples): { output: Float32Array; variance: Float32Array } {
  const doubled = [x.shape[0]!, 2 * (x.shape[1] ?? 1), ...x.shape.slice(2)];
  if (!sameShape(said.shape, doubled)) {
    throw new UserError(`The network answered ${describeShape(x.shape)} with ${describeShape(said.shape)}.`, {
      hint: `A network that predicts the variance too must answer ${describeShape(doubled)}.`,
    });
  }
  const images = x.shape[0]!;
  const size = sizeOf(x.shape) / images;
  const output = new Float32Array(x.data.length);
  const variance = new Float32Array(x.data.length);
  for (let n = 0; n < images; n++) {
    output.set(said.data.subarray(2 * n * size, (2 * n + 1) * size), n * size);
    variance.set(said.data.subarray((2 * n + 1) * size, (2 * n + 2) * size), n * size);
  }
  return { output, variance };
}

function mustBeFinite(output: Float32Array, x: Samples, level: Level, { step, steps }: Call): void {
  invariant(output instanceof Float32Array, "a network must answer with float32 numbers");
  const bad = firstNonFinite(output);
  if (bad === undefined) return;
  const where = `in step ${step + 1} of ${steps} (timestep ${level.timestep}, σ ${level.sigma})`;
  const given = firstNonFinite(x.data);
  if (given !== undefined) {
    throw new UserError(`The network was given ${given} ${where}.`, {
      hint: "It is not the network's doing: look at the x or the picture that the run began with.",
    });
  }
  throw new UserError(`The network's output holds ${bad} ${where}.`, {
    hint: "Its weights may be damaged or its activations too large for half precision: try dtype fp32.",
  });
}

/** The first NaN or infinity, if there is one. */
export function firstNonFinite(data: Float32Array): number | undefined {
  for (let i = 0; i < data.length; i++) if (!Number.isFinite(data[i]!)) return data[i]!;
  return undefined;
}
