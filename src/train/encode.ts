import { createHash } from "node:crypto";
import { type Dataset, fingerprint, imagesAt, type LatentDataset } from "../data/index.ts";
import type { AutoencoderSession } from "./autoencoder-session.ts";

export interface EncodeOptions {
  /** Images the encoder sees at once. */
  readonly batch?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number) => void;
}

/** Encodes a data set once: the moments of every picture, with its words. */
export async function encodeDataset(
  dataset: Dataset,
  autoencoder: AutoencoderSession,
  { batch = 16, signal, onProgress }: EncodeOptions = {},
): Promise<LatentDataset> {
  const { config, factor } = autoencoder;
  const { count, captions, labels, classNames } = dataset;
  const [channels, height, width] = [config.latent_channels, dataset.height / factor, dataset.width / factor];
  const size = 2 * channels * height * width;
  const all = new Float32Array(count * size);
  for (let first = 0; first < count; first += batch) {
    signal?.throwIfAborted();
    // The last batch is filled up with pictures that were encoded already, so that one session serves all.
    const start = Math.max(0, Math.min(first, count - batch));
    const here = Math.min(batch, count);
    const { data } = await autoencoder.encode(
      imagesAt(
        dataset,
        Uint32Array.from({ length: here }, (_, i) => start + i),
      ),
    );
    all.set(data, start * size);
    onProgress?.(start + here, count);
  }
  const { factor: scalingFactor, shift: shiftFactor } = latentScale(config, all, [count, channels, height * width]);
  const hash = createHash("sha256").update(fingerprint(dataset));
  hash.update(JSON.stringify(config)).update(new Uint8Array(all.buffer));
  return {
    ...{ name: dataset.name, count, channels, height, width, scalingFactor, shiftFactor },
    moments: (picture) => all.subarray(picture * size, (picture + 1) * size),
    ...{ captions, labels, classNames },
    fingerprint: hash.digest("hex"),
  };
}

/**
 * What makes latents have deviation 1, as Rombach et al. 2022 (appendix G) measure it: one over the deviation of all
 * numbers of all means. An autoencoder that has a scaling factor already keeps it.
 *
 * @param moments of all pictures
 * @param shape pictures, channels of a latent, numbers of a channel
 */
export function latentScale(
  {
    scaling_factor: known,
    shift_factor: shift,
  }: { readonly scaling_factor: number; readonly shift_factor: number | null },
  moments: Float32Array,
  [count, channels, pixels]: readonly [number, number, number],
): { factor: number; shift: number } {
  if (known !== 1) return { factor: known, shift: shift ?? 0 };
  const n = count * channels * pixels;
  let sum = 0;
  let squares = 0;
  for (let picture = 0; picture < count; picture++) {
    const at = picture * 2 * channels * pixels;
    for (let i = at; i < at + channels * pixels; i++) {
      sum += moments[i]!;
      squares += moments[i]! ** 2;
    }
  }
  return { factor: 1 / Math.sqrt(squares / n - (sum / n) ** 2), shift: 0 };
}
