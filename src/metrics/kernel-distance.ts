import { comparableRows, type FeatureRows, type Features } from "./features.ts";

/**
 * The kernel distance between two sets of features (Bińkowski et al. 2018, section 4): the unbiased estimate of the
 * squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) under the kernel (x·y/d + 1)³, over all pairs at once.
 * Being unbiased it does not depend on the number of samples, and may come out negative.
 *
 * @param a [samples, features], at least 2 samples
 * @param b the same number of features
 * @throws UserError for features that cannot be compared
 */
export function kernelDistance(a: Features, b: Features): number {
  const [x, y] = comparableRows([a, b], 2);
  return meanWithin(x) + meanWithin(y) - 2 * meanBetween(x, y);
}

/** The mean kernel of two different rows. */
function meanWithin(rows: FeatureRows): number {
  let sum = 0;
  for (let i = 1; i < rows.count; i++) {
    let part = 0;
    for (let j = 0; j < i; j++) part += kernel(rows, i, rows, j);
    sum += part;
  }
  return (2 * sum) / (rows.count * (rows.count - 1));
}

/** The mean kernel of a row of one and a row of the other. */
function meanBetween(a: FeatureRows, b: FeatureRows): number {
  let sum = 0;
  for (let i = 0; i < a.count; i++) {
    let part = 0;
    for (let j = 0; j < b.count; j++) part += kernel(a, i, b, j);
    sum += part;
  }
  return sum / (a.count * b.count);
}

function kernel(a: FeatureRows, i: number, b: FeatureRows, j: number): number {
  const { width } = a;
  let dot = 0;
  for (let k = 0, p = i * width, q = j * width; k < width; k++) dot += a.data[p + k]! * b.data[q + k]!;
  return (dot / width + 1) ** 3;
}
