import { float32 } from "../../core/host-tensor.ts";
import type { Samples } from "../../diffusion/index.ts";
import { type HostImage, imagesFromTensor } from "../../io/index.ts";
import type { ComputeOptions } from "../part-sessions.ts";
import { type AutoencoderOptions, latentSpace } from "./latents.ts";
import type { OpenedVae } from "./model.ts";

type Colour = readonly [red: number, green: number, blue: number];

/** How latents look, as pictures in −1 … 1. */
export interface Colours {
  /** What a 1 in each of the channels adds. */
  readonly channels: readonly Colour[];
  readonly offset: Colour;
}

// Fits of the published autoencoders' pictures to their latents, of four channels each: for Stable Diffusion 1.x and 2.x as
// found by the forum's keturn for 1.4 (https://discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204/2, 2022), for
// SDXL by T. A. Vass, there for bytes and so divided by 127.5 here
// (https://huggingface.co/blog/TimothyAlexisVass/explaining-the-sdxl-latent-space, 2023). Where previews begin: see
// `measuredColours` for what becomes of them.
export const COLOURS = {
  stable: {
    channels: [
      [0.298, 0.207, 0.208],
      [0.187, 0.286, 0.173],
      [-0.158, 0.189, 0.264],
      [-0.184, -0.271, -0.473],
    ],
    offset: [0, 0, 0],
  },
  xl: {
    channels: [
      [60 / 127.5, 60 / 127.5, 60 / 127.5],
      [-60 / 127.5, -5 / 127.5, 10 / 127.5],
      [25 / 127.5, 15 / 127.5, -5 / 127.5],
      [-70 / 127.5, -50 / 127.5, -35 / 127.5],
    ],
    offset: [22.5 / 127.5, 12.5 / 127.5, 2.5 / 127.5],
  },
} as const satisfies Record<string, Colours>;

/** Decodes previews: see the option `previewVae`. */
export function previewDecoder({ part, factor }: OpenedVae, compute: ComputeOptions) {
  const space = latentSpace({ vae: part, factor }, compute);
  return {
    decode: async (latents: Samples, { signal, seamless }: AutoencoderOptions): Promise<HostImage[]> =>
      imagesFromTensor(await space.decode(latents, { signal, seamless })),
    close: space.close,
  };
}

/** Small pictures of latents [n, channels, h, w], a pixel each: a linear guess that costs nothing. */
export function latentPreview(latents: Samples, colours: Colours | undefined): HostImage[] {
  const [n = 1, channels = 4, h = 1, w = 1] = latents.shape;
  const plane = h * w;
  // Latents of other autoencoders are shown as gray: the mean of their channels.
  const known = colours?.channels.length === channels ? colours : undefined;
  const data = new Float32Array(n * 3 * plane);
  for (let picture = 0; picture < n; picture++) {
    for (let rgb = 0; rgb < 3; rgb++) {
      const to = (picture * 3 + rgb) * plane;
      if (known) data.fill(known.offset[rgb]!, to, to + plane);
      for (let c = 0; c < channels; c++) {
        const weight = known ? known.channels[c]![rgb]! : 1 / channels;
        const from = (picture * channels + c) * plane;
        for (let i = 0; i < plane; i++) data[to + i]! += weight * latents.data[from + i]!;
      }
    }
  }
  return imagesFromTensor(float32([n, 3, h, w], data));
}
