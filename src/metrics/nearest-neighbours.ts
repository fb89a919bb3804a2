import { UserError } from "../core/errors.ts";
import { comparableRows, type FeatureRows, type Features } from "./features.ts";

/** The rows of a set that are nearest to each query, the nearest first; of equals the one that comes first. */
export interface Neighbours {
  /** [queries, k]: rows of the set. */
  readonly indices: Uint32Array;
  /** [queries, k]: Euclidean distances. */
  readonly distances: Float64Array;
}

/**
 * The k nearest rows of `set` for each row of `queries`.
 *
 * @param queries [queries, features]
 * @param set [samples, features], at least k samples
 * @throws UserError for features that cannot be compared or too few of them
 */
export function nearestNeighbours(
  queries: Features,
  set: Features,
  { k = 1 }: { readonly k?: number } = {},
): Neighbours {
  checkNeighbours(k);
  const [rows, others] = comparableRows([queries, set], 1);
  if (others.count < k) {
    throw new UserError(`${k} neighbours were asked for of ${others.count} samples.`, { field: "k" });
  }
  return neighboursOf(rows, k, (i) => nearestRows(rows, i, others, k));
}

/**
 * The k nearest other rows for each row of a set.
 *
 * @param set [samples, features], more than k samples
 * @throws UserError for features that cannot be compared or too few of them
 */
export function neighboursAmongThemselves(set: Features, { k = 1 }: { readonly k?: number } = {}): Neighbours {
  checkNeighbours(k);
  const [rows] = comparableRows([set], k + 1);
  return neighboursOf(rows, k, (i) => nearestRows(rows, i, rows, k, i));
}

function neighboursOf(
  { count }: FeatureRows,
  k: number,
  find: (i: number) => ReturnType<typeof nearestRows>,
): Neighbours {
  const indices = new Uint32Array(count * k);
  const distances = new Float64Array(count * k);
  for (let i = 0; i < count; i++) {
    find(i).forEach(({ row, squared }, j) => {
      indices[i * k + j] = row;
      distances[i * k + j] = Math.sqrt(squared);
    });
  }
  return { indices, distances };
}

/** UserError unless `k` can be a number of neighbours. */
export function checkNeighbours(k: number): void {
  if (!Number.isInteger(k) || k < 1) {
    throw new UserError(`k is ${k}; a whole number >= 1 is needed.`, { field: "k" });
  }
}

/** The k rows of `others` nearest to row i of `rows`, ascending; the row `except` of others is not counted. */
export function nearestRows(
  rows: FeatureRows,
  i: number,
  others: FeatureRows,
  k: number,
  except?: number,
): readonly { readonly row: number; readonly squared: number }[] {
  const nearest: { readonly row: number; readonly squared: number }[] = [];
  for (let row = 0; row < others.count; row++) {
    if (row === except) continue;
    const limit = nearest.length === k ? nearest[k - 1]!.squared : Number.POSITIVE_INFINITY;
    const squared = squaredDistance(rows, i, others, row, limit);
    if (squared >= limit) continue;
    let at = nearest.length;
    while (at > 0 && nearest[at - 1]!.squared > squared) at--;
    nearest.splice(at, 0, { row, squared });
    if (nearest.length > k) nearest.pop();
  }
  return nearest;
}

/** Features between two looks at whether the limit is reached. */
const STRIDE = 64;

/** The squared distance of two rows; where it reaches `limit`, any number from there on. */
export function squaredDistance(
  a: FeatureRows,
  i: number,
  b: FeatureRows,
  j: number,
  limit = Number.POSITIVE_INFINITY,
): number {
  const { width } = a;
  const [p, q] = [i * width, j * width];
  let sum = 0;
  for (let n = 0; n < width && sum < limit; ) {
    for (const end = Math.min(n + STRIDE, width); n < end; n++) sum += (a.data[p + n]! - b.data[q + n]!) ** 2;
  }
  return sum;
}
