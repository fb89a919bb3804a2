import { describe, expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { float32 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { judgeMemorization, nearestNeighbours, neighboursAmongThemselves, typicalDistance } from "./index.ts";

const line = (...places: number[]) => float32([places.length, 1], places);

describe("nearest neighbours", () => {
  test("come in order of their distance, of equals the first", () => {
    const { indices, distances } = nearestNeighbours(line(2.5, 10), line(0, 2, 3, 7), { k: 3 });
    expect([...indices]).toEqual([1, 2, 0, 3, 2, 1]);
    expect([...distances]).toEqual([0.5, 0.5, 2.5, 3, 7, 8]);
  });

  test("among themselves leave out each row, but not its double", () => {
    const { indices, distances } = neighboursAmongThemselves(line(0, 1, 1, 5));
    expect([...indices]).toEqual([1, 2, 1, 1]);
    expect([...distances]).toEqual([1, 0, 0, 4]);
  });

  test("of many features are those that a plain search over all finds", () => {
    // More features than are summed between two looks at the limit.
    const [a, b, width] = [seeded(1).normal([20, 150]), seeded(2).normal([90, 150]), 150];
    const { indices, distances } = nearestNeighbours(a, b, { k: 4 });
    for (let i = 0; i < 20; i++) {
      const all = Array.from({ length: 90 }, (_, j) => {
        let sum = 0;
        for (let n = 0; n < width; n++) sum += (a.data[i * width + n]! - b.data[j * width + n]!) ** 2;
        return { j, distance: Math.sqrt(sum) };
      }).sort((x, y) => x.distance - y.distance);
      expect([...indices.slice(4 * i, 4 * i + 4)]).toEqual(all.slice(0, 4).map(({ j }) => j));
      expect(distances[4 * i + 3]).toBeCloseTo(all[3]!.distance, 9);
    }
  });

  test("need enough samples", () => {
    expect(() => nearestNeighbours(line(0), line(1, 2), { k: 3 })).toThrow(UserError);
    expect(() => neighboursAmongThemselves(line(1, 2), { k: 2 })).toThrow(UserError);
    expect(() => nearestNeighbours(line(0), line(1), { k: 0 })).toThrow(/k is 0/);
  });
});

describe("a judgement of memorization", () => {
  test("counts what is nearer than training pictures to each other, and what is much nearer to one than to all others", () => {
    const training = line(0, 10, 20, 31); // nearest others at 10, 10, 10, 11
    const judged = judgeMemorization(line(0.5, 4, 16, 50), training);
    // Distances to the two nearest: 0.5 and 9.5, 4 and 6, 4 and 6, 19 and 30.
    expect(judged).toMatchObject({ nearerThanTypical: 3 / 4, copies: 1 / 4, medianDistance: 4, typicalDistance: 10 });
    expect([...judged.neighbours.indices.slice(0, 3)]).toEqual([0, 1, 2]);
  });

  test("finds half of new samples of the same distribution nearer, and all of copies", () => {
    const training = seeded(1).normal([400, 6]);
    const typical = typicalDistance(training);
    const fresh = judgeMemorization(seeded(2).normal([400, 6]), training, { typical });
    // Shares of 400 samples, correlated by their common training set.
    expect(Math.abs(fresh.nearerThanTypical - 0.5)).toBeLessThan(0.1);
    expect(fresh.copies).toBeLessThan(0.02);
    const noise = seeded(3).normal([400, 6]);
    const copied = { ...training, data: training.data.map((x, i) => x + 0.01 * noise.data[i]!) };
    expect(judgeMemorization(copied, training, { typical })).toMatchObject({ nearerThanTypical: 1 });
    expect(judgeMemorization(copied, training, { typical }).copies).toBeGreaterThan(0.95);
  });
});
