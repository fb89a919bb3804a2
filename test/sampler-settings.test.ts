import { describe, expect, test } from "vitest";
import { UserError } from "../src/core/errors.ts";
import { float32 } from "../src/core/host-tensor.ts";
import {
  type ConfiguredSampler,
  GRIDS,
  type Network,
  namedSampler,
  noiseFrom,
  SAMPLERS,
  type SamplerName,
  type SchedulerConfig,
  samplerFromConfig,
  schedulerConfig,
  seededPerImage,
} from "../src/diffusion/index.ts";

/** What holds for every sampler with every spread, every number of steps and every kind of network. */

const network: Network = async (x, t) =>
  float32(
    x.shape,
    x.data.map((value) => Math.tanh(0.6 * value + Math.sin(t)) * 0.7),
  );

/** The numbers that a sampler draws; throws what it throws. */
async function drawn(sampler: ConfiguredSampler, steps: number, seen: Network = network): Promise<Float32Array> {
  const plan = sampler.plan({ steps });
  expect(plan.steps).toBe(steps);
  const levels = Array.from({ length: plan.steps }, (_, i) => plan.levelBefore(i));
  const ratios = levels.map(({ alpha, sigma }) => sigma / alpha);
  expect(ratios.every((ratio, i) => i === 0 || ratio < ratios[i - 1]!)).toBe(true);
  const noise = noiseFrom(seededPerImage(3, 2));
  const unit = noise([2, 1, 2, 2]);
  let x = float32(
    unit.shape,
    unit.data.map((value) => value * plan.initNoiseSigma),
  );
  for await (const state of plan.sample(seen, x, { noise })) x = state.x;
  return x.data;
}

const T = 40;
const MODELS: [string, SchedulerConfig][] = [
  ["trailing", { _class_name: "DDPMScheduler", beta_schedule: "squaredcos_cap_v2", timestep_spacing: "trailing" }],
  ["leading", { _class_name: "PNDMScheduler", beta_schedule: "scaled_linear", steps_offset: 1, skip_prk_steps: true }],
  ["linspace", { _class_name: "EulerDiscreteScheduler", prediction_type: "v_prediction" }],
  ["flow matching", { _class_name: "FlowMatchEulerDiscreteScheduler", shift: 3 }],
  ["EDM", { _class_name: "EDMEulerScheduler" }],
];

describe.each(MODELS)("a network of a schedule that is %s", (_, config) => {
  const model = { ...config, num_train_timesteps: T };

  test.each(Object.keys(SAMPLERS) as SamplerName[])(
    "%s takes as many steps as it is asked for, or says why not",
    async (name) => {
      let done = 0;
      for (const spread of [undefined, ...GRIDS]) {
        for (const steps of [1, 2, 3, 5, 8, 13, 21, 27, 34, 38, 39, 40]) {
          try {
            expect((await drawn(namedSampler(name, model, { spread }), steps)).every(Number.isFinite)).toBe(true);
            done++;
          } catch (error) {
            if (!(error instanceof UserError)) throw error;
            // Small steps from near infinite σ may grow beyond float32: said of the step, not left in a picture.
            const overflows = /made (NaN|-?Infinity) out of a finite prediction/.test(error.message);
            const field = overflows ? "steps" : error.options.field;
            expect(field, `${spread} ${steps}: ${error.message}`).toMatch(/^(steps|spread|sampler|originalSteps)$/);
          }
        }
      }
      const [flow, edm] = [model._class_name!.startsWith("FlowMatch"), model._class_name!.startsWith("EDM")];
      const can = flow ? "flow" in SAMPLERS[name] : edm ? "edm" in SAMPLERS[name] : name !== "lcm" && name !== "tcd";
      expect(done > 0, `${done}`).toBe(can);
    },
  );
});

