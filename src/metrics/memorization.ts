import type { Features } from "./features.ts";
import { type Neighbours, nearestNeighbours, neighboursAmongThemselves } from "./nearest-neighbours.ts";

/** How near generated pictures are to those that were trained on. */
export interface Memorization {
  /**
   * The share of pictures that are nearer to a training picture than the median training picture is to another. Half of
   * new pictures like those of training are; more means that training pictures are repeated.
   */
  readonly nearerThanTypical: number;
  /** The share whose nearest training picture is at less than a third of the distance of the second nearest. */
  readonly copies: number;
  /** The median distance of a picture to its nearest training picture. */
  readonly medianDistance: number;
  /** The median distance of a training picture to its nearest other. */
  readonly typicalDistance: number;
  /** The nearest training pictures of each, `NEIGHBOURS` a picture, the nearest first. */
  readonly neighbours: Neighbours;
}

/** Training pictures that are found for each picture. */
export const NEIGHBOURS = 3;

/** From which ratio of the two nearest distances on a picture counts as new. */
const COPY_RATIO = 1 / 3;

/** The median distance of a training picture to its nearest other: what {@link judgeMemorization} compares with. */
export function typicalDistance(training: Features): number {
  return median(neighboursAmongThemselves(training).distances);
}

/**
 * Compares the distances of pictures to their nearest training pictures with those of training pictures among themselves,
 * and finds copies as Yoon et al. (2023) and Gu et al. (2023) define them: pictures with d₁ < d₂/3 for the distances d₁ and d₂ of
 * the nearest and the second nearest training picture. Neither sees everything: where training pictures differ little
 * among themselves (twelve faces of a clock) the ratio finds no copies, and blurred pictures are near to everything in
 * pixels. Held-out real pictures, judged in the same way, say what a model that repeats nothing would get.
 *
 * @param pictures [n, features]: features of a network, or pixels
 * @param training [samples, features], at least {@link NEIGHBOURS}
 * @param typical of the training pictures, where it is known already
 * @throws UserError for features that cannot be compared
 */
export function judgeMemorization(
  pictures: Features,
  training: Features,
  { typical = typicalDistance(training) }: { readonly typical?: number } = {},
): Memorization {
  const neighbours = nearestNeighbours(pictures, training, { k: NEIGHBOURS });
  const count = pictures.shape[0]!;
  const distance = (i: number, place: number) => neighbours.distances[i * NEIGHBOURS + place]!;
  const indices = Array.from({ length: count }, (_, i) => i);
  const share = (holds: (i: number) => boolean) => indices.filter(holds).length / count;
  return {
    nearerThanTypical: share((i) => distance(i, 0) < typical),
    copies: share((i) => distance(i, 0) < COPY_RATIO * distance(i, 1)),
    medianDistance: median(indices.map((i) => distance(i, 0))),
    typicalDistance: typical,
    neighbours,
  };
}

function median(numbers: ArrayLike<number>): number {
  const sorted = Float64Array.from(numbers).sort();
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
