import { float32 } from "../../core/host-tensor.ts";
import type { Samples } from "../../diffusion/index.ts";
import type { Tensor } from "../../graph/index.ts";
import { diagonalGaussian } from "../../models/index.ts";
import { type ComputeOptions, partSessions } from "../part-sessions.ts";
import type { StableDiffusionFolder } from "./folder.ts";

/** The distribution that a picture is encoded as, before scaling: [1, channels, h, w]. */
export interface Posterior {
  readonly mean: Samples;
  /** Undefined for an autoencoder that gives one latent. */
  readonly deviation: Samples | undefined;
}

/** The autoencoder of a model, between pictures in −1 … 1 and the latents that the U-Net sees. */
export interface LatentSpace {
  encode(picture: Samples, options?: { readonly signal?: AbortSignal }): Promise<Posterior>;
  /** A latent drawn with noise [n, …]; the noise is undefined where there is no deviation. */
  draw(posterior: Posterior, noise: Samples | undefined): Samples;
  /** [n, channels, h, w] → [n, 3, H, W] in −1 … 1 and a little beyond. */
  decode(latents: Samples, options?: { readonly signal?: AbortSignal }): Promise<Samples>;
  close(): Promise<void>;
}

/** Opens a model's autoencoder. */
export function latentSpace(folder: Pick<StableDiffusionFolder, "vae">, compute: ComputeOptions): LatentSpace {
  const { network } = folder.vae;
  const sessions = partSessions(folder.vae, compute);
  const scaling = scalingOf(network.config);

  return {
    async encode(picture, options) {
      const job = {
        name: "encode",
        feeds: { picture },
        graph: ({ picture }: Readonly<Record<string, Tensor>>): Record<string, Tensor> => {
          const encoded = network.encode(picture!);
          if ("quant_conv" in network.parts) {
            const { mean, deviation } = diagonalGaussian(encoded);
            return { mean, deviation };
          }
          return { mean: encoded };
        },
      };
      const { mean, deviation } = await sessions.run(job, options);
      return { mean: mean as Samples, deviation: deviation as Samples | undefined };
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

    async decode(latents, options) {
      const job = {
        name: "decode",
        feeds: { latents: scaling.fromLatents(latents) },
        graph: (inputs: Readonly<Record<string, Tensor>>) => ({ picture: network.decode(inputs.latents!) }),
      };
      return (await sessions.run(job, options)).picture as Samples;
    },

    close: sessions.close,
  };
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