const DISCRETE = [
  ...["DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"],
  ...["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "LMSDiscreteScheduler"],
  ...["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler", "SASolverScheduler"],
  ...["UniPCMultistepScheduler", "LCMScheduler", "TCDScheduler"],
];

test("a named sampler is the one that is named, whatever the network's own scheduler is set to", () => {
  const own = {
    ...{ skip_prk_steps: true, algorithm_type: "sde-dpmsolver++", solver_order: 3, solver_type: "heun" },
    ...{ final_sigmas_type: "sigma_min", predictor_order: 1 },
  };
  for (const name of Object.keys(SAMPLERS)) {
    const plain = namedSampler(name, { _class_name: "DDIMScheduler" });
    for (const _class_name of DISCRETE) {
      const known = samplerFromConfig({ _class_name }).options;
      const set = Object.fromEntries(Object.entries(own).filter(([option]) => option in known));
      if (_class_name === "DEISMultistepScheduler") set.algorithm_type = "dpmsolver";
      if (_class_name === "UniPCMultistepScheduler") set.solver_type = "bh1";
      if (_class_name === "SASolverScheduler") set.algorithm_type = "noise_prediction";
      const sampler = namedSampler(name, { _class_name, ...set });
      expect(sampler.className).toBe(plain.className);
      for (const option of [...Object.keys(own), "predict_x0"]) {
        expect([name, _class_name, option, sampler.options[option]]).toEqual([
          ...[name, _class_name, option],
          plain.options[option],
        ]);
      }
    }
  }
});

test("a named spread is the only one, whatever the network's own scheduler has", () => {
  const karras = { _class_name: "EulerDiscreteScheduler", use_karras_sigmas: true };
  const plain = { _class_name: "EulerDiscreteScheduler" };
  for (const spread of ["trailing", "leading", "exponential", "beta", "sgm-uniform", "align-your-steps"]) {
    const sigmas = (model: SchedulerConfig) => namedSampler("euler", model, { spread }).plan({ steps: 7 }).sigmas;
    expect(sigmas(karras)).toEqual(sigmas(plain));
  }
  // Without one, that of the network's own scheduler stays.
  expect(namedSampler("euler", karras).options.use_karras_sigmas).toBe(true);
});

test("a spread that changes nothing for a network is refused, and samplers that have it are named", () => {
  const flow = { _class_name: "FlowMatchEulerDiscreteScheduler" };
  for (const spread of ["linspace", "trailing", "sgm-uniform", "align-your-steps", "karras", "beta"]) {
    expect(() => namedSampler("dpm++2m", flow, { spread })).toThrow(/cannot spread its steps/);
  }
  expect(() => namedSampler("dpm++2m", flow, { spread: "karras" })).toThrow(/one of euler, unipc/);
  expect(() => namedSampler("lcm", { _class_name: "DDIMScheduler" }, { spread: "trailing" })).toThrow(/cannot spread/);
  const solver = samplerFromConfig({ _class_name: "DPMSolverMultistepScheduler", use_flow_sigmas: true });
  expect(() => solver.plan({ timesteps: [900, 100, 5] })).toThrow(/cannot be combined with flow sigmas/);
});

test("zero terminal SNR goes along to samplers that have no option for it", async () => {
  const model = {
    ...{ _class_name: "DDIMScheduler", rescale_betas_zero_snr: true, prediction_type: "v_prediction" },
    timestep_spacing: "trailing",
  };
  const largest = (name: string) => namedSampler(name, model).plan({ steps: 8 }).sigmas![0]!;
  for (const name of ["heun", "dpm2", "lms", "dpm2-ancestral"]) expect(largest(name)).toBeCloseTo(largest("euler"), 6);
  expect(largest("euler")).toBeGreaterThan(4000);
  for (const name of Object.keys(SAMPLERS)) {
    const result = drawn(namedSampler(name, model), 8);
    if (name === "pndm" || name === "plms") await expect(result).rejects.toThrow(/PNDM cannot start.*no signal/);
    else expect((await result).every(Number.isFinite), name).toBe(true);
  }
});

test("a network that predicts its variance too can be sampled with samplers that draw none", async () => {
  const model = { _class_name: "DDPMScheduler", variance_type: "learned_range", clip_sample: false };
  const twice: Network = async (x, t, at) => {
    const { data } = await network(x, t, at);
    const size = data.length / x.shape[0]!;
    const said = new Float32Array(2 * data.length).fill(0.3);
    for (let n = 0; n < x.shape[0]!; n++) said.set(data.subarray(n * size, (n + 1) * size), 2 * n * size);
    return float32([x.shape[0]!, 2 * x.shape[1]!, ...x.shape.slice(2)], said);
  };
  for (const name of Object.keys(SAMPLERS)) {
    if (name === "ddpm") continue;
    const [learned, plain] = [
      namedSampler(name, model),
      namedSampler(name, { ...model, variance_type: "fixed_small" }),
    ];
    expect(await drawn(learned, 6, twice)).toEqual(await drawn(plain, 6));
  }
});

test("what a sampler cannot be told about a network is refused by name", () => {
  const flow = "FlowMatchEulerDiscreteScheduler";
  for (const [name, model, message] of [
    ["heun", { _class_name: flow, use_dynamic_shifting: true }, /use_dynamic_shifting true/],
    ["dpm++2m", { _class_name: flow, shift_terminal: 0.1 }, /shift_terminal 0.1/],
    ["dpm++2m", { _class_name: flow, invert_sigmas: true }, /invert_sigmas true/],
    [
      "heun",
      { _class_name: "EulerDiscreteScheduler", timestep_type: "continuous", prediction_type: "v_prediction" },
      /timestep_type "continuous"/,
    ],
    ["ddim", { _class_name: "CMStochasticIterativeScheduler" }, /network of a CMStochasticIterativeScheduler/],
    ["euler", { _class_name: "IPNDMScheduler" }, /network of a IPNDMScheduler/],
  ] as [string, SchedulerConfig, RegExp][]) {
    expect(() => namedSampler(name, model)).toThrow(message);
  }
  // Told nothing out of the ordinary, all flow networks of the solvers' own classes can be sampled with each other's.
  for (const _class_name of ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]) {
    const solver = { _class_name, use_flow_sigmas: true, flow_shift: 2, prediction_type: "flow_prediction" };
    expect(namedSampler("euler", solver).options).toMatchObject({ shift: 2 });
    expect(namedSampler("unipc", solver).options).toMatchObject({ flow_shift: 2, use_flow_sigmas: true });
  }
});

