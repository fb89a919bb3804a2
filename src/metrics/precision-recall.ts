import { UserError } from "../core/errors.ts";
import { comparableRows, type FeatureRows, type Features } from "./features.ts";

export interface PrecisionRecall {
  /** The share of generated samples that lie among real ones: quality. */
  readonly precision: number;
  /** The share of real samples that lie among generated ones: variety. */
  readonly recall: number;
}

/**
 * Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1–2): a sample lies among others if it is within (≤)
 * the distance of some of them to its k-th nearest neighbour, itself not counted.
 *
 * @param real [samples, features], more than k samples
 * @param generated the same number of features
 * @throws UserError for features that cannot be compared or too few of them
 */
export function precisionRecall(real: Features, generated: Features, { k = 3 }: { k?: number } = {}): PrecisionRecall {
  if (!Number.isInteger(k) || k < 1) {
    throw new UserError(`k is ${k}; a whole number >= 1 is needed.`, { field: "k" });
  }
  const [x, y] = comparableRows([real, generated], k + 1);
  return { precision: shareAmong(y, x, k), recall: shareAmong(x, y, k) };
}

/** The share of `points` that lie among `others`. */
function shareAmong(points: FeatureRows, others: FeatureRows, k: number): number {
  const radii = Float64Array.from({ length: others.count }, (_, i) => squaredRadius(others, i, k));
  let inside = 0;
  for (let i = 0; i < points.count; i++) {
    for (let j = 0; j < others.count; j++) {
      if (squaredDistance(points, i, others, j) <= radii[j]!) {
        inside++;
        break;
      }
    }
  }
  return inside / points.count;
}

/** The squared distance of row i to its k-th nearest neighbour. */
function squaredRadius(rows: FeatureRows, i: number, k: number): number {
  const nearest: number[] = []; // ascending, at most k
  for (let j = 0; j < rows.count; j++) {
    if (j === i) continue;
    const distance = squaredDistance(rows, i, rows, j);
    if (nearest.length === k && distance >= nearest[k - 1]!) continue;
    let at = nearest.length;
    while (at > 0 && nearest[at - 1]! > distance) at--;
    nearest.splice(at, 0, distance);
    if (nearest.length > k) nearest.pop();
  }
  return nearest[k - 1]!;
}

function squaredDistance(a: FeatureRows, i: number, b: FeatureRows, j: number): number {
  const { width } = a;
  let sum = 0;
  for (let n = 0, p = i * width, q = j * width; n < width; n++) sum += (a.data[p + n]! - b.data[q + n]!) ** 2;
  return sum;
}
