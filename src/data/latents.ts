import { float32, type HostTensor } from "../core/host-tensor.ts";
import { type BatchPosition, shuffled } from "./shuffled.ts";

/** Pictures as an autoencoder encodes them, for a denoiser to be trained on. */
export interface LatentDataset {
  /** For people: the set that was encoded. */
  readonly name: string;
  readonly count: number;
  /** Of a latent; the encoder's moments have twice as many. */
  readonly channels: number;
  readonly height: number;
  readonly width: number;
  /** What latents are multiplied by, and what is taken from them before, to be about standard normal. */
  readonly scalingFactor: number;
  readonly shiftFactor: number;
  /** Mean and logarithm of the variance of one picture's latent, [2·channels, height, width]. */
  moments(picture: number): Float32Array;
  readonly captions?: readonly (readonly string[])[];
  readonly labels?: Int32Array;
  readonly classNames?: readonly string[];
  /** A hash of the pictures, their words and the autoencoder. */
  readonly fingerprint: string;
}

/** One batch of latents. */
export interface LatentBatch {
  /** [batch, 2·channels, height, width] */
  readonly moments: HostTensor<"float32">;
  /** One caption for each, newly chosen every epoch, where the set has captions. */
  readonly captions?: readonly string[];
  readonly labels?: readonly number[];
}

/**
 * Endless batches of latents, newly shuffled every epoch as `batches` does it; which of a picture's captions is taken
 * follows from seed and epoch too, so resuming at a position is exact.
 */
export function latentBatches(
  latents: LatentDataset,
  options: { readonly batch: number; readonly seed?: number; readonly from?: BatchPosition },
): { next(): LatentBatch; position(): BatchPosition } {
  const { batch } = options;
  const { channels, height, width, captions, labels } = latents;
  const size = 2 * channels * height * width;
  const order = shuffled(latents, { ...options, choices: true });
  return {
    next() {
      const data = new Float32Array(batch * size);
      const chosen = Array.from({ length: batch }, (_, i) => {
        const { index, choice } = order.next();
        data.set(latents.moments(index), i * size);
        const own = captions?.[index];
        return { index, caption: own?.[Math.floor(choice * own.length)] };
      });
      return {
        moments: float32([batch, 2 * channels, height, width], data),
        ...(captions ? { captions: chosen.map(({ caption }) => caption!) } : {}),
        ...(labels ? { labels: chosen.map(({ index }) => labels[index]!) } : {}),
      };
    },
    position: order.position,
  };
}
