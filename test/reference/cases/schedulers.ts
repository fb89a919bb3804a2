import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { float32, type Shape, sizeOf } from "../../../src/core/host-tensor.ts";
import { seeded } from "../../../src/core/random.ts";
import {
  type Denoiser,
  type Network,
  type NoiseSource,
  noiseFrom,
  type PlanRequest,
  recordedNoise,
  type Samples,
  type SamplingPlan,
  samplerFromConfig,
} from "../../../src/diffusion/index.ts";
import type { CaseKind, Comparison } from "../case.ts";
import { compare } from "../case.ts";

interface SchedulerCase {
  readonly class: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly set_timesteps: Readonly<Record<string, unknown>>;
  readonly step_kwargs: Readonly<Record<string, unknown>>;
  readonly timesteps: readonly number[];
  readonly timesteps_dtype: string;
  readonly sigmas?: readonly number[] | null;
  readonly init_noise_sigma?: number | null;
  readonly model: Readonly<Record<"a" | "b" | "c" | "d" | "e", number>>;
  readonly shape: Shape;
  readonly noise_seed?: number;
  readonly initial_sample: readonly number[];
  readonly samples: readonly (readonly number[])[];
  readonly noises?: readonly (readonly number[] | null)[] | null;
  readonly pred_original_sample_first?: readonly number[] | null;
  readonly pred_original_sample_last?: readonly number[] | null;
  /** Without numbers where the class has no such method. */
  readonly add_noise?: {
    readonly timestep?: number;
    readonly original?: readonly number[];
    readonly noise?: readonly number[];
    readonly noisy?: readonly number[];
  } | null;
}

/** How far from the bits of a float32 the timesteps and σ of a case may be, and why. */
interface Exception {
  readonly cases: RegExp;
  readonly timesteps?: number;
  /** Relative. */
  readonly sigmas?: number;
  readonly reason: string;
}

/** Every other case is exact: `timesteps` and `sigmas` are the float32 numbers of diffusers. */
const EXCEPTIONS: readonly Exception[] = [
  {
    cases: /-zerosnr-/,
    sigmas: 2 ** -23,
    reason:
      "torch's square root, of Intel's MKL, rounds down some that lie just above the middle of two float32: 1 in 200 of the square roots of ᾱ is a unit too small, and one σ of ten follows.",
  },
  {
    cases: /^IPNDM-/,
    timesteps: 2 ** -23,
    reason: "torch's sine and arctangent, of SLEEF, are up to a unit in the last place from the true value.",
  },
];

/** Trajectories of diffusers' schedulers (`schedulers/*.json`). */
export const schedulers: CaseKind = {
  kind: "schedulers",
  async discover(folder) {
    const names = await readdir(join(folder, "schedulers")).catch(() => []);
    const files = names.filter((name) => name.endsWith(".json") && name !== "index.json").sort();
    return files.map((name) => ({
      name: `schedulers/${name.slice(0, -".json".length)}`,
      run: async () =>
        check(JSON.parse(await readFile(join(folder, "schedulers", name), "utf8")) as SchedulerCase, name),
    }));
  },
};

async function check(c: SchedulerCase, name: string): Promise<Comparison[]> {
  const plan = samplerFromConfig({ _class_name: c.class, ...c.config }).plan(requestOf(c));
  const results: Comparison[] = [];
  const exception = EXCEPTIONS.find(({ cases }) => cases.test(name));
  // Some classes list their timesteps as float64; the networks are told float32.
  const float32s = (values: readonly number[]) => values.map(Math.fround);
  results.push(
    compare("timesteps", float32s(plan.timesteps), float32s(c.timesteps), { absolute: exception?.timesteps }),
  );
  if (c.sigmas) {
    results.push(compare("sigmas", plan.sigmas ?? [], float32s(c.sigmas), { relative: exception?.sigmas }));
  }
  if (typeof c.init_noise_sigma === "number") {
    results.push(compare("init_noise_sigma", [plan.initNoiseSigma], [c.init_noise_sigma], { relative: 1e-4 }));
  }
  const { original, noise, noisy, timestep } = c.add_noise ?? {};
  if (original && noise && noisy && timestep !== undefined) {
    const whole = c.timesteps_dtype.startsWith("int");
    const at = whole ? timestep : nearest(plan.timesteps, timestep);
    const ours = plan.addNoise(float32(c.shape, original), float32(c.shape, noise), at);
    results.push(compare("add_noise", ours.data, noisy, { absolute: 1e-4 * Math.max(1, largest(noisy)) }));
  }
  const relative = 1e-4;
  const drawn = (c.noises ?? []).filter((noise) => noise !== null);
  results.push(...(await trajectory("recorded noise", c, plan, recordedNoise(drawn), relative)));
  if (drawn.length > 0 && c.noise_seed !== undefined) {
    results.push(...(await trajectory("seeded noise", c, plan, noiseFrom(seeded(c.noise_seed)), relative)));
  }
  return results;
}

