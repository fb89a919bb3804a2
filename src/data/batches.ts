import { type HostTensor, hostTensor } from "../core/host-tensor.ts";
import type { Dataset } from "./dataset.ts";
import { mirror } from "./mirror.ts";
import { type BatchPosition, shuffled } from "./shuffled.ts";

/** Which images of a data set are in a batch. */
export interface BatchImages {
  /** The number of each in the data set. */
  readonly indices: Uint32Array;
  /** Which of them are mirrored (1) or not (0). */
  readonly flipped: Uint8Array;
  /** One caption for each, newly chosen every epoch, where the data set has captions. */
  readonly captions?: readonly string[];
}

/** One batch of a data set. */
export interface Batch extends BatchImages {
  /** [batch, channels, height, width] */
  readonly images: HostTensor<"uint8">;
  /** [batch], where the data set has labels. */
  readonly labels?: HostTensor<"int64">;
}

/** An endless sequence of batches. */
export interface Batches {
  /** The next batch; always full, running over the end of an epoch into the next. */
  next(): Batch;
  /** Where the next batch begins. */
  position(): BatchPosition;
}

/** How batches are drawn. */
export interface BatchOptions {
  /** Images a batch; may exceed the number of images. */
  readonly batch: number;
  readonly seed?: number;
  /** Where to continue (default: the beginning). */
  readonly from?: BatchPosition;
}

/**
 * Endless batches of a data set, newly shuffled every epoch: within one every image occurs once. Order, mirroring and
 * choice of captions follow from the seed and the epoch's number alone, so the position is two numbers and resuming at
 * it is exact.
 *
 * @throws UserError for a batch size that is no whole number >= 1 or a position outside the data
 */
export function batches(dataset: Dataset, options: BatchOptions): Batches {
  const { batch } = options;
  const { channels, height, width, labels } = dataset;
  const order = chosenImages(dataset, options);
  const size = channels * height * width;

  return {
    next() {
      const data = new Uint8Array(batch * size);
      const chosen = order.next();
      chosen.indices.forEach((image, i) => {
        const source = dataset.images.subarray(image * size, (image + 1) * size);
        const target = data.subarray(i * size, (i + 1) * size);
        if (chosen.flipped[i]) mirror(source, target, width);
        else target.set(source);
      });
      const classes = labels && BigInt64Array.from(chosen.indices, (image) => BigInt(labels[image]!));
      return {
        images: hostTensor("uint8", [batch, channels, height, width], data),
        ...(classes ? { labels: hostTensor("int64", [batch], classes) } : {}),
        ...chosen,
      };
    },
    position: order.position,
  };
}

/** Which images go into each batch of a data set, whatever stands for the images. */
export function chosenImages(
  data: Pick<Dataset, "name" | "count" | "flip" | "captions">,
  options: BatchOptions,
): { next(): BatchImages; position(): BatchPosition } {
  const { captions, flip } = data;
  const order = shuffled(data, { ...options, flip, choices: captions !== undefined });
  return {
    next() {
      const places = Array.from({ length: options.batch }, () => order.next());
      return {
        indices: Uint32Array.from(places, ({ index }) => index),
        flipped: Uint8Array.from(places, ({ mirrored }) => Number(mirrored)),
        ...(captions ? { captions: places.map(({ index, choice }) => one(captions[index]!, choice)) } : {}),
      };
    },
    position: order.position,
  };
}

/** The item that a number from 0 to below 1 chooses. */
function one<T>(items: readonly T[], choice: number): T {
  return items[Math.floor(choice * items.length)]!;
}
