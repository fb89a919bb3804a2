import { UserError } from "../core/errors.ts";
import { seeded } from "../core/random.ts";

/** Where a sequence of batches stands: plain data that a checkpoint keeps. */
export interface BatchPosition {
  /** Whole passes over the data so far. */
  readonly epoch: number;
  /** Images of the present pass that were handed out. */
  readonly index: number;
}

/** One item of a data set as a pass hands it out. */
export interface Shuffled {
  /** Which item. */
  readonly index: number;
  /** Whether it is to be mirrored. */
  readonly mirrored: boolean;
  /** A number from 0 to below 1, to choose one of several captions by. */
  readonly choice: number;
}

/** What decides the order. */
export interface ShuffleOptions {
  readonly batch: number;
  readonly seed?: number;
  /** Where to continue (default: the beginning). */
  readonly from?: BatchPosition;
  /** Mirror half of the items. */
  readonly flip?: boolean;
  /** Draw a `choice` for each (otherwise it is 0). */
  readonly choices?: boolean;
}

/**
 * The items of a data set without end, newly shuffled every epoch: within one every item occurs once. Order, mirroring and
 * choices of an epoch follow from the seed and the epoch's number alone, so the position is two numbers and resuming at it
 * is exact.
 *
 * @throws UserError for a batch size that is no whole number >= 1 or a position outside the data
 */
export function shuffled(
  { name, count }: { readonly name: string; readonly count: number },
  { batch, seed = 0, from = { epoch: 0, index: 0 }, flip = false, choices = false }: ShuffleOptions,
): { next(): Shuffled; position(): BatchPosition } {
  if (!Number.isInteger(batch) || batch < 1) {
    throw new UserError(`The batch size is ${batch}; a whole number >= 1 is needed.`, { field: "batch" });
  }
  if (![from.epoch, from.index].every((n) => Number.isSafeInteger(n) && n >= 0) || from.index >= count) {
    throw new UserError(
      `Data position (epoch ${from.epoch}, image ${from.index}) is not one of ${name}, which has ${count} images.`,
      { hint: "Was the run started with other data?" },
    );
  }
  let { epoch, index: place } = from;
  const passOf = (number: number) => {
    const random = seeded(mixed(seed, number));
    const order = random.permutation(count);
    const mirrored = flip ? random.bernoulli(0.5, [count]).data : undefined;
    return { order, mirrored, choice: choices ? random.uniform([count]).data : undefined };
  };
  let pass = passOf(epoch);
  return {
    next() {
      const { order, mirrored, choice } = pass;
      const item = { index: order[place]!, mirrored: Boolean(mirrored?.[place]), choice: choice?.[place] ?? 0 };
      if (++place === count) {
        place = 0;
        pass = passOf(++epoch);
      }
      return item;
    },
    position: () => ({ epoch, index: place }),
  };
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
