import { UserError } from "../core/errors.ts";
import { float32, type HostTensor } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { frechetDistance } from "./frechet-distance.ts";
import { kernelDistance } from "./kernel-distance.ts";

/** A distance over several splits of the real set. */
export interface MeasuredDistance {
  readonly mean: number;
  /** Standard deviation from split to split; 0 for a single one. */
  readonly deviation: number;
}

export interface HalfDistances {
  readonly frechet: MeasuredDistance;
  readonly kernel: MeasuredDistance;
}

export interface HalfOptions {
  /** Random splits of the real set into two halves. */
  readonly splits?: number;
  readonly seed?: number;
}

/**
 * The distances of features to a random half of the real set, over several splits. The Fréchet distance of few samples is
 * too large, so what it is compared with must have as many: {@link realHalfDistances} of the same count, splits and seed
 * compares with the very same halves.
 *
 * @param features [n, features], at least 2
 * @param real [samples, features], at least 4
 * @throws UserError for features that cannot be compared
 */
export function distancesToHalves(
  features: HostTensor<"float32">,
  real: HostTensor<"float32">,
  options: HalfOptions = {},
): HalfDistances {
  return overSplits(real, options, () => features);
}

/**
 * The distances of `count` samples of one half of the real set to the other half: about the best that generated samples
 * can reach without being copies.
 *
 * @throws UserError for more samples than half the set has
 */
export function realHalfDistances(
  real: HostTensor<"float32">,
  { count, ...options }: HalfOptions & { readonly count: number },
): HalfDistances {
  const most = (real.shape[0] ?? 0) >> 1;
  if (count > most) {
    throw new UserError(`${count} samples of half the real set were asked for; it has ${most}.`, { field: "count" });
  }
  return overSplits(real, options, (half) => rowsAt(real, half.subarray(0, count)));
}

function overSplits(
  real: HostTensor<"float32">,
  { splits = 10, seed = 0 }: HalfOptions,
  samples: (firstHalf: Uint32Array) => HostTensor<"float32">,
): HalfDistances {
  const random = seeded(seed);
  const found = Array.from({ length: splits }, () => {
    const order = random.permutation(real.shape[0]!);
    const middle = order.length >> 1;
    const half = rowsAt(real, order.subarray(middle));
    const compared = samples(order.subarray(0, middle));
    return { frechet: frechetDistance(compared, half), kernel: kernelDistance(compared, half) };
  });
  return {
    frechet: measured(found.map(({ frechet }) => frechet)),
    kernel: measured(found.map(({ kernel }) => kernel)),
  };
}

function rowsAt({ shape, data }: HostTensor<"float32">, rows: Uint32Array): HostTensor<"float32"> {
  const width = shape[1]!;
  const chosen = new Float32Array(rows.length * width);
  rows.forEach((row, i) => {
    chosen.set(data.subarray(row * width, (row + 1) * width), i * width);
  });
  return float32([rows.length, width], chosen);
}

function measured(values: readonly number[]): MeasuredDistance {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, deviation: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : 0 };
}
