import { comparableRows, type FeatureRows, type Features } from "./features.ts";
import { checkNeighbours, nearestRows, squaredDistance } from "./nearest-neighbours.ts";

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
  checkNeighbours(k);
  const [x, y] = comparableRows([real, generated], k + 1);
  return { precision: shareAmong(y, x, k), recall: shareAmong(x, y, k) };
}

/** The share of `points` that lie among `others`, within the squared distance of some to its k-th neighbour. */
function shareAmong(points: FeatureRows, others: FeatureRows, k: number): number {
  const radii = Float64Array.from(
    { length: others.count },
    (_, i) => nearestRows(others, i, others, k, i)[k - 1]!.squared,
  );
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
