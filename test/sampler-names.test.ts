import { expect, test } from "vitest";
import { float32 } from "../src/core/host-tensor.ts";
import { SCHEDULER_OPTIONS } from "../src/diffusion/config/options.ts";
import {
  type ConfiguredSampler,
  type NamedSampler,
  type Network,
  namedSampler,
  noiseFrom,
  type PlanRequest,
  SAMPLERS,
  type SchedulerClass,
  type SchedulerConfig,
  samplerFromConfig,
  seededPerImage,
  UNNAMED_SAMPLERS,
} from "../src/diffusion/index.ts";
import { SOLVERS } from "./convergence.ts";

/** What the table of samplers and docs/choose-a-sampler.md say of names that are one method. */

const MODEL: SchedulerConfig = {
  _class_name: "DDPMScheduler",
  beta_schedule: "scaled_linear",
  beta_start: 0.00085,
  beta_end: 0.012,
  clip_sample: false,
  timestep_spacing: "trailing",
};

const network: Network = async (x, t) =>
  float32(
    x.shape,
    x.data.map((value, i) => 0.7 * Math.tanh(0.6 * value + Math.sin(t + i))),
  );

/** The picture that a sampler draws out of the same unit noise and the same noise on the way. */
async function drawn(sampler: ConfiguredSampler, request: PlanRequest): Promise<Float32Array> {
  const plan = sampler.plan(request);
  const noise = noiseFrom(seededPerImage(1, 2));
  const unit = noise([2, 1, 4, 4]);
  const { alpha, sigma } = plan.levelBefore(0);
  let x = float32(
    unit.shape,
    unit.data.map((value) => value * Math.hypot(alpha, sigma)),
  );
  for await (const state of plan.sample(network, x, { noise })) x = state.x;
  return x.data;
}

const named = (name: string, options: object = {}) => namedSampler(name, { ...MODEL, ...options });
const dpm = (options: object) =>
  samplerFromConfig({ ...MODEL, _class_name: "DPMSolverMultistepScheduler", ...options });

test.each<[string, ConfiguredSampler, ConfiguredSampler, PlanRequest?, PlanRequest?]>([
  ["ddim is euler", named("ddim"), named("euler")],
  ["ddpm with the small variance is euler-ancestral", named("ddpm"), named("euler-ancestral")],
  ["ddpm with the small variance is ddim with eta 1", named("ddpm"), named("ddim"), {}, { eta: 1 }],
  ["DPM-Solver++ of order 1 is ddim", dpm({ solver_order: 1 }), named("ddim")],
  [
    "DPM-Solver of order 1 is ddim",
    dpm({ solver_order: 1, algorithm_type: "dpmsolver", final_sigmas_type: "sigma_min" }),
    named("ddim", { set_alpha_to_one: false }),
  ],
  [
    "DEIS of order 1 is ddim",
    samplerFromConfig({ ...MODEL, _class_name: "DEISMultistepScheduler", solver_order: 1 }),
    named("ddim", { set_alpha_to_one: false }),
  ],
  [
    "stochastic DPM-Solver++ of order 1 is euler-ancestral",
    dpm({ solver_order: 1, algorithm_type: "sde-dpmsolver++" }),
    named("euler-ancestral"),
  ],
  ["LMS of order 1 is euler", named("lms"), named("euler"), { order: 1 }],
])("%s", async (_, one, other, ofOne, ofOther) => {
  const [a, b] = [await drawn(one, { steps: 10, ...ofOne }), await drawn(other, { steps: 10, ...ofOther })];
  const scale = Math.max(...a.map(Math.abs));
  a.forEach((value, i) => {
    expect(Math.abs(value - b[i]!)).toBeLessThan(2e-3 * scale);
  });
});

test("other methods draw other pictures", async () => {
  const euler = await drawn(named("euler"), { steps: 10 });
  for (const name of ["heun", "dpm++2m", "plms", "unipc"]) {
    const other = await drawn(named(name), { steps: 10 });
    expect(Math.max(...other.map((value, i) => Math.abs(value - euler[i]!)))).toBeGreaterThan(0.01);
  }
});

test("tcd without noise is ddim without clipping, on tcd's timesteps", async () => {
  const tcd = named("tcd").plan({ steps: 5, eta: 0 });
  const x = noiseFrom(seededPerImage(1, 2))([2, 1, 4, 4]);
  let last = x;
  for await (const state of tcd.sample(network, x)) last = state.x;
  const levels = [0, 1, 2, 3, 4].map((i) => tcd.levelBefore(i));
  let data = x.data;
  for (const [i, from] of levels.entries()) {
    const noise = (await network(float32(x.shape, data), from.timestep, { step: i, steps: 5, level: from })).data;
    const end = levels[i + 1] ?? { alpha: Math.sqrt(1 - 0.00085), sigma: Math.sqrt(0.00085) };
    data = data.map((value, k) => (end.alpha * (value - from.sigma * noise[k]!)) / from.alpha + end.sigma * noise[k]!);
  }
  data.forEach((value, k) => {
    expect(value).toBeCloseTo(last.data[k]!, 3);
  });
});

test("samplers that are said to be one method say so of each other", () => {
  const same = (name: keyof typeof SAMPLERS) => {
    const entry = SAMPLERS[name];
    return "same" in entry ? entry.same : "";
  };
  for (const [one, other] of [
    ["ddim", "euler"],
    ["ddpm", "euler-ancestral"],
    ["pndm", "plms"],
  ] as const) {
    expect(same(one)).toContain(other);
    expect(same(other)).toContain(one);
  }
});

test("every class has a name, is said to have none, or is what --invert draws upwards with", () => {
  const named = Object.values<NamedSampler>(SAMPLERS).flatMap(({ config, flow, edm }) => [config, flow, edm]);
  const known = [...named.map((one) => one?._class_name), ...Object.keys(UNNAMED_SAMPLERS), "DDIMInverseScheduler"];
  expect(Object.keys(SCHEDULER_OPTIONS).filter((name) => !known.includes(name as SchedulerClass))).toEqual([]);
});

test("the table of samplers has the orders that are measured, and no others", () => {
  const measured: Partial<Record<keyof typeof SAMPLERS, string>> = {
    ddim: "DDIM",
    euler: "Euler",
    heun: "Heun",
    dpm2: "DPM2 (midpoint)",
    lms: "LMS 4",
    pndm: "PNDM, Runge–Kutta start",
    plms: "PLMS",
    "dpm++2m": "DPM-Solver++ 2M",
    "dpm++3m": "DPM-Solver++ 3M, as published",
    "dpm-solver": "DPM-Solver 2M",
    "dpm++2s": "DPM-Solver++ 2S",
    "dpm++3s": "DPM-Solver++ 3S",
    deis: "DEIS 2",
    unipc: "UniPC 2, bh2",
    "sa-solver": "SA-Solver 2, 2, without noise",
  };
  for (const [name, { order, stochastic }] of Object.entries(SAMPLERS)) {
    const solver = SOLVERS.find((one) => one.name === measured[name as keyof typeof SAMPLERS]);
    expect([name, order]).toEqual([name, solver?.order ?? null]);
    if (!stochastic) expect(order).not.toBeNull();
  }
});