/** Runs the sampler; what the network is called with next is the sample after the call before. */
async function trajectory(
  what: string,
  c: SchedulerCase,
  plan: SamplingPlan,
  noise: NoiseSource,
  relative: number,
): Promise<Comparison[]> {
  const calls: Samples[] = [];
  const denoise = plan.denoiser(analyticModel(c));
  const watched: Denoiser = (x, level, call) => {
    calls.push({ ...x, data: x.data.slice() });
    return denoise(x, level, call);
  };
  const x0s: Samples[] = [];
  let x = float32(c.shape, c.initial_sample);
  for await (const state of plan.run(watched, x, { noise })) {
    x = state.x;
    x0s.push(state.x0);
  }
  const samples = [...calls.slice(1), x];
  const results = [compare(`${what}: calls`, [samples.length], [c.samples.length], {})];
  c.samples.forEach((expected, i) => {
    results.push(
      compare(`${what}: samples[${i}]`, samples[i]?.data ?? [], expected, {
        absolute: relative * Math.max(1, largest(expected)),
      }),
    );
  });
  for (const [name, expected, ours] of [
    ["first", c.pred_original_sample_first, x0s[0]],
    ["last", c.pred_original_sample_last, x0s.at(-1)],
  ] as const) {
    // Methods with two calls a step have two estimates in their first one.
    if (!expected || !ours || (name === "first" && c.samples.length > plan.steps)) continue;
    results.push(
      compare(`${what}: x0 ${name}`, ours.data, expected, { absolute: relative * Math.max(1, largest(expected)) }),
    );
  }
  return results;
}

/** tanh(a x + b sin(t/c)) (d + t/e), and tanh(x/2) in further channels where the variance is learned. */
function analyticModel(c: SchedulerCase): Network {
  const { a, b, c: period, d, e } = c.model;
  const learned = String(c.config.variance_type).startsWith("learned");
  return async (x, t) => {
    const shift = Math.fround(b * Math.sin(t / period));
    const scale = Math.fround(d + t / e);
    const output = x.data.map((value) => Math.fround(Math.tanh(Math.fround(a * value) + shift)) * scale);
    if (!learned) return float32(x.shape, output);
    const images = x.shape[0]!;
    const size = sizeOf(x.shape) / images;
    const both = new Float32Array(2 * output.length);
    for (let n = 0; n < images; n++) {
      both.set(output.subarray(n * size, (n + 1) * size), 2 * n * size);
      both.set(
        x.data.subarray(n * size, (n + 1) * size).map((value) => Math.tanh(0.5 * value)),
        (2 * n + 1) * size,
      );
    }
    return float32([images, 2 * x.shape[1]!, ...x.shape.slice(2)], both);
  };
}

/** diffusers' arguments of `set_timesteps` and of every `step` as one request. */
function requestOf(c: SchedulerCase): PlanRequest {
  const names: Readonly<Record<string, keyof PlanRequest>> = {
    num_inference_steps: "steps",
    timesteps: "timesteps",
    sigmas: "sigmas",
    mu: "mu",
    original_inference_steps: "originalSteps",
    strength: "strength",
    eta: "eta",
    use_clipped_model_output: "clippedNoise",
    order: "order",
  };
  const churn: Readonly<Record<string, "amount" | "minimum" | "maximum" | "noise">> = {
    s_churn: "amount",
    s_tmin: "minimum",
    s_tmax: "maximum",
    s_noise: "noise",
  };
  const request: Record<string, unknown> = {};
  const churned: Record<string, number> = {};
  for (const [name, value] of Object.entries({ ...c.set_timesteps, ...c.step_kwargs })) {
    if (value === null || name === "device" || name === "return_dict") continue;
    // Infinity is a string in these files.
    if (churn[name]) churned[churn[name]] = Number(value);
    else if (names[name]) request[names[name]] = value;
    else throw new Error(`the argument "${name}" is not known`);
  }
  if (Object.keys(churned).length > 0) request.churn = { amount: 0, ...churned };
  return request as PlanRequest;
}

function nearest(values: readonly number[], wanted: number): number {
  return values.reduce((best, value) => (Math.abs(value - wanted) < Math.abs(best - wanted) ? value : best));
}

function largest(values: readonly number[]): number {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}
