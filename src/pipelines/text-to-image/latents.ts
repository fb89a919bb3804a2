import { float32 } from "../../core/host-tensor.ts";
import type { Samples } from "../../diffusion/index.ts";
import { concat, type Tensor } from "../../graph/index.ts";
import { diagonalGaussian, inTiles } from "../../models/index.ts";
import { type ComputeOptions, partSessions } from "../part-sessions.ts";
import type { TextToImageModel } from "./model.ts";
import { type Seamless, seamlessJob } from "./seamless.ts";

/** The distribution that a picture is encoded as, before scaling: [1, channels, h, w]. */
export interface Posterior {
  readonly mean: Samples;
  /** Undefined for an autoencoder that gives one latent. */
  readonly deviation: Samples | undefined;
}

export interface AutoencoderOptions {
  readonly signal?: AbortSignal;
  /** Works on overlapping tiles of this many pixels, so that memory does not grow with the picture. */
  readonly tile?: number;
  /** Along which axes the picture tiles. */
  readonly seamless?: Seamless;
}

/** The autoencoder of a model, between pictures in −1 … 1 and the latents that the denoising network sees. */
export interface LatentSpace {
  encode(picture: Samples, options?: AutoencoderOptions): Promise<Posterior>;
  /** A latent drawn with noise [n, …]; the noise is undefined where there is no deviation. */
  draw(posterior: Posterior, noise: Samples | undefined): Samples;
  /** [n, channels, h, w] → [n, 3, H, W] in −1 … 1 and a little beyond. */
  decode(latents: Samples, options?: AutoencoderOptions): Promise<Samples>;
  close(): Promise<void>;
}

/** Opens a model's autoencoder. */
export function latentSpace(
  { vae, factor }: Pick<TextToImageModel, "vae" | "factor">,
  compute: ComputeOptions,
): LatentSpace {
  const { network } = vae;
  const sessions = partSessions(vae, compute);
  const scaling = scalingOf(network.config);

  return {
    async encode(picture, { signal, tile, seamless } = {}) {
      const encodeTile = async (part: Samples): Promise<Samples> => {
        const job = {
          name: "encode",
          feeds: { part },
          graph: (inputs: Readonly<Record<string, Tensor>>): Record<string, Tensor> => {
            const encoded = network.encode(inputs.part!);
            if (!("quant_conv" in network.parts)) return { encoded };
            const { mean, deviation } = diagonalGaussian(encoded);
            return { encoded: concat([mean, deviation], 1) };
          },
        };
        return (await sessions.run(seamlessJob(job, seamless), { signal })).encoded as Samples;
      };
      const tiles = tile && { tile, overlap: overlapOf(tile, factor), multiple: factor };
      const encoded = tiles ? await inTiles(picture, encodeTile, tiles) : await encodeTile(picture);
      const { latent_channels: channels } = network.config;
      if (encoded.shape[1] === channels) return { mean: encoded, deviation: undefined };
      // One picture: mean and deviation lie one after the other.
      const half = encoded.data.length / 2;
      const shape = [1, channels, ...encoded.shape.slice(2)];
      return {
        mean: float32(shape, encoded.data.subarray(0, half)),
        deviation: float32(shape, encoded.data.subarray(half)),
      };
    },

    draw({ mean, deviation }, noise) {
      if (!noise || !deviation) return scaling.toLatents(mean);
      const data = new Float32Array(noise.data.length);
      const size = mean.data.length;
      for (let i = 0; i < data.length; i++) {
        data[i] = mean.data[i % size]! + deviation.data[i % size]! * noise.data[i]!;
      }
      return scaling.toLatents(float32(noise.shape, data));
    },

    async decode(latents, { signal, tile, seamless } = {}) {
      const decodeTile = async (part: Samples): Promise<Samples> => {
        const job = {
          name: "decode",
          feeds: { latents: part },
          graph: (inputs: Readonly<Record<string, Tensor>>) => ({ picture: network.decode(inputs.latents!) }),
        };
        return (await sessions.run(seamlessJob(job, seamless), { signal })).picture as Samples;
      };
      const whole = scaling.fromLatents(latents);
      const tiles = tile && { tile: tile / factor, overlap: overlapOf(tile, factor) / factor };
      return tiles ? inTiles(whole, decodeTile, tiles) : decodeTile(whole);
    },

    close: sessions.close,
  };
}

/** A quarter of a tile, on the grid of the latents. */
function overlapOf(tile: number, factor: number): number {
  return Math.floor(tile / 4 / factor) * factor;
}

interface ScalingConfig {
  readonly scaling_factor: number;
  readonly shift_factor?: number | null;
  readonly latents_mean?: readonly number[] | null;
  readonly latents_std?: readonly number[] | null;
}

/** Between what the autoencoder gives and latents of about unit variance: by channel, or one factor for all. */
function scalingOf({ scaling_factor: factor, shift_factor, latents_mean, latents_std }: ScalingConfig) {
  const byChannel = (x: Samples, change: (value: number, channel: number) => number): Samples => {
    const [, channels = 1, h = 1, w = 1] = x.shape;
    return float32(
      x.shape,
      x.data.map((value, i) => change(value, Math.floor(i / (h * w)) % channels)),
    );
  };
  if (latents_mean && latents_std) {
    return {
      toLatents: (x: Samples) => byChannel(x, (value, c) => ((value - latents_mean[c]!) * factor) / latents_std[c]!),
      fromLatents: (x: Samples) => byChannel(x, (value, c) => (value * latents_std[c]!) / factor + latents_mean[c]!),
    };
  }
  const shift = shift_factor ?? 0;
  return {
    toLatents: (x: Samples) => byChannel(x, (value) => (value - shift) * factor),
    fromLatents: (x: Samples) => byChannel(x, (value) => value / factor + shift),
  };
}
