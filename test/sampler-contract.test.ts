import { describe, expect, test } from "vitest";
import { UserError } from "../src/core/errors.ts";
import { float32 } from "../src/core/host-tensor.ts";
import {
  type ConfiguredSampler,
  type Network,
  namedSampler,
  noiseFrom,
  type PlanRequest,
  SAMPLERS,
  type Samples,
  type SchedulerConfig,
  samplerFromConfig,
  seededPerImage,
} from "../src/diffusion/index.ts";

const MODEL: SchedulerConfig = { _class_name: "DDPMScheduler", beta_schedule: "squaredcos_cap_v2", clip_sample: false };
const FLOW: SchedulerConfig = { _class_name: "FlowMatchEulerDiscreteScheduler", shift: 3 };
const EDM: SchedulerConfig = { _class_name: "EDMEulerScheduler" };

/** Every sampler by every kind of network it has a form for, and the classes that have no name of their own. */
const samplers: [string, ConfiguredSampler][] = [
  ...Object.keys(SAMPLERS).map((name): [string, ConfiguredSampler] => [name, namedSampler(name, MODEL)]),
  ...Object.entries(SAMPLERS).flatMap(([name, entry]): [string, ConfiguredSampler][] => [
    ...("flow" in entry ? [[`${name}, flow matching`, namedSampler(name, FLOW)] as [string, ConfiguredSampler]] : []),
    ...("edm" in entry ? [[`${name}, EDM`, namedSampler(name, EDM)] as [string, ConfiguredSampler]] : []),
  ]),
  ["DDIM inversion", samplerFromConfig({ ...MODEL, _class_name: "DDIMInverseScheduler" })],
  ["improved PNDM", samplerFromConfig({ _class_name: "IPNDMScheduler" })],
  ["consistency", samplerFromConfig({ _class_name: "CMStochasticIterativeScheduler" })],
  ["stochastic flow matching", samplerFromConfig({ ...FLOW, stochastic_sampling: true })],
];

const SHAPE = [4, 1, 3, 3];
const SIZE = 9;

/** Answers each number by itself, so that whatever an image gets from its batch is the sampler's doing. */
const network: Network = async (x, t) =>
  float32(
    x.shape,
    x.data.map((value) => Math.tanh(0.6 * value + Math.sin(t)) * 0.7),
  );

function requestOf(name: string): PlanRequest {
  // Every source of noise a sampler has, and as few steps as PNDM's start can do with.
  if (name === "ddim") return { steps: 6, eta: 0.7 };
  return ["euler", "heun"].includes(name) ? { steps: 6, churn: { amount: 2 } } : { steps: 6 };
}

function startOf(images: number, initNoiseSigma: number, from = 0): Samples {
  const sources = seededPerImage(100, 4).slice(from, from + images);
  const x = noiseFrom(sources)([images, ...SHAPE.slice(1)]);
  return float32(
    x.shape,
    x.data.map((value) => value * initNoiseSigma),
  );
}

async function drawn(
  sampler: ConfiguredSampler,
  request: PlanRequest,
  images: number,
  from = 0,
): Promise<Float32Array> {
  const plan = sampler.plan(request);
  const noise = noiseFrom(seededPerImage(7, 4).slice(from, from + images));
  let last = startOf(images, plan.initNoiseSigma, from);
  for await (const state of plan.sample(network, last, { noise })) last = state.x;
  return last.data;
}

