import { UserError } from "../core/errors.ts";
import { type HostTensor, hostTensor } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import type { Dataset } from "./dataset.ts";

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

/** Where a sequence of batches stands: plain data that a checkpoint keeps. */
export interface BatchPosition {
  /** Whole passes over the data so far. */
  readonly epoch: number;
  /** Images of the present pass that were handed out. */
  readonly index: number;
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
  const { batch, seed = 0, from = { epoch: 0, index: 0 } } = options;
  const { count, channels, height, width, labels, flip } = dataset;
  if (!Number.isInteger(batch) || batch < 1) {
    throw new UserError(`The batch size is ${batch}; a whole number >= 1 is needed.`, { field: "batch" });
  }
  if (![from.epoch, from.index].every((n) => Number.isSafeInteger(n) && n >= 0) || from.index >= count) {
    throw new UserError(
      `Data position (epoch ${from.epoch}, image ${from.index}) is not one of ${dataset.name}, which has ${count} images.`,
      { hint: "Was the run started with other data?" },
    );
  }
  const size = channels * height * width;
  let { epoch, index } = from;
  let pass = passOf(count, flip, seed, epoch);

  return {
    next() {
      const data = new Uint8Array(batch * size);
      const classes = labels ? new BigInt64Array(batch) : undefined;
      const indices = new Uint32Array(batch);
      const flipped = new Uint8Array(batch);
      for (let i = 0; i < batch; i++) {
        const image = pass.order[index]!;
        const source = dataset.images.subarray(image * size, (image + 1) * size);
        const target = data.subarray(i * size, (i + 1) * size);
        if (pass.mirrored?.[index]) mirror(source, target, width);
        else target.set(source);
        indices[i] = image;
        flipped[i] = pass.mirrored?.[index] ?? 0;
        if (classes) classes[i] = BigInt(labels![image]!);
        if (++index === count) {
          index = 0;
          epoch++;
          pass = passOf(count, flip, seed, epoch);
        }
      }
      return {
        images: hostTensor("uint8", [batch, channels, height, width], data),
        ...(classes ? { labels: hostTensor("int64", [batch], classes) } : {}),
        indices,
        flipped,
      };
    },
    position: () => ({ epoch, index }),
  };
}

interface Pass {
  readonly order: Uint32Array;
  readonly mirrored?: Uint8Array;
}

function passOf(count: number, flip: boolean, seed: number, epoch: number): Pass {
  const random = seeded(mixed(seed, epoch));
  const order = random.permutation(count);
  return flip ? { order, mirrored: Uint8Array.from(random.bernoulli(0.5, [count]).data) } : { order };
}

/** A 32-bit seed from the run's seed and the epoch: two rounds of the SplitMix64 finaliser (Steele et al. 2014). */
function mixed(seed: number, epoch: number): number {
  const finalise = (value: bigint) => {
    let z = BigInt.asUintN(64, value + 0x9e3779b97f4a7c15n);
    z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
    z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn);
    return z ^ (z >> 31n);
  };
  return Number(BigInt.asUintN(32, finalise(finalise(BigInt(seed)) + BigInt(epoch))));
}

/** Copies rows of `width` samples, each turned round. */
function mirror(source: Uint8Array, target: Uint8Array, width: number): void {
  for (let row = 0; row < source.length; row += width) {
    for (let x = 0; x < width; x++) target[row + x] = source[row + width - 1 - x]!;
  }
}
