import { describe, expect, test } from "vitest";
import { UserError } from "../src/core/errors.ts";
import { float32 } from "../src/core/host-tensor.ts";
import {
  type ConfiguredSampler,
  type Network,
  type NoiseSource,
  namedSampler,
  noiseFrom,
  type PlanRequest,
  recordedNoise,
  SAMPLERS,
  type Samples,
  type SchedulerConfig,
  samplerFromConfig,
  seededPerImage,
} from "../src/diffusion/index.ts";

const MODEL: SchedulerConfig = { _class_name: "DDPMScheduler", beta_schedule: "squaredcos_cap_v2", clip_sample: false };
const FLOW: SchedulerConfig = { _class_name: "FlowMatchEulerDiscreteScheduler", shift: 3 };
const EDM: SchedulerConfig = { _class_name: "EDMEulerScheduler" };

/** A sampler that keeps the contract, with what a run asks of it besides its steps. */
type Contractor = [name: string, sampler: ConfiguredSampler, asks?: PlanRequest];

const of = (_class_name: string, options: object = {}) => samplerFromConfig({ ...MODEL, _class_name, ...options });
const DPM = "DPMSolverMultistepScheduler";
const THRESHOLDING = { thresholding: true, dynamic_thresholding_ratio: 0.8 };
const SIGMA_MIN = { final_sigmas_type: "sigma_min" };

/** Every sampler by every kind of network it has a form for, the classes and the forms that have no name of their own. */
const samplers: Contractor[] = [
  ...Object.keys(SAMPLERS).map((name): Contractor => [name, namedSampler(name, MODEL)]),
  ...Object.entries(SAMPLERS).flatMap(([name, entry]): Contractor[] => [
    ...("flow" in entry ? [[`${name}, flow matching`, namedSampler(name, FLOW)] as Contractor] : []),
    ...("edm" in entry ? [[`${name}, EDM`, namedSampler(name, EDM)] as Contractor] : []),
  ]),
  ["DDIM inversion", of("DDIMInverseScheduler")],
  ["DDIM with clipped noise", of("DDIMScheduler", { clip_sample: true }), { eta: 0.7, clippedNoise: true }],
  ["DDIM with dynamic thresholding", of("DDIMScheduler", THRESHOLDING)],
  ["DDPM with a learned variance", of("DDPMScheduler", { variance_type: "learned_range" })],
  ["DPM-Solver++ with a learned variance", of(DPM, { variance_type: "learned_range" })],
  ["DPM-Solver++ with dynamic thresholding", of(DPM, THRESHOLDING)],
  [
    "DPM-Solver with dynamic thresholding",
    of(DPM, { algorithm_type: "dpmsolver", ...SIGMA_MIN, ...THRESHOLDING, beta_schedule: "linear" }),
  ],
  ["stochastic DPM-Solver of the noise", of(DPM, { algorithm_type: "sde-dpmsolver", ...SIGMA_MIN })],
  ["stochastic DPM-Solver++ 3M", of(DPM, { algorithm_type: "sde-dpmsolver++", solver_order: 3 })],
  ["stochastic DPM-Solver++ 2S", of("DPMSolverSinglestepScheduler", { algorithm_type: "sde-dpmsolver++" })],
  ["DPM-Solver upwards", of("DPMSolverMultistepInverseScheduler")],
  ["DPM-Solver++ SDE of two calls", of("DPMSolverSDEScheduler")],
  ["UniPC 2, bh1", of("UniPCMultistepScheduler", { solver_type: "bh1" })],
  ["UniPC 3", of("UniPCMultistepScheduler", { solver_order: 3 })],
  ["UniPC of the noise", of("UniPCMultistepScheduler", { predict_x0: false, ...SIGMA_MIN })],
  ["LMS of order 8", of("LMSDiscreteScheduler"), { order: 8 }],
  ["improved PNDM", samplerFromConfig({ _class_name: "IPNDMScheduler" })],
  ["consistency", samplerFromConfig({ _class_name: "CMStochasticIterativeScheduler" })],
  ["stochastic flow matching", samplerFromConfig({ ...FLOW, stochastic_sampling: true })],
  ["LCM, flow matching", samplerFromConfig({ ...FLOW, _class_name: "FlowMatchLCMScheduler" })],
];

