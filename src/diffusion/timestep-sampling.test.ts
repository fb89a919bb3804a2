import { describe, expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { seeded } from "../core/random.ts";
import { flowLevel, flowPath, flowTimestep } from "./flow-path.ts";
import { linearSchedule } from "./schedule.ts";
import { modeTime, sampleTimes, sampleTimesteps, type TimestepSampling } from "./timestep-sampling.ts";

const COUNT = 20_000;

/** The largest distance between the distribution of drawn times and a distribution function (Kolmogorov and Smirnov's). */
function distance(sampling: TimestepSampling, cumulative: (t: number) => number): number {
  const drawn = sampleTimes(COUNT, seeded(1), sampling).sort();
  return drawn.reduce((most, t, i) => Math.max(most, Math.abs((i + 0.5) / COUNT - cumulative(t))), 0);
}

/** The normal distribution function (Abramowitz & Stegun 1964, 26.2.17, error below 7.5e-8). */
function normalCumulative(x: number): number {
  const t = 1 / (1 + 0.2316419 * Math.abs(x));
  const series = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  const tail = (Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI)) * series;
  return x < 0 ? tail : 1 - tail;
}

/** Solves f(u) = t for the falling f of mode sampling. */
function inverseMode(t: number, scale: number): number {
  let [low, high] = [0, 1];
  for (let i = 0; i < 50; i++) {
    const middle = (low + high) / 2;
    if (modeTime(middle, scale) > t) low = middle;
    else high = middle;
  }
  return low;
}

describe("drawn times are distributed", () => {
  // Beyond 1.63/√n chance has one case in a hundred.
  const limit = 1.63 / Math.sqrt(COUNT);

  test("uniformly", () => {
    expect(distance({ kind: "uniform" }, (t) => t)).toBeLessThan(limit);
  });

  test.each([
    [0, 1],
    [0.5, 0.6],
    [-1, 2],
  ])("logit-normally with mean %d and deviation %d", (mean, std) => {
    const cumulative = (t: number) => normalCumulative((Math.log(t / (1 - t)) - mean) / std);
    expect(distance({ kind: "logit-normal", mean, std }, cumulative)).toBeLessThan(limit);
    // The limit tells distributions apart.
    expect(distance({ kind: "logit-normal", mean: mean + 0.1, std }, cumulative)).toBeGreaterThan(limit);
  });

  test.each([1.29, 0.5, -1])("by mode sampling of scale %d", (scale) => {
    expect(distance({ kind: "mode", scale }, (t) => 1 - inverseMode(t, scale))).toBeLessThan(limit);
  });
});

test("mode sampling of scale 0 is uniform, keeps both ends, and has a mode in the middle above 0", () => {
  for (const u of [0, 0.2, 0.9, 1]) expect(modeTime(u, 0)).toBeCloseTo(1 - u, 12);
  for (const scale of [-1, 1.29]) {
    expect(modeTime(0, scale)).toBeCloseTo(1, 12);
    expect(modeTime(1, scale)).toBeCloseTo(0, 12);
  }
  // The density at t is 1/|f′(u)|; f′(1/2) = −1 − s·(1 − π/2).
  const slope = (modeTime(0.5 + 1e-5, 1.29) - modeTime(0.5 - 1e-5, 1.29)) / 2e-5;
  expect(slope).toBeCloseTo(-1 - 1.29 * (1 - Math.PI / 2), 8);
});

test("timesteps of a schedule are whole, and all of them can be drawn", () => {
  const few = linearSchedule({ steps: 7 });
  for (const sampling of [{ kind: "uniform" }, { kind: "logit-normal" }, { kind: "mode" }] as const) {
    const drawn = sampleTimesteps(few, 5000, seeded(0), sampling);
    expect([...new Set(drawn)].sort()).toEqual([0, 1, 2, 3, 4, 5, 6]);
  }
});

describe("timesteps of a flow-matching path", () => {
  test("are a thousand times the time, shifted as the scheduler shifts", () => {
    expect(flowTimestep(flowPath(), 0.25)).toBe(250);
    // s′ = 3·s/(1 + 2·s) (Esser et al. 2024, eq. 23)
    expect(flowTimestep(flowPath({ shift: 3 }), 0.25)).toBe(500);
    expect(flowLevel(flowPath({ shift: 3 }), 500)).toEqual({ timestep: 500, alpha: 0.5, sigma: 0.5 });
  });

  test("are the scheduler's training timesteps where they are to be discrete", () => {
    const path = flowPath({ steps: 10, shift: 3, discrete: true });
    // FlowMatchEulerDiscreteScheduler(10, shift=3).timesteps: σ = 3σ/(1 + 2σ) of 0.1, 0.2, …, 1, times 10.
    const scheduled = Array.from({ length: 10 }, (_, i) =>
      Math.fround((30 * ((i + 1) / 10)) / (1 + (2 * (i + 1)) / 10)),
    );
    const drawn = new Set(sampleTimesteps(path, 2000, seeded(0)));
    expect([...drawn].sort((a, b) => a - b)).toEqual(scheduled);
  });
});

test("densities and paths that cannot be are refused", () => {
  const refused = [
    () => sampleTimes(4, seeded(0), { kind: "logit-normal", std: 0 }),
    () => sampleTimes(4, seeded(0), { kind: "mode", scale: 1.8 }),
    () => sampleTimes(4, seeded(0), { kind: "mode", scale: -1.1 }),
    () => flowPath({ shift: 0 }),
    () => flowPath({ steps: 0 }),
  ];
  for (const attempt of refused) expect(attempt).toThrow(UserError);
});
