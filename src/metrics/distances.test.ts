import { describe, expect, test } from "vitest";
import { float32 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import {
  distancesToHalves,
  type Features,
  frechetDistance,
  kernelDistance,
  precisionRecall,
  realHalfDistances,
} from "./index.ts";

/** Features [rows.length, width]. */
const matrix = (rows: readonly (readonly number[])[]): Features => float32([rows.length, rows[0]!.length], rows.flat());
const normal = (seed: number, count: number, width: number, std = 1, mean = 0): Features =>
  seeded(seed).normal([count, width], { std, mean });

describe("the Fréchet distance", () => {
  test("of one feature is the square of the difference of means plus that of the deviations", () => {
    // Deviations (n − 1) are √2 and 2√2, means 1 and 4.
    const a = matrix([[0], [2]]);
    const b = matrix([[2], [6]]);
    expect(frechetDistance(a, b)).toBeCloseTo(9 + (2 * Math.SQRT2 - Math.SQRT2) ** 2, 12);
  });

  test("is zero between a set and itself, in any order of samples", () => {
    const a = normal(1, 50, 8);
    const reversed = matrix(Array.from({ length: 50 }, (_, i) => Array.from(a.data.slice(8 * (49 - i), 8 * (50 - i)))));
    expect(frechetDistance(a, reversed)).toBeCloseTo(0, 9);
  });

  test("is the same both ways, with singular covariances too", () => {
    const a = normal(2, 5, 12);
    const b = normal(3, 30, 12, 2, 1);
    expect(frechetDistance(a, b)).toBeCloseTo(frechetDistance(b, a), 5);
  });

  test("of a moved set is the square of the move, whatever its covariance", () => {
    const a = normal(4, 20, 3);
    const moved = {
      ...a,
      dtype: "float64",
      data: Float64Array.from(a.data, (x, i) => x + [1, 2, -2][i % 3]!),
    } as const;
    expect(frechetDistance(a, moved)).toBeCloseTo(9, 9);
  });
});

describe("the kernel distance", () => {
  test("is that of the definition, worked out by hand", () => {
    // k(x, y) = (xy + 1)³: within a k(0, 1) = 1, within b k(1, 2) = 27, between 1, 1, 8, 27.
    expect(kernelDistance(matrix([[0], [1]]), matrix([[1], [2]]))).toBeCloseTo(1 + 27 - (2 * 37) / 4, 12);
  });

  test("of samples of one distribution is zero on average", () => {
    const distances = Array.from({ length: 40 }, (_, i) =>
      kernelDistance(normal(2 * i, 40, 4), normal(2 * i + 1, 40, 4)),
    );
    const mean = distances.reduce((a, b) => a + b) / 40;
    const deviation = Math.sqrt(distances.reduce((sum, d) => sum + (d - mean) ** 2, 0) / 39);
    expect(Math.abs(mean)).toBeLessThan((3 * deviation) / Math.sqrt(40));
    expect(Math.min(...distances)).toBeLessThan(0);
  });
});

describe("precision and recall", () => {
  test("count samples within the neighbourhoods of others, borders included", () => {
    const real = matrix([[0], [1], [2], [10]]); // radii for k = 1: 1, 1, 1, 8
    const generated = matrix([[-1], [3], [1.5], [18.5]]); // within, within, within, out; radii 2.5, 1.5, 1.5, 15.5
    const { precision, recall } = precisionRecall(real, generated, { k: 1 });
    expect(precision).toBe(3 / 4);
    expect(recall).toBe(1);
  });

  test("tell quality from variety", () => {
    const real = normal(5, 200, 2);
    const one = normal(6, 200, 2, 0.05);
    const { precision, recall } = precisionRecall(real, one);
    expect(precision).toBeGreaterThan(0.95);
    expect(recall).toBeLessThan(0.1);
  });
});

describe("features that cannot be compared", () => {
  const good = normal(7, 4, 3);
  test.each([
    ["of different widths", good, normal(8, 4, 2), /different widths were given: 3 and 2/],
    ["of one sample", good, normal(8, 1, 3), /1 samples were given; at least 2/],
    ["of another rank", good, float32([12], new Float32Array(12)), /shape \[12\] were given; \[samples, features\]/],
    ["that are not finite", good, float32([2, 3], [0, 0, 0, 0, Number.NaN, 0]), /Feature 1 of sample 1 is NaN/],
  ])("are refused: %s", (_, a, b, message) => {
    for (const measure of [frechetDistance, kernelDistance]) expect(() => measure(a, b)).toThrow(message);
  });

  test("are refused: no more samples than neighbours", () => {
    expect(() => precisionRecall(good, good, { k: 4 })).toThrow(/4 samples were given; at least 5/);
    expect(() => precisionRecall(good, good, { k: 0 })).toThrow(/k is 0/);
  });
});

describe("the distances to halves of the real set", () => {
  const real = seeded(10).normal([200, 4]);

  test("are alike for more samples of the same distribution and for the other half, at equal counts", () => {
    const [fresh, half] = [
      distancesToHalves(seeded(11).normal([60, 4]), real, { splits: 20 }),
      realHalfDistances(real, { count: 60, splits: 20 }),
    ];
    for (const name of ["frechet", "kernel"] as const) {
      expect(Math.abs(fresh[name].mean - half[name].mean)).toBeLessThan(3 * half[name].deviation);
    }
    // Fewer samples alone make the Fréchet distance larger: that is why the counts must be equal.
    expect(realHalfDistances(real, { count: 10 }).frechet.mean).toBeGreaterThan(2 * half.frechet.mean);
  });

  test("grow by the square of a move", () => {
    const moved = { ...real, data: real.data.map((x, i) => (i % 4 === 0 ? x + 5 : x)) };
    const [still, away] = [real, moved].map((set) => distancesToHalves(set, real).frechet.mean) as [number, number];
    // The half's own mean lies a little beside that of all: its deviation of 0.07 counts twice with 5.
    expect(Math.abs(away - still - 25)).toBeLessThan(1);
    expect(distancesToHalves(moved, real).kernel.mean).toBeGreaterThan(1);
  });

  test("of one split have no deviation, and no more samples are taken than half the set has", () => {
    expect(realHalfDistances(real, { count: 100, splits: 1 }).frechet.deviation).toBe(0);
    expect(() => realHalfDistances(real, { count: 101 })).toThrow(/it has 100/);
  });
});
