import { expect, test } from "vitest";
import { levelOfSigma } from "../src/diffusion/index.ts";
import { exactEnd, measureOrder, SOLVERS } from "./convergence.ts";

test.each(SOLVERS.map((solver) => [solver.name, solver] as const))(
  "%s converges with its declared order against the exact denoiser of a Gaussian mixture",
  async (_, solver) => {
    const { order } = await measureOrder(solver);
    expect(Math.abs(order - solver.order)).toBeLessThan(0.25);
  },
);

test("the exact solution keeps the order of numbers and ends near the data", () => {
  const from = levelOfSigma("exploding", 80, 0);
  const to = levelOfSigma("exploding", 0.05, 0);
  const ends = [-160, -80, 0, 80, 160].map((x) => exactEnd(x, from, to));
  expect([...ends].sort((a, b) => a - b)).toEqual(ends);
  expect(Math.max(...ends.map(Math.abs))).toBeLessThan(3);
});
