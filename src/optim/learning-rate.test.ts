import { describe, expect, test } from "vitest";
import { learningRate } from "./learning-rate.ts";

const cosine = { rate: 2, kind: "cosine", warmup: 10, steps: 110 } as const;

describe("the learning rate", () => {
  test("rises linearly to the full rate at the last step of the warm-up", () => {
    expect(learningRate(0, cosine)).toBeCloseTo(0.2);
    expect(learningRate(4, cosine)).toBeCloseTo(1);
    expect(learningRate(9, cosine)).toBe(2);
  });

  test("is half at the middle of the cosine, nearly nothing at the last step and never negative after it", () => {
    expect(learningRate(10, cosine)).toBe(2);
    expect(learningRate(60, cosine)).toBeCloseTo(1);
    expect(learningRate(109, cosine)).toBeCloseTo(2 * Math.sin(Math.PI / 200) ** 2, 12);
    expect(learningRate(500, cosine)).toBe(0);
  });

  test("stays where it is constant", () => {
    const constant = { ...cosine, kind: "constant" } as const;
    expect([10, 60, 500].map((n) => learningRate(n, constant))).toEqual([2, 2, 2]);
  });

  test("is a number where the warm-up takes the whole run", () => {
    const short = { ...cosine, warmup: 5, steps: 5 };
    expect(Array.from({ length: 6 }, (_, n) => learningRate(n, short)).every(Number.isFinite)).toBe(true);
  });
});

test("a cosine ends with the run's time where that ends before its steps", () => {
  const schedule = { rate: 1, kind: "cosine", warmup: 0, steps: 1000 } as const;
  expect(learningRate(100, schedule, 0.5)).toBeCloseTo(0.5, 10);
  expect(learningRate(500, schedule, 0.1)).toBeCloseTo(0.5, 10);
  expect(learningRate(100, schedule, 1.2)).toBe(0);
  expect(learningRate(100, { ...schedule, kind: "constant" }, 0.5)).toBe(1);
});
