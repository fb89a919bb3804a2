import { expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { float32 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { addNoise, forwardStep, posterior, reverseStep, velocity } from "./process.ts";
import { cosineSchedule, customSchedule, linearSchedule, zeroTerminalSnr } from "./schedule.ts";

const COUNT = 40_000;

/** Mean and variance with their standard errors under a normal distribution. */
function moments(data: Float32Array) {
  const mean = data.reduce((sum, x) => sum + x, 0) / data.length;
  const variance = data.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (data.length - 1);
  return { mean, variance };
}

test("T single forward steps (eq. 2) and one closed-form jump (eq. 4) have the same distribution", () => {
  const schedule = linearSchedule({ steps: 40, start: 0.002, end: 0.2 });
  const random = seeded(11);
  const x0 = float32([1, COUNT], new Float32Array(COUNT).fill(0.7));
  let stepped = x0;
  for (let t = 0; t < 25; t++) stepped = forwardStep(schedule, stepped, random.normal([1, COUNT]), t);
  const jumped = addNoise(schedule, x0, random.normal([1, COUNT]), 24);
  const alphaBar = schedule.alphasCumprod[24]!;
  for (const sample of [stepped, jumped]) {
    const { mean, variance } = moments(sample.data);
    // Four standard errors: fails by chance once in 16,000 seeds.
    expect(Math.abs(mean - Math.sqrt(alphaBar) * 0.7)).toBeLessThan(4 * Math.sqrt((1 - alphaBar) / COUNT));
    expect(Math.abs(variance / (1 - alphaBar) - 1)).toBeLessThan(4 * Math.sqrt(2 / COUNT));
  }
  // The two samples against each other, over the whole distribution: Kolmogorov's two-sample distance.
  const a = stepped.data.slice().sort();
  const b = jumped.data.slice().sort();
  let distance = 0;
  for (let i = 0, j = 0; i < COUNT && j < COUNT; ) {
    if (a[i]! <= b[j]!) i++;
    else j++;
    distance = Math.max(distance, Math.abs(i - j) / COUNT);
  }
  expect(distance).toBeLessThan(1.95 * Math.sqrt(2 / COUNT));
});

test("a reverse step with the true x0 lands on the distribution of the earlier timestep (eq. 6-7)", () => {
  const schedule = cosineSchedule({ steps: 100 });
  const random = seeded(5);
  const x0 = float32([1, COUNT], new Float32Array(COUNT).fill(-0.4));
  const x = addNoise(schedule, x0, random.normal([1, COUNT]), 60);
  const at = posterior(schedule, 60, 20);
  const { mean, variance } = moments(reverseStep(x, x0, at, Math.sqrt(at.variance), random.normal([1, COUNT])).data);
  const alphaBar = schedule.alphasCumprod[20]!;
  expect(Math.abs(mean + 0.4 * Math.sqrt(alphaBar))).toBeLessThan(4 * Math.sqrt((1 - alphaBar) / COUNT));
  expect(Math.abs(variance / (1 - alphaBar) - 1)).toBeLessThan(4 * Math.sqrt(2 / COUNT));
});

test("x0 and noise are recovered from x and the velocity", () => {
  const schedule = linearSchedule();
  const random = seeded(2);
  const x0 = random.normal([3, 50]);
  const noise = random.normal([3, 50]);
  const timesteps = [3, 500, 999];
  const x = addNoise(schedule, x0, noise, timesteps);
  const v = velocity(schedule, x0, noise, timesteps);
  for (let i = 0; i < 150; i++) {
    const alphaBar = schedule.alphasCumprod[timesteps[Math.floor(i / 50)]!]!;
    expect(Math.sqrt(alphaBar) * x.data[i]! - Math.sqrt(1 - alphaBar) * v.data[i]!).toBeCloseTo(x0.data[i]!, 5);
  }
});

test("zero terminal SNR keeps the first timestep and leaves no signal in the last", () => {
  const schedule = linearSchedule();
  const rescaled = zeroTerminalSnr(schedule);
  expect(rescaled.alphasCumprod[0]).toBeCloseTo(schedule.alphasCumprod[0]!, 6);
  expect(rescaled.alphasCumprod[999]).toBe(0);
});

test("a timestep outside the schedule and a β outside [0, 1] are users' mistakes", () => {
  const x = float32([1, 2], [0, 0]);
  expect(() => addNoise(linearSchedule(), x, x, 1000)).toThrow(/timesteps 0 to 999/);
  expect(() => customSchedule([0.1, 1.2])).toThrow(UserError);
});