/** Classes whose steps depend on x alone, and not on what was called before. */
const WITHOUT_HISTORY =
  /^(DDPM|DDIM|DDIMInverse|Euler|EulerAncestral|DPMSolverSDE|Heun|KDPM2|KDPM2Ancestral|EDMEuler|EDMHeun|LCM|TCD|CMStoch|FlowMatch)/;
/** Those that take churn. */
const CHURNED = ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "EDMEulerScheduler", "EDMHeunScheduler"];

const SHAPE = [4, 1, 3, 3];
const SIZE = 9;

/** Answers each number by itself, so that whatever an image gets from its batch is the sampler's doing. */
const plain: Network = async (x, t) =>
  float32(
    x.shape,
    x.data.map((value) => Math.tanh(0.6 * value + Math.sin(t)) * 0.7),
  );

/** As `plain`, with a variance in a second channel. */
const withVariance: Network = async (x, t, at) => {
  const said = (await plain(x, t, at)).data;
  const images = x.shape[0]!;
  const data = new Float32Array(2 * said.length);
  for (let n = 0; n < images; n++) {
    const own = said.subarray(n * SIZE, (n + 1) * SIZE);
    data.set(own, 2 * n * SIZE);
    data.set(own.map(Math.sin), (2 * n + 1) * SIZE);
  }
  return float32([images, 2, ...x.shape.slice(2)], data);
};

function networkOf({ options }: ConfiguredSampler): Network {
  return String(options.variance_type).startsWith("learned") ? withVariance : plain;
}

/** Every source of noise a sampler has, and as few steps as PNDM's start can do with. */
function requestOf(name: string, { className }: ConfiguredSampler, asks: PlanRequest = {}): PlanRequest {
  const churn = CHURNED.includes(className) ? { churn: { amount: 2 } } : {};
  return { steps: 6, ...(name === "ddim" ? { eta: 0.7 } : {}), ...churn, ...asks };
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
  for await (const state of plan.sample(networkOf(sampler), last, { noise })) last = state.x;
  return last.data;
}

describe.each(samplers)("the sampler %s", (name, sampler, asks?: PlanRequest) => {
  const request = requestOf(name, sampler, asks);
  const network = networkOf(sampler);

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
    for await (const state of plan.sample(networkOf(sampler), last, { noise })) {
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

  test("starts late with the calls, the draws and, without a history, the images of a whole run from there", async () => {
    const plan = sampler.plan(request);
    const first = Math.min(3, plan.steps - 1);
    const source = noiseFrom(seededPerImage(7, 4));
    const draws: Float32Array[] = [];
    const told: number[] = [];
    const watched: Network = (x, t, at) => {
      told.push(t);
      return network(x, t, at);
    };
    const noise: NoiseSource = (shape) => {
      const drawn = source(shape);
      draws.push(drawn.data);
      return drawn;
    };
    let x = startOf(4, plan.initNoiseSigma);
    let before = { x, calls: 0, draws: 0 };
    for await (const state of plan.sample(watched, x, { noise })) {
      x = state.x;
      if (state.step === first) before = { x, calls: told.length, draws: draws.length };
    }
    const calls = told.slice(before.calls);
    const whole = { x, calls, steps: plan.steps - first };

    told.length = 0;
    const late = { x: before.x, calls: told, steps: 0 };
    const replayed = recordedNoise(draws.slice(before.draws));
    for await (const state of plan.sample(watched, before.x, { noise: replayed, first })) {
      expect(state.step).toBe(first + ++late.steps);
      expect(state.x.data.every(Number.isFinite)).toBe(true);
      late.x = state.x;
    }
    expect(() => replayed(SHAPE)).toThrow(/more noise was drawn/);
    expect({ ...late, x: null }).toEqual({ ...whole, x: null });
    if (WITHOUT_HISTORY.test(sampler.className)) expect(late.x.data).toEqual(whole.x.data);
  });
});

test("a stochastic sampler without a source of noise says what is missing", async () => {
  const plan = namedSampler("ddpm", MODEL).plan({ steps: 3 });
  await expect(plan.sample(plain, startOf(4, 1)).next()).rejects.toThrow(/given no source/);
});
