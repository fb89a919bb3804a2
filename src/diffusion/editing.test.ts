import { expect, test } from "vitest";
import { float32 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { samplerFromConfig } from "./config/index.ts";
import type { Network } from "./denoiser.ts";
import { firstStep, inpainted, inpaintedCalls, noisedStart, slerp } from "./editing.ts";
import { levelOfAlphaBar } from "./prediction.ts";
import { finished } from "./samplers/sampler.ts";
import { namedSchedule, scaledLinearSchedule } from "./schedule.ts";

const random = seeded(8);
const shape = [2, 3, 4, 4];

test("strength chooses how many of the last steps run, and none left is a user's mistake", () => {
  expect(firstStep(50, 0.8)).toBe(10);
  expect(firstStep(50, 1)).toBe(0);
  expect(() => firstStep(10, 0.05)).toThrow(/leaves none of 10 steps/);
  expect(() => firstStep(10, 1.5)).toThrow(/above 0, at most 1/);
});

test("with the true image as prediction, an image noised at any strength comes back", async () => {
  const x0 = random.normal(shape);
  for (const name of [
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
  ]) {
    const plan = samplerFromConfig({
      _class_name: name,
      prediction_type: "sample",
      ...(name === "DDIMScheduler" ? { clip_sample: false } : {}),
    }).plan({ steps: 12 });
    const { x, first } = noisedStart(plan, x0, random.normal(shape), 0.5);
    expect(first).toBe(6);
    const result = await finished(
      plan.sample(async () => x0, x, { first }),
      x,
    );
    result.data.forEach((value, i) => {
      expect(value).toBeCloseTo(x0.data[i]!, 4);
    });
  }
});

test("inpainting keeps the masked part of the original and paints the rest", async () => {
  const original = random.normal(shape);
  const mask = float32(
    [2, 1, 4, 4],
    Float32Array.from({ length: 32 }, (_, i) => (i % 2 === 0 ? 1 : 0)),
  );
  const noise = random.normal(shape);
  const plan = samplerFromConfig({ _class_name: "EulerDiscreteScheduler", prediction_type: "sample" }).plan({
    steps: 5,
  });
  const painted = float32(shape, new Float32Array(96).fill(9));
  const start = random.normal(shape);
  const result = await finished(
    inpainted(
      plan.sample(async () => painted, start),
      { original, mask, noise },
    ),
    start,
  );
  result.data.forEach((value, i) => {
    expect(value).toBeCloseTo(i % 2 === 0 ? 9 : original.data[i]!, 4);
  });
});

test("inpainting inside the steps of Heun's method lets every call see the kept part at its level", async () => {
  const [original, noise, start] = [random.normal(shape), random.normal(shape), random.normal(shape)];
  const mask = float32(
    shape,
    Float32Array.from({ length: 96 }, (_, i) => (i % 3 === 0 ? 1 : 0)),
  );
  const plan = samplerFromConfig({ _class_name: "HeunDiscreteScheduler" }).plan({ steps: 4 });
  const network: Network = async (x) =>
    float32(
      x.shape,
      x.data.map((value, i) => Math.tanh(value + 0.1 * x.data[(i + 1) % 96]!)),
    );
  const options = { original, mask, noise };
  const run = plan.run(inpaintedCalls(plan.denoiser(network), options), start);
  const result = await finished(inpainted(run, options), start);

  // The loop of diffusers' pipeline, which puts the kept part back after every call, written out.
  const sigmas = [0, 1, 2, 3].map((i) => plan.levelBefore(i).sigma).concat(0);
  const slope = async (x: Float32Array, sigma: number) => {
    const input = float32(
      shape,
      x.map((value) => value / Math.hypot(sigma, 1)),
    );
    return (await network(input, 0, undefined as never)).data;
  };
  const kept = (x: Float32Array, sigma: number) =>
    x.map((value, i) => (mask.data[i] === 1 ? value : original.data[i]! + sigma * noise.data[i]!));
  let x = start.data;
  for (let i = 0; i < 4; i++) {
    const [sigma, next] = [sigmas[i]!, sigmas[i + 1]!];
    const first = await slope(x, sigma);
    const trial = kept(
      x.map((value, k) => value + (next - sigma) * first[k]!),
      next,
    );
    const second = next === 0 ? first : await slope(trial, next);
    x = kept(
      x.map((value, k) => value + ((next - sigma) * (first[k]! + second[k]!)) / 2),
      next,
    );
  }
  result.data.forEach((value, i) => {
    expect(value).toBeCloseTo(x[i]!, 3);
  });
});

test.each([1, 2, 5, 7])("a late start of PNDM at step %i of 8 is that of diffusers' pipelines", async (first) => {
  const plan = samplerFromConfig({ _class_name: "PNDMScheduler", skip_prk_steps: true, steps_offset: 1 }).plan({
    steps: 8,
  });
  const f = (x: Float32Array, t: number) => x.map((value) => Math.tanh(0.7 * value) * (0.2 + t / 1250));
  const network: Network = async (x, t) => float32(x.shape, f(x.data, t));
  const x0 = random.normal([1, 20]);
  const noise = random.normal([1, 20]);
  const start = plan.addNoise(x0, noise, plan.timesteps[first]!);
  const result = await finished(plan.run(plan.denoiser(network), start, { first, restart: true }), start);

  // PNDMScheduler.step_plms over the timesteps from `first` on, written out.
  const alphas = namedSchedule("linear", { steps: 1000, start: 0.0001, end: 0.02 }).alphasCumprod;
  const alphaAt = (t: number) => alphas[Math.max(t, 0)]!;
  let x = start.data;
  let before = x;
  const outputs: Float32Array[] = [];
  plan.timesteps.slice(first).forEach((told, counter) => {
    const output = f(x, told);
    let [t, to] = [told, told - 125];
    if (counter === 1) [t, to] = [told + 125, told];
    else outputs.push(output);
    if (counter === 0) before = x;
    const weights = [[1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]];
    const recent = outputs.slice(-4).reverse();
    const mixed =
      counter === 1
        ? output.map((value, i) => (value + outputs[0]![i]!) / 2)
        : output.map((_, i) => recent.reduce((sum, one, k) => sum + weights[recent.length - 1]![k]! * one[i]!, 0));
    const from = counter === 1 ? before : x;
    const [a, b] = [alphaAt(t), alphaAt(to)];
    const denominator = a * Math.sqrt(1 - b) + Math.sqrt(a * (1 - a) * b);
    x = from.map((value, i) => Math.sqrt(b / a) * value - ((b - a) * mixed[i]!) / denominator);
  });
  result.data.forEach((value, i) => {
    expect(value).toBeCloseTo(x[i]!, 4);
  });
});

test("slerp ends at its ends and keeps the length of noise in between", () => {
  const a = random.normal([1, 4000]);
  const b = random.normal([1, 4000]);
  expect(slerp(a, b, 0).data).toEqual(a.data);
  expect(slerp(a, b, 1).data[7]).toBeCloseTo(b.data[7]!, 5);
  const middle = slerp(a, b, 0.5).data;
  const length = (data: Float32Array) => Math.sqrt(data.reduce((sum, v) => sum + v * v, 0));
  expect(length(middle) / length(a.data)).toBeCloseTo(1, 1);
});

test("DDIM inversion encodes images of a known distribution to noise and back", async () => {
  // Images of N(0, 0.5²) numbers: the best prediction of the noise is linear in x.
  const variance = 0.25;
  const config = { beta_start: 0.00085, beta_end: 0.012, beta_schedule: "scaled_linear", clip_sample: false };
  const inverse = samplerFromConfig({ _class_name: "DDIMInverseScheduler", ...config }).plan({ steps: 200 });
  const forward = samplerFromConfig({ _class_name: "DDIMScheduler", ...config }).plan({ steps: 200 });
  const network: Network = async (x, t) => {
    const { alpha, sigma } = levelOfAlphaBar(linear.alphasCumprod[t]!, t);
    return float32(
      x.shape,
      x.data.map((value) => (sigma * value) / (alpha ** 2 * variance + sigma ** 2)),
    );
  };
  const linear = scaledLinearSchedule();
  const image = float32(
    [1, 400],
    random.normal([1, 400]).data.map((value) => 0.5 * value),
  );
  const noise = await finished(inverse.sample(network, image), image);
  const spread = Math.sqrt(noise.data.reduce((sum, value) => sum + value * value, 0) / 400);
  expect(spread).toBeGreaterThan(0.9);
  expect(spread).toBeLessThan(1.1);
  const back = await finished(forward.sample(network, noise), noise);
  back.data.forEach((value, i) => {
    expect(Math.abs(value - image.data[i]!)).toBeLessThan(0.05);
  });
});
