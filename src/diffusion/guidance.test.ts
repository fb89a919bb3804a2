import { expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { float32 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { denoiser, type Network } from "./denoiser.ts";
import { classifierGuided, type GuidanceOptions, guide, guided } from "./guidance.ts";
import { levelOfAlphaBar } from "./prediction.ts";

const at = { step: 0, steps: 1 };
const random = seeded(3);
const x = random.normal([2, 1, 3, 3]);
const constant =
  (value: number): Network =>
  async (input) =>
    float32(input.shape, new Float32Array(input.data.length).fill(value));

test("a scale of 1 is the conditional prediction and calls nothing else", async () => {
  const unused: Network = async () => {
    throw new Error("called");
  };
  const level = levelOfAlphaBar(0.5, 10);
  const said = await guided(constant(3), unused, { scale: 1 })(x, 10, { ...at, level });
  expect(new Set(said.data)).toEqual(new Set([3]));
});

test("guidance extrapolates from the unconditional through the conditional prediction", () => {
  const said = guide(float32([1, 2], [1, 2]), float32([1, 2], [0, 4]), { scale: 3 });
  expect([...said.data]).toEqual([3, -2]);
});

test("full rescaling gives each image the deviation of its conditional prediction", () => {
  const a = random.normal([2, 50]);
  const b = random.normal([2, 50]);
  const said = guide(a, b, { scale: 9, rescale: 1 });
  const std = (values: Float32Array) => {
    const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
    return Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1));
  };
  for (const n of [0, 1]) {
    expect(std(said.data.subarray(n * 50, n * 50 + 50))).toBeCloseTo(std(a.data.subarray(n * 50, n * 50 + 50)), 4);
  }
});

test("a prediction that is one number everywhere is guided and left as it is by rescaling", () => {
  expect([...guide(float32([1, 2], [1, 1]), float32([1, 2], [0, 0]), { scale: 3, rescale: 0.7 }).data]).toEqual([3, 3]);
  expect([...guide(float32([2, 1], [1, 2]), float32([2, 1], [0, 0]), { scale: 3, rescale: 1 }).data]).toEqual([3, 6]);
});

test("intervals that hold no level, and scales that are none, are refused", () => {
  const refused = (options: GuidanceOptions) => expect(() => guided(constant(1), constant(0), options));
  refused({ scale: 3, interval: { minimum: 2, maximum: 1 } }).toThrow(/from 2 to 1 holds no level/);
  refused({ scale: 3, interval: { minimum: -1, maximum: 1 } }).toThrow(UserError);
  refused({ scale: 3, interval: { minimum: Number.NaN, maximum: 1 } }).toThrow(UserError);
  refused({ scale: Number.NaN }).toThrow(/scale of NaN/);
  refused({ scale: 3, rescale: 2 }).toThrow(/rescale of 2/);
  expect(guided(constant(1), constant(0), { scale: 3, interval: { minimum: 1, maximum: 1 } })).toBeDefined();
});

test("classifier guidance does not ask where no signal is left", async () => {
  const level = { alpha: 0, sigma: 1, timestep: 999 };
  const denoise = denoiser(constant(0.5), { prediction: "v" });
  const said = await classifierGuided(denoise, async () => {
    throw new Error("called");
  })(x, level, at);
  expect(said.x0[0]).toBe(-0.5);
});

test("outside its interval guidance is off", async () => {
  const network = guided(constant(1), constant(0), { scale: 5, interval: { minimum: 0.5, maximum: 2 } });
  const said = async (alphaBar: number) =>
    (await network(x, 0, { ...at, level: levelOfAlphaBar(alphaBar, 0) })).data[0];
  expect(await said(0.5)).toBe(5); // σ/α = 1
  expect(await said(0.99)).toBe(1);
  expect(await said(0.01)).toBe(1);
});

test("classifier guidance with the true gradient samples the conditional distribution's denoiser", async () => {
  // x0 ~ N(0, 1) and y = x0 + N(0, s²) = 1: p(x0 | x, y) is Gaussian, so that both denoisers are known exactly.
  const s2 = 0.5;
  const level = levelOfAlphaBar(0.7, 0);
  const { alpha, sigma } = level;
  const prior = denoiser(
    async (input) =>
      float32(
        input.shape,
        input.data.map((v) => alpha * v),
      ),
    { prediction: "x0" },
  );
  const spread = sigma ** 2 + s2; // Var(y | x), with E(x0 | x) = α x and Var(x0 | x) = σ²
  const said = await classifierGuided(prior, async (input) =>
    float32(
      input.shape,
      input.data.map((v) => ((1 - alpha * v) * alpha) / spread),
    ),
  )(x, level, at);
  x.data.forEach((v, i) => {
    const expected = alpha * v + (sigma ** 2 / spread) * (1 - alpha * v);
    expect(said.x0[i]).toBeCloseTo(expected, 5);
    expect(alpha * said.x0[i]! + sigma * said.noise[i]!).toBeCloseTo(v, 5);
  });
});