test("Align your steps has its published timesteps on Stable Diffusion's schedule, and its σ on others", () => {
  const sd = { _class_name: "PNDMScheduler", beta_schedule: "scaled_linear", beta_start: 0.00085, beta_end: 0.012 };
  const first = (model: SchedulerConfig, steps: number) =>
    namedSampler("euler", model, { spread: "align-your-steps" }).plan({ steps }).sigmas![0]!;
  expect(namedSampler("dpm++2m", sd, { spread: "align-your-steps" }).plan({ steps: 10 }).timesteps[1]).toBe(850);
  const cosine = { _class_name: "DDPMScheduler", beta_schedule: "squaredcos_cap_v2" };
  expect(first(cosine, 10)).toBeCloseTo(first(cosine, 11), 5);
  const coarse = namedSampler("dpm++2m", sd, { spread: "align-your-steps" });
  expect(() => coarse.plan({ steps: 600 })).toThrow(/would have a level twice/);
});

test("a spread that diffusers cannot say is not written as if there were none", () => {
  const model = { _class_name: "DDPMScheduler" };
  expect(() => schedulerConfig(namedSampler("euler", model, { spread: "sgm-uniform" }))).toThrow(
    /cannot say the spread/,
  );
  expect(() => schedulerConfig(samplerFromConfig({ _class_name: "EDMHeunScheduler" }))).toThrow(/no EDMHeunScheduler/);
  expect(schedulerConfig(namedSampler("euler", model, { spread: "karras" }))).toMatchObject({
    use_karras_sigmas: true,
  });
});

test("custom levels that cannot be sampled are refused", () => {
  const euler = samplerFromConfig({ _class_name: "EulerDiscreteScheduler" });
  for (const sigmas of [[], [0], [0.1, 5, 2, 0], [5, -2, 0], [Number.NaN, 0]]) {
    expect(() => euler.plan({ sigmas })).toThrow(/cannot be sampled/);
  }
  for (const timesteps of [[], [5, 900], [2000, 5], [900, -1]]) {
    expect(() => euler.plan({ timesteps })).toThrow(/cannot be sampled/);
  }
  const flow = samplerFromConfig({ _class_name: "FlowMatchEulerDiscreteScheduler" });
  for (const sigmas of [[], [1.5, 0.5], [0.1, 0.9]]) expect(() => flow.plan({ sigmas })).toThrow(/cannot be sampled/);
  const edm = samplerFromConfig({ _class_name: "EDMEulerScheduler" });
  for (const sigmas of [[80, 10, 1], [1, 0], []]) expect(() => edm.plan({ sigmas })).toThrow(/places between/);
  expect(() => euler.plan({ steps: 4, churn: { amount: -1 } })).toThrow(/amount is -1/);
  expect(() => samplerFromConfig({ _class_name: "DDIMScheduler" }).plan({ steps: 4, eta: 5 })).toThrow(/eta of 5/);
  const plan = euler.plan({ steps: 4 });
  for (const first of [-1, 5, 1.5]) {
    expect(() => plan.sample(network, float32([1, 1], [0]), { first })).toThrow(/cannot begin with step/);
  }
});

test("a step that spoils x is not laid at the network's door", async () => {
  const plan = samplerFromConfig({ _class_name: "EulerDiscreteScheduler" }).plan({ steps: 3 });
  const huge: Network = async (x) =>
    float32(
      x.shape,
      x.data.map(() => 3e38),
    );
  const states = plan.sample(huge, float32([1, 1], [1]), {});
  await expect(
    (async () => {
      for await (const _ of states);
    })(),
  ).rejects.toThrow(/Step 1 of 3.*made (-?Infinity|NaN) out of a finite prediction/);
  const run = plan.sample(network, float32([1, 1], [Number.NaN]));
  await expect(run.next()).rejects.toThrow(/was given NaN in step 1 of 3|output holds NaN/);
});