describe.each(samplers)("the sampler %s", (name, sampler) => {
  const request = requestOf(name);

  test("draws the same images from the same seeds, however the batch is split", async () => {
    const whole = await drawn(sampler, request, 4);
    expect(whole.every(Number.isFinite)).toBe(true);
    expect(await drawn(sampler, request, 4)).toEqual(whole);
    const parts = [await drawn(sampler, request, 1), await drawn(sampler, request, 3, 1)];
    expect([...parts[0]!, ...parts[1]!]).toEqual([...whole]);
  });

  test("yields every step once, in order, and calls the network at the timesteps of its plan", async () => {
    const plan = sampler.plan(request);
    const told: number[] = [];
    const watched: Network = (x, t, at) => {
      if (!request.churn) told.push(t);
      return network(x, t, at);
    };
    const steps: number[] = [];
    const noise = noiseFrom(seededPerImage(7, 4));
    for await (const state of plan.sample(watched, startOf(4, plan.initNoiseSigma), { noise })) {
      expect(state.steps).toBe(plan.steps);
      expect(state.x.shape).toEqual(SHAPE);
      expect(state.x0.data).toHaveLength(4 * SIZE);
      steps.push(state.step);
    }
    expect(steps).toEqual(Array.from({ length: plan.steps }, (_, i) => i + 1));
    if (!request.churn) expect(told).toEqual([...plan.timesteps]);
  });

  test("stops between steps and leaves nothing running", async () => {
    const plan = sampler.plan(request);
    let running = 0;
    let calls = 0;
    const watched: Network = async (x, t, at) => {
      running++;
      calls++;
      await new Promise((resolve) => setImmediate(resolve));
      running--;
      return network(x, t, at);
    };
    let after = 0;
    for await (const state of plan.sample(watched, startOf(4, plan.initNoiseSigma), {
      noise: noiseFrom(seededPerImage(7, 4)),
    })) {
      after = calls;
      if (state.step === 2) break;
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(running).toBe(0);
    expect(calls).toBe(after);
  });

  test("works with the fewest steps it can take", async () => {
    const steps = name === "pndm" ? 4 : 1;
    const data = await drawn(sampler, { ...request, steps }, 4);
    expect(data.every(Number.isFinite)).toBe(true);
  });

  test("refuses more steps than there are training timesteps, and no steps", () => {
    expect(() => sampler.plan({ steps: 1001 })).toThrow(UserError);
    expect(() => sampler.plan({ steps: 1001 })).toThrow(/1001 steps were asked for/);
    expect(() => sampler.plan({ steps: 0 })).toThrow(UserError);
  });

  test("goes on from x as a consumer left it", async () => {
    const plan = sampler.plan(request);
    const noise = noiseFrom(seededPerImage(7, 4));
    let last = startOf(4, plan.initNoiseSigma);
    for await (const state of plan.sample(network, last, { noise })) {
      last = state.x;
      // The first image is changed after an early step; the others must not notice.
      if (state.step === 2) state.x.data.fill(3, 0, SIZE);
    }
    const untouched = await drawn(sampler, request, 4);
    expect([...last.data.subarray(0, SIZE)]).not.toEqual([...untouched.subarray(0, SIZE)]);
    expect([...last.data.subarray(SIZE)]).toEqual([...untouched.subarray(SIZE)]);
  });

  test("reports NaN from the network with the step it came in", async () => {
    const plan = sampler.plan(request);
    const calls = plan.timesteps.length;
    let count = 0;
    const broken: Network = async (x, t, at) => {
      const said = await network(x, t, at);
      if (++count === calls) said.data[5] = Number.NaN;
      return said;
    };
    const run = async () => {
      for await (const _ of plan.sample(broken, startOf(4, plan.initNoiseSigma), {
        noise: noiseFrom(seededPerImage(7, 4)),
      }));
    };
    await expect(run()).rejects.toThrow(new RegExp(`holds NaN in step ${plan.steps} of ${plan.steps}`));
  });

  test("starts late where image-to-image asks it to", async () => {
    const plan = sampler.plan(request);
    const first = Math.min(3, plan.steps - 1);
    const seen: number[] = [];
    const noise = noiseFrom(seededPerImage(7, 4));
    for await (const state of plan.sample(network, startOf(4, 1), { noise, first })) {
      expect(state.x.data.every(Number.isFinite)).toBe(true);
      seen.push(state.step);
    }
    expect(seen[0]).toBe(first + 1);
    expect(seen.at(-1)).toBe(plan.steps);
  });
});

test("a stochastic sampler without a source of noise says what is missing", async () => {
  const plan = namedSampler("ddpm", MODEL).plan({ steps: 3 });
  await expect(plan.sample(network, startOf(4, 1)).next()).rejects.toThrow(/given no source/);
});
