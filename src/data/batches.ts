import { type HostTensor, hostTensor } from "../core/host-tensor.ts";
import type { Dataset } from "./dataset.ts";
import { type BatchPosition, shuffled } from "./shuffled.ts";

/** One batch of a data set. */
export interface Batch {
  /** [batch, channels, height, width] */
  readonly images: HostTensor<"uint8">;
  /** [batch], where the data set has labels. */
  readonly labels?: HostTensor<"int64">;
  /** Which image of the data set each is. */
  readonly indices: Uint32Array;
  /** Which of them are mirrored (1) or not (0). */
  readonly flipped: Uint8Array;
}

/** An endless sequence of batches. */
export interface Batches {
  /** The next batch; always full, running over the end of an epoch into the next. */
  next(): Batch;
  /** Where the next batch begins. */
  position(): BatchPosition;
}

/**
 * Endless batches of a data set, newly shuffled every epoch: within one every image occurs once. The order and the
 * mirroring of an epoch follow from the seed and the epoch's number alone, so the position is two numbers and resuming
 * at it is exact.
 *
 * @param options.batch images a batch; may exceed the number of images
 * @param options.from where to continue (default: the beginning)
 * @throws UserError for a batch size that is no whole number >= 1 or a position outside the data
 */
export function batches(
  dataset: Dataset,
  options: { readonly batch: number; readonly seed?: number; readonly from?: BatchPosition },
): Batches {
  const { batch } = options;
  const { channels, height, width, labels, flip } = dataset;
  const order = shuffled(dataset, { ...options, flip });
  const size = channels * height * width;

  return {
    next() {
      const data = new Uint8Array(batch * size);
      const classes = labels ? new BigInt64Array(batch) : undefined;
      const indices = new Uint32Array(batch);
      const flipped = new Uint8Array(batch);
      for (let i = 0; i < batch; i++) {
        const { index: image, mirrored } = order.next();
        const source = dataset.images.subarray(image * size, (image + 1) * size);
        const target = data.subarray(i * size, (i + 1) * size);
        if (mirrored) mirror(source, target, width);
        else target.set(source);
        indices[i] = image;
        flipped[i] = mirrored ? 1 : 0;
        if (classes) classes[i] = BigInt(labels![image]!);
      }
      return {
        images: hostTensor("uint8", [batch, channels, height, width], data),
        ...(classes ? { labels: hostTensor("int64", [batch], classes) } : {}),
        indices,
        flipped,
      };
    },
    position: order.position,
  };
}

/** Copies rows of `width` samples, each turned round. */
function mirror(source: Uint8Array, target: Uint8Array, width: number): void {
  for (let row = 0; row < source.length; row += width) {
    for (let x = 0; x < width; x++) target[row + x] = source[row + width - 1 - x]!;
  }
}
