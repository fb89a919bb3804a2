import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { float32, type Shape, sizeOf } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import {
  type Denoiser,
  finished,
  improvedPndm,
  linearSchedule,
  type Network,
  noiseFrom,
  noNoise,
  type PlanRequest,
  posterior,
  type SamplingPlan,
  type SchedulerConfig,
  samplerFromConfig,
  stepsBetween,
} from "../src/diffusion/index.ts";

/**
 * What diffusers' own tests expect of its schedulers for a dummy network: the sum and the mean of the magnitudes of the
 * result. `line` is where the number stands in the file. Modes tell the test loops apart:
 *
 * - `plain`: the network sees x, the start is the dummy sample.
 * - `noised`: the start is the dummy sample times the initial σ, the network sees the scaled x.
 * - `overwritten`: as `noised`, but the loop steps the scaled x itself.
 * - `unscaled`: the network sees x where the scheduler would have scaled it.
 * - `from-the-image`: a late start from the dummy sample without noise.
 */
interface Expectation {
  readonly file: string;
  readonly line: number;
  readonly config: SchedulerConfig;
  readonly request: PlanRequest;
  readonly mode: "plain" | "noised" | "overwritten" | "unscaled" | "from-the-image";
  readonly shape?: Shape;
  readonly start?: number;
  readonly seed?: number;
  readonly sum?: number;
  readonly sumTolerance?: number;
  readonly mean: number;
  readonly meanTolerance: number;
}

const path = new URL("fixtures/diffusers-expectations.json", import.meta.url);
const { cases } = JSON.parse(readFileSync(path, "utf8")) as { cases: Expectation[] };

/** The model of tests/schedulers/test_schedulers.py: x t / (t + 1). */
const dummyNetwork: Network = async (x, t) =>
  float32(
    x.shape,
    x.data.map((value) => Math.fround(value * t) / Math.fround(t + 1)),
  );

/** Its sample: an arange over [channels, …, batch], scaled to [0, 1), with the batch brought to the front. */
function dummySample(shape: Shape, reversed: boolean) {
  const count = sizeOf(shape);
  const images = shape[0]!;
  const size = count / images;
  const data = new Float32Array(count);
  for (let n = 0; n < images; n++) {
    for (let i = 0; i < size; i++) {
      const place = i * images + n;
      data[n * size + i] = (reversed ? count - 1 - place : place) / count;
    }
  }
  return float32(shape, data);
}

/** The dummy network behind a scaling that is left in x: a sampler goes on with what its loop has scaled. */
function overwriting(plan: SamplingPlan): Denoiser {
  return (input, level, call) => {
    const scale = Math.sqrt(level.sigma ** 2 + 1);
    // The wrapped denoiser divides by the scale itself.
    for (let i = 0; i < input.data.length; i++) input.data[i]! /= scale;
    return plan.denoiser(async (_, t, at) => dummyNetwork(input, t, at))(input, level, call);
  };
}

test.each(cases.map((entry) => [`${entry.file.replace("tests/schedulers/", "")}:${entry.line}`, entry] as const))(
  "diffusers' expectation at %s is met",
  async (_, entry) => {
    const { mode, shape = [4, 3, 8, 8], start = 0 } = entry;
    const plan = samplerFromConfig(entry.config).plan(entry.request);
    let x = dummySample(shape, false);
    if (mode === "noised" || mode === "overwritten")
      x = float32(
        shape,
        x.data.map((value) => value * plan.initNoiseSigma),
      );
    if (start > 0 && mode !== "from-the-image") {
      x = plan.addNoise(x, dummySample(shape, true), plan.levelBefore(start).timestep);
    }

    const network: Network =
      mode === "unscaled"
        ? async (input, t, at) => {
            const sigmaData = entry.config.sigma_data as number;
            const scale = Math.sqrt(at.level.sigma ** 2 + sigmaData ** 2);
            return dummyNetwork(
              float32(
                input.shape,
                input.data.map((value) => value * scale),
              ),
              t,
              at,
            );
          }
        : dummyNetwork;
    const denoise = plan.denoiser(network);
    const noise = entry.seed === undefined ? noNoise : noiseFrom(seeded(entry.seed));
    const run = plan.run(mode === "overwritten" ? overwriting(plan) : denoise, x, { noise, first: start });
    const magnitudes = (await finished(run, x)).data.map(Math.abs);
    const sum = magnitudes.reduce((total, value) => total + value, 0);
    if (entry.sum !== undefined) expect(Math.abs(sum - entry.sum)).toBeLessThan(entry.sumTolerance!);
    expect(Math.abs(sum / magnitudes.length - entry.mean)).toBeLessThan(entry.meanTolerance);
  },
);

