import { expect, test } from "vitest";
import { float32 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import {
  discretizedGaussianLogLikelihood,
  gaussianDivergence,
  normalTail,
  priorTerm,
  variationalBound,
} from "./bound.ts";
import { denoiser } from "./denoiser.ts";
import { customSchedule, linearSchedule } from "./schedule.ts";

test("the normal tail agrees with tabulated values over its whole range", () => {
  expect(normalTail(0)).toBe(0.5);
  // Abramowitz & Stegun, table 26.1 and 26.2.
  expect(normalTail(1)).toBeCloseTo(0.15865525393145705, 14);
  expect(normalTail(3.5) / 2.3262907903552504e-4).toBeCloseTo(1, 10);
  expect(normalTail(10) / 7.61985302416047e-24).toBeCloseTo(1, 10);
  expect(normalTail(-2)).toBeCloseTo(0.9772498680518208, 14);
});

test("the probabilities of all bins of the decoder add up to one", () => {
  let total = 0;
  for (let k = 0; k < 256; k++) total += Math.exp(discretizedGaussianLogLikelihood(-1 + (2 * k) / 255, 0.3, 0.05));
  expect(total).toBeCloseTo(1, 6);
});

test("the divergence of Gaussians is its known closed form", () => {
  expect(gaussianDivergence(0.3, 0, 0.3, 0)).toBe(0);
  expect(gaussianDivergence(1, 0, 0, Math.log(4))).toBeCloseTo(Math.log(2) + (1 + 1) / 8 - 0.5, 12);
});

test("the prior term of a usual schedule is close to nothing", () => {
  const x0 = float32([2, 8], new Float32Array(16).fill(0.5));
  expect(Math.max(...priorTerm(linearSchedule(), x0))).toBeLessThan(1e-4);
});

/** A schedule whose log signal-to-noise ratio falls evenly, so that no step of the chain costs more than another. */
function evenLogSnr(steps: number) {
  const alphaBar = (t: number) => (t < 0 ? 1 : 1 / (1 + Math.exp(-11 + (20 * t) / (steps - 1))));
  return customSchedule(Array.from({ length: steps }, (_, t) => 1 - alphaBar(t) / alphaBar(t - 1)));
}

test("the bound of the exact denoiser of Gaussian data approaches the data's entropy", async () => {
  // Data x0 ~ N(0, s²): the best denoiser is linear and −log p(x0) has a closed form, which a long chain nearly reaches.
  const s = 0.3;
  const images = 4;
  const size = 400;
  const levels = 256;
  const quantized = seeded(1)
    .normal([images, size], { std: s })
    .data.map((x) => -1 + (2 * Math.round(((Math.min(Math.max(x, -1), 1) + 1) / 2) * (levels - 1))) / (levels - 1));
  const x0 = float32([images, size], quantized);
  const denoise = denoiser(
    async (x, _, { level }) => {
      const gain = (level.alpha * s * s) / (level.alpha ** 2 * s * s + level.sigma ** 2);
      return float32(
        x.shape,
        x.data.map((value) => gain * value),
      );
    },
    { prediction: "x0" },
  );
  const sources = Array.from({ length: images }, (_, n) => seeded(n));
  const { total } = await variationalBound(denoise, evenLogSnr(1000), x0, sources);
  const entropy =
    quantized.reduce((sum, x) => sum - discretizedGaussianLogLikelihood(x, 0, s), 0) / quantized.length / Math.LN2;
  const mean = total.reduce((sum, value) => sum + value, 0) / images;
  expect(mean).toBeGreaterThan(entropy - 0.03);
  expect(mean).toBeLessThan(entropy + 0.2);
});
