import { expect, test } from "vitest";
import { UserError } from "../../core/errors.ts";
import { float32 } from "../../core/host-tensor.ts";
import { samplerFromConfig } from "../config/index.ts";
import { denoiser } from "../denoiser.ts";
import { noiseFrom, recordedNoise, seededPerImage } from "../noise-source.ts";
import { type Level, levelOfSigma } from "../prediction.ts";
import { deis } from "./deis.ts";
import { dpmSolverMultistep, dpmSolverSinglestep } from "./dpm-solver.ts";
import { dpmSolverSde } from "./dpm-solver-sde.ts";
import { heun } from "./heun.ts";
import { linearMultistep } from "./linear-multistep.ts";
import { saSolver } from "./sa-solver.ts";
import { stepsBetween } from "./sampler.ts";
import { unipc } from "./unipc.ts";

const told: number[] = [];
const denoise = denoiser(
  async (x, timestep) => {
    told.push(timestep);
    return x;
  },
  { prediction: "x0" },
);
const x = float32([1, 2], [1, 2]);
const levels = [10, 5, 2].map((sigma) => levelOfSigma("exploding", sigma, 10 * sigma));

test("orders that a method has not are mistakes that name those it has", async () => {
  for (const [run, highest] of [
    [dpmSolverMultistep(denoise, x, levels, { order: 4 }), 3],
    [dpmSolverSinglestep(denoise, x, levels, { orders: [1, 4] }), 3],
    [deis(denoise, x, levels, { order: 0 }), 3],
    [unipc(denoise, x, levels, { order: 8 }), 6],
    [linearMultistep(denoise, x, levels, { order: 0 }), 8],
    [linearMultistep(denoise, x, levels, { order: 2.5 }), 8],
    [saSolver(denoise, x, levels, { predictorOrder: 5 }), 4],
    [saSolver(denoise, x, levels, { correctorOrder: Number.NaN }), 4],
  ] as const) {
    const problem = await run.next().catch((error: unknown) => error);
    expect(problem).toBeInstanceOf(UserError);
    expect((problem as UserError).message).toMatch(new RegExp(`has no order .*\n.*1 to ${highest}`));
  }
  const plan = (_class_name: string, solver_order: number) =>
    samplerFromConfig({ _class_name, solver_order }).plan({ steps: 5 });
  expect(() => plan("UniPCMultistepScheduler", 7)).toThrow(/whole numbers from 1 to 6/);
  expect(() => plan("DPMSolverMultistepScheduler", 0)).toThrow(/whole numbers from 1 to 3/);
  expect(() => samplerFromConfig({ _class_name: "LMSDiscreteScheduler" }).plan({ steps: 5, order: 0 })).toThrow(
    /LMSDiscreteScheduler has no order 0/,
  );
});

test("Heun's method with churn tells the network the timestep of the raised level, and must be told how", async () => {
  const options = { churn: { amount: 1 }, noise: noiseFrom(seededPerImage(1, 1)) };
  await expect(heun(denoise, x, stepsBetween(levels), options).next()).rejects.toThrow(/timestepOf/);
  told.length = 0;
  await heun(denoise, x, stepsBetween(levels), { ...options, timestepOf: (sigma) => 100 * sigma }).next();
  expect(told[0]).toBeCloseTo(100 * 10 * Math.SQRT2, 3);
  expect(told[1]).toBe(50);
});

test("both parts of a step of DPM-Solver++ SDE follow one Brownian motion", async () => {
  const [from, middle, to] = [4, 2, 1].map((sigma) => levelOfSigma("exploding", sigma, 0)) as [Level, Level, Level];
  const seen: number[] = [];
  const c = 0.5;
  const constant = denoiser(
    async (at) => {
      seen.push(at.data[0]!);
      return float32(at.shape, [c]);
    },
    { prediction: "x0" },
  );
  const draws = { noise: recordedNoise([[0.3], [-0.8]]) };
  const { value } = await dpmSolverSde(constant, float32([1, 1], [3]), [{ from, middle, to }], draws).next();
  // With x0 known x goes from σ to σ' by x0 + (σ'/σ)² (x − x0) and noise of variance σ'² (1 − (σ'/σ)²).
  expect(seen[1]).toBeCloseTo(c + (1 / 4) * (3 - c) + 2 * Math.sqrt(1 - 1 / 4) * 0.3, 5);
  const noise = (Math.sqrt(2) * 0.3 - Math.sqrt(1) * 0.8) / Math.sqrt(3);
  expect(value!.x.data[0]).toBeCloseTo(c + (1 / 16) * (3 - c) + 1 * Math.sqrt(1 - 1 / 16) * noise, 5);
});
