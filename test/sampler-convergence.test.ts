import { expect, test } from "vitest";
import { float32 } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import {
  ancestralSplit,
  type Denoiser,
  ddim,
  ddpm,
  dpmSolverMultistep,
  dpmSolverSde,
  edmHeun,
  finished,
  type Level,
  levelOfSigma,
  linspace,
  midpoint,
  type NoiseSource,
  noiseFrom,
  type SamplerRun,
  type Samples,
  saSolver,
  stepsBetween,
} from "../src/diffusion/index.ts";
import { below, exactDenoiser, exactEnd, measureOrder, SOLVERS } from "./convergence.ts";

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

type Stochastic = [
  name: string,
  path: "preserving" | "exploding" | "flow",
  run: (denoise: Denoiser, x: Samples, levels: readonly Level[], noise: NoiseSource) => SamplerRun,
];

const STOCHASTIC: Stochastic[] = [
  [
    "DDPM",
    "preserving",
    (d, x, l, noise) =>
      ddpm(d, x, stepsBetween(l.map((level, i) => ({ ...level, timestep: l.length - i }))), { noise }),
  ],
  ["DDIM with η = 0.5", "preserving", (d, x, l, noise) => ddim(d, x, stepsBetween(l), { noise, eta: 0.5 })],
  ["Euler ancestral", "exploding", (d, x, l, noise) => ddim(d, x, stepsBetween(l), { noise, eta: 1 })],
  ["Euler ancestral, flow matching", "flow", (d, x, l, noise) => ddim(d, x, stepsBetween(l), { noise, eta: 1 })],
  [
    "Heun with churn",
    "exploding",
    (d, x, l, noise) => edmHeun(d, x, stepsBetween(l), { noise, churn: { amount: 20 }, timestepOf: () => 0 }),
  ],
  [
    "DPM2 ancestral",
    "exploding",
    (d, x, l, noise) =>
      midpoint(
        d,
        x,
        stepsBetween(l).map(({ from, to }) => ({
          from,
          to,
          middle: levelOfSigma("exploding", Math.sqrt(from.sigma * ancestralSplit(from, to, 1).down), 0),
        })),
        { noise, eta: 1 },
      ),
  ],
  [
    "DPM-Solver++ SDE of two calls",
    "exploding",
    (d, x, l, noise) =>
      dpmSolverSde(
        d,
        x,
        stepsBetween(l).map(({ from, to }) => ({
          from,
          to,
          middle: levelOfSigma("exploding", Math.sqrt(from.sigma * to.sigma), 0),
        })),
        { noise },
      ),
  ],
  [
    "SDE DPM-Solver++ 1",
    "preserving",
    (d, x, l, noise) => dpmSolverMultistep(d, x, l, { noise, order: 1, stochastic: true }),
  ],
  ["SDE DPM-Solver++ 2M", "preserving", (d, x, l, noise) => dpmSolverMultistep(d, x, l, { noise, stochastic: true })],
  [
    "SDE DPM-Solver++ 3M",
    "preserving",
    (d, x, l, noise) => dpmSolverMultistep(d, x, l, { noise, order: 3, stochastic: true }),
  ],
  [
    "SDE DPM-Solver 2M",
    "preserving",
    (d, x, l, noise) => dpmSolverMultistep(d, x, l, { noise, of: "noise", stochastic: true }),
  ],
  ["SA-Solver", "preserving", (d, x, l, noise) => saSolver(d, x, l, { noise, tau: () => 1 })],
];

test.each(STOCHASTIC)("%s draws the distribution of the data with its exact denoiser", async (_, path, run) => {
  const count = 6000;
  const steps = 120;
  const levels = linspace(Math.log(80), Math.log(0.05), steps + 1).map((log) => {
    const ratio = Math.exp(log);
    return levelOfSigma(path, path === "flow" ? ratio / (1 + ratio) : ratio, 0);
  });
  const random = seeded(12);
  const { alpha, sigma } = levels[0]!;
  const start = float32(
    [1, count],
    random.normal([1, count]).data.map((value) => Math.hypot(alpha, sigma) * value),
  );
  const drawn = (await finished(run(exactDenoiser, start, levels, noiseFrom(random)), start)).data.slice().sort();
  // Kolmogorov's distance; 1.95 / √n is passed by chance once in a thousand seeds, the rest is for the finite steps.
  let distance = 0;
  drawn.forEach((value, i) => {
    distance = Math.max(distance, Math.abs(below(value, levels[steps]!) - (i + 0.5) / count));
  });
  expect(distance).toBeLessThan(1.95 / Math.sqrt(count) + 0.015);
});