test("improved PNDM meets test_scheduler_ipndm.py:165, which runs its steps twice with one history", async () => {
  const plan = samplerFromConfig({ _class_name: "IPNDMScheduler" }).plan({ steps: 10 });
  const levels = [...Array.from({ length: 10 }, (_, i) => plan.levelBefore(i)), { alpha: 1, sigma: 0, timestep: 0 }];
  const steps = stepsBetween(levels);
  const x = dummySample([4, 3, 8, 8], false);
  const end = await finished(improvedPndm(plan.denoiser(dummyNetwork), x, [...steps, ...steps]), x);
  const mean = end.data.reduce((total, value) => total + Math.abs(value), 0) / end.data.length;
  expect(Math.abs(mean - 2540529)).toBeLessThan(10);
});

// The published sums are those of three draws of the noise: of a CPU, CUDA and MPS, from a Brownian tree of torchsde.
test.each([
  ["test_scheduler_dpm_sde.py:65", {}, [167.4782, 171.5935, 162.5238]],
  ["test_scheduler_dpm_sde.py:97", { prediction_type: "v_prediction" }, [124.7715, 128.1663, 119.8487]],
  ["test_scheduler_dpm_sde.py:160", { use_karras_sigmas: true }, [176.6697, 177.6365, 170.3135]],
])("DPM-Solver++ SDE of two calls draws what %s expects, with other noise", async (_, options, published) => {
  const betas = { num_train_timesteps: 1100, beta_start: 0.0001, beta_end: 0.02, beta_schedule: "linear" };
  const plan = samplerFromConfig({ _class_name: "DPMSolverSDEScheduler", ...betas, ...options }).plan({ steps: 10 });
  const sums: number[] = [];
  for (let seed = 0; seed < 8; seed++) {
    const start = dummySample([4, 3, 8, 8], false);
    const x = float32(
      start.shape,
      start.data.map((value) => value * plan.initNoiseSigma),
    );
    const end = await finished(plan.run(overwriting(plan), x, { noise: noiseFrom(seeded(seed)) }), x);
    sums.push(end.data.reduce((total, value) => total + Math.abs(value), 0));
  }
  const mean = (values: readonly number[]) => values.reduce((total, value) => total + value, 0) / values.length;
  expect(Math.abs(mean(sums) / mean(published) - 1)).toBeLessThan(0.03);
});

test("the variances of test_scheduler_ddim.py and test_scheduler_ddpm.py are met", () => {
  const schedule = linearSchedule();
  const published: [t: number, previous: number, variance: number][] = [
    [0, -1, 0],
    [420, 400, 0.14771],
    [980, 960, 0.3246],
    [487, 486, 0.00979],
    [999, 998, 0.02],
  ];
  for (const [t, previous, variance] of published) {
    expect(Math.abs(posterior(schedule, t, previous).variance - variance)).toBeLessThan(1e-5);
  }
});

test("UniPC's flow sigmas on Karras' grid are those of test_scheduler_unipc.py", () => {
  const config = {
    _class_name: "UniPCMultistepScheduler",
    use_flow_sigmas: true,
    use_karras_sigmas: true,
    sigma_min: 0.01,
    sigma_max: 200,
  };
  const { sigmas, timesteps } = samplerFromConfig(config).plan({ steps: 5 });
  const published = [0.9950248599, 0.9787454605, 0.8774884343, 0.3604971766, 0.0099009862, 0];
  published.forEach((sigma, i) => {
    // The tolerance of torch.allclose, which the published test uses.
    expect(Math.abs(sigmas![i]! - sigma)).toBeLessThanOrEqual(1e-8 + 1e-5 * sigma);
  });
  expect(timesteps).toEqual([995, 978, 877, 360, 9]);
});
