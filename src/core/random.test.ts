import fc from "fast-check";
import { expect, test } from "vitest";
import { UserError } from "./errors.ts";
import { restored, seeded } from "./random.ts";

test("the seeds 0 and 42 give torch's first normal numbers, small and blockwise", () => {
  // torch.manual_seed(0); torch.randn(4) and torch.manual_seed(42); torch.randn(16)[:2]
  expect([...seeded(0).normal([3]).data]).toEqual([1.5409960746765137, -0.293428897857666, -2.1787893772125244]);
  expect(seeded(42).normal([16]).data[0]).toBeCloseTo(1.9269, 4);
});

test("only the low 32 bits of a seed matter, and negative seeds are two's complement", () => {
  const first = (seed: number | bigint) => seeded(seed).uniform([1]).data[0];
  expect(first(2 ** 32 + 7)).toBe(first(7));
  expect(first(-1)).toBe(first(0xffffffff));
  expect(first(2n ** 64n - 1n)).toBe(first(-1));
});

test("a seed that is no whole number or too wide is a user's mistake", () => {
  expect(() => seeded(1.5)).toThrow(UserError);
  expect(() => seeded(2 ** 60)).toThrow(UserError);
  expect(() => seeded(1n << 64n)).toThrow(UserError);
});

test("a state written as JSON continues exactly where it was taken, cached normal included", () => {
  fc.assert(
    fc.property(fc.integer(), fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 12 }), (seed, draws) => {
      const random = seeded(seed);
      for (const draw of draws) {
        if (draw === 0) random.normal([3]);
        if (draw === 1) random.normal([21]);
        if (draw === 2) random.permutation(5);
        if (draw === 3) random.integers(0, 2 ** 40, [300]);
      }
      const again = restored(JSON.parse(JSON.stringify(random.state())));
      expect(again.normal([2]).data).toEqual(random.normal([2]).data);
      expect(again.uniform([700]).data).toEqual(random.uniform([700]).data);
      expect(again.state()).toEqual(random.state());
    }),
    { numRuns: 30 },
  );
});

test("a damaged state is refused", () => {
  expect(() => restored({ words: [1, 2], position: 0, cachedNormal: null })).toThrow(/624 words/);
});

test("a large fill has the moments of a normal distribution", () => {
  const data = new Float32Array(200_000);
  seeded(3).fillNormal(data);
  const moment = (power: number) => data.reduce((total, x) => total + x ** power, 0) / data.length;
  expect(moment(1)).toBeCloseTo(0, 2);
  expect(Math.abs(moment(2) - 1)).toBeLessThan(0.02);
  expect(Math.abs(moment(4) - 3)).toBeLessThan(0.1);
});

test("a permutation holds each number once", () => {
  expect([...seeded(9).permutation(100)].sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i));
});
