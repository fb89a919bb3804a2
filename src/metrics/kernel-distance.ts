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
  for (let i = 1; i < rows.count; i++) sum += kernelSum(rows, i, rows, i);
  return (2 * sum) / (rows.count * (rows.count - 1));
}

/** The mean kernel of a row of one and a row of the other. */
function meanBetween(a: FeatureRows, b: FeatureRows): number {
  let sum = 0;
  for (let i = 0; i < a.count; i++) sum += kernelSum(a, i, b, b.count);
  return sum / (a.count * b.count);
}

/** The sum of the kernel of row i of a and each of the first `count` rows of b. */
function kernelSum({ data: x, width }: FeatureRows, i: number, { data: y }: FeatureRows, count: number): number {
  const start = i * width;
  let sum = 0;
  let j = 0;
  // Four rows at a time: their sums do not wait for each other, so the processor works on all at once.
  for (; j + 4 <= count; j += 4) {
    const [q, r, s, t] = [j * width, (j + 1) * width, (j + 2) * width, (j + 3) * width];
    let a = 0;
    let b = 0;
    let c = 0;
    let d = 0;
    for (let k = 0; k < width; k++) {
      const value = x[start + k]!;
      a += value * y[q + k]!;
      b += value * y[r + k]!;
      c += value * y[s + k]!;
      d += value * y[t + k]!;
    }
    sum += cubic(a, width) + cubic(b, width) + cubic(c, width) + cubic(d, width);
  }
  for (; j < count; j++) {
    let dot = 0;
    for (let k = 0; k < width; k++) dot += x[start + k]! * y[j * width + k]!;
    sum += cubic(dot, width);
  }
  return sum;
}

function cubic(dot: number, width: number): number {
  const base = dot / width + 1;
  return base * base * base;
}
