import { expect, test } from "vitest";
import { UserError } from "../../core/errors.ts";
import { float32 } from "../../core/host-tensor.ts";
import { pythonJson } from "../../core/python-json.ts";
import { namedSampler } from "../named.ts";
import { recordedNoise } from "../noise-source.ts";
import type { Samples } from "../process.ts";
import { SAMPLERS } from "../sampler-table.ts";
import { finished } from "../samplers/sampler.ts";
import { type ConfiguredSampler, defaultOptions, samplerFromConfig, schedulerConfig } from "./index.ts";
import { notesOnConfig } from "./notes.ts";
import { isSchedulerClass, parseSchedulerConfig, SCHEDULER_OPTIONS, type SchedulerClass } from "./options.ts";
import { UNSUPPORTED_SCHEDULERS } from "./unsupported.ts";

const classes = Object.keys(SCHEDULER_OPTIONS) as SchedulerClass[];

test.each(classes.filter((name) => name !== "EDMHeunScheduler"))(
  "the configuration of %s, written and read again, plans the same run",
  (className) => {
    const sampler = samplerFromConfig({ _class_name: className });
    const again = samplerFromConfig(parseSchedulerConfig(pythonJson(schedulerConfig(sampler))));
    expect(again.options).toEqual(sampler.options);
    const plan = (of: ConfiguredSampler) => of.plan({ steps: 8 });
    expect(plan(again).timesteps).toEqual(plan(sampler).timesteps);
    expect(plan(again).sigmas).toEqual(plan(sampler).sigmas);
    expect(Object.keys(defaultOptions(className)).every((name) => name in sampler.options)).toBe(true);
  },
);

test("an unknown class, option, word or type is a user's mistake that names it", () => {
  const mistakes: [Record<string, unknown>, RegExp][] = [
    [{ _class_name: "VQDiffusionScheduler" }, /VQDiffusionScheduler.*discrete tokens/],
    [{ _class_name: "FlaxDDIMScheduler" }, /name DDIMScheduler as _class_name|those of DDIMScheduler/],
    [{ _class_name: "toString" }, /"toString" is not supported/],
    [{}, /undefined is not supported/],
    [{ _class_name: "DDIMScheduler", toString: 3 }, /no option "toString"/],
    [{ _class_name: "DDIMScheduler", constructor: 3 }, /no option "constructor"/],
    [{ _class_name: "DDIMScheduler", predict_epsilon: 1 }, /"predict_epsilon" is 1/],
    [
      { _class_name: "DDIMScheduler", predict_epsilon: false, prediction_type: "v_prediction" },
      /predict_epsilon false/,
    ],
    [{ _class_name: "DDIMScheduler", beta_shedule: "linear" }, /no option "beta_shedule"/],
    [{ _class_name: "DDIMScheduler", beta_schedule: "cubic" }, /"beta_schedule" is "cubic"/],
    [{ _class_name: "DDIMScheduler", clip_sample: "yes" }, /"clip_sample" is "yes"/],
    [{ _class_name: "DDIMScheduler", beta_start: "small" }, /"beta_start" is "small"/],
    [{ _class_name: "UniPCMultistepScheduler", solver_p: {} }, /"solver_p"/],
    [{ _class_name: "DDIMScheduler", beta_start: -1 }, /"beta_start" is -1/],
    [{ _class_name: "DDIMScheduler", num_train_timesteps: 0 }, /"num_train_timesteps" is 0/],
    [{ _class_name: "DDIMScheduler", num_train_timesteps: 1, trained_betas: [1.5] }, /"trained_betas" is \[1.5\]/],
    [{ _class_name: "EDMEulerScheduler", sigma_min: 90 }, /"sigma_min" is 90/],
    [{ _class_name: "EDMEulerScheduler", rho: 0 }, /"rho" is 0/],
  ];
  for (const [config, message] of mistakes) {
    expect(() => samplerFromConfig(config)).toThrow(UserError);
    expect(() => samplerFromConfig(config)).toThrow(message);
  }
});

test("options that exclude each other are named when the run is planned", () => {
  const plan = (config: Record<string, unknown>, request = {}) =>
    samplerFromConfig(config).plan({ steps: 5, ...request });
  expect(() => plan({ _class_name: "EulerDiscreteScheduler", use_karras_sigmas: true, use_beta_sigmas: true })).toThrow(
    /karras and beta/,
  );
  expect(() => plan({ _class_name: "DPMSolverMultistepScheduler", algorithm_type: "dpmsolver" })).toThrow(/sigma_min/);
  expect(() =>
    plan({ _class_name: "DDIMScheduler", rescale_betas_zero_snr: true, timestep_spacing: "trailing" }),
  ).toThrow(/no signal/);
  expect(() => plan({ _class_name: "EulerAncestralDiscreteScheduler", prediction_type: "sample" })).toThrow(
    /prediction type "sample"/,
  );
  expect(() => plan({ _class_name: "DDIMScheduler" }, { mu: 1 })).toThrow(/takes no "mu"/);
  expect(() => plan({ _class_name: "LCMScheduler" }, { steps: 60 })).toThrow(/distilled with 50/);
  expect(() => plan({ _class_name: "FlowMatchEulerDiscreteScheduler", use_dynamic_shifting: true })).toThrow(
    /needs mu/,
  );
});

test("diffusers' own notes and options of other classes are kept apart, the latter named", () => {
  // The scheduler_config.json of Stable Diffusion 1.5 as published.
  const text = `{ "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false,
    "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null, "clip_sample": false }`;
  const sampler = samplerFromConfig(parseSchedulerConfig(text));
  expect(sampler.ignored).toEqual(["clip_sample"]);
  expect(sampler.plan({ steps: 5 }).timesteps).toEqual([801, 601, 601, 401, 201, 1]);
});

test("what a class has no use for is told where it asks for something", () => {
  const config = {
    _class_name: "DDIMScheduler",
    _diffusers_version: "0.30.0",
    ...{ use_karras_sigmas: true, solver_order: 3, timestep_type: "continuous" },
    // These ask for nothing: they are off, or what a class has by default.
    ...{
      use_lu_lambdas: false,
      skip_prk_steps: true,
      interpolation_type: "linear",
      sigma_min: null,
      shift: 1,
      variance_type: "fixed_small",
    },
  };
  expect(notesOnConfig(config)).toEqual([
    'DDIMScheduler has no use for use_karras_sigmas true, solver_order 3, timestep_type "continuous" of its configuration.',
  ]);
  expect(notesOnConfig({ _class_name: "DDIMScheduler", prediction_type: "sample", predict_epsilon: false })).toEqual(
    [],
  );
  expect(notesOnConfig({ _class_name: "RePaintScheduler", eta: 0 })).toEqual([]);
});

test("predict_epsilon of older releases is the prediction type it became", () => {
  const typeOf = (config: object) =>
    samplerFromConfig({ _class_name: "DDPMScheduler", ...config }).options.prediction_type;
  expect(typeOf({ predict_epsilon: false })).toBe("sample");
  expect(typeOf({ predict_epsilon: false, prediction_type: "sample" })).toBe("sample");
  expect(typeOf({ predict_epsilon: true })).toBe("epsilon");
  expect(typeOf({ predict_epsilon: null })).toBe("epsilon");
});

test("no class is both read and refused", () => {
  for (const name of UNSUPPORTED_SCHEDULERS) {
    expect(isSchedulerClass(name)).toBe(false);
    expect(() => samplerFromConfig({ _class_name: name })).toThrow(UserError);
  }
});

test("the bare infinities that Python writes are read, and strings are left alone", () => {
  const config = parseSchedulerConfig(
    '{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "_note": "NaN, -Infinity"}',
  );
  expect(samplerFromConfig(config).options.lambda_min_clipped).toBe(Number.NEGATIVE_INFINITY);
  expect(config._note).toBe("NaN, -Infinity");
});

test("Euler with churn reads v with the σ it was predicted at", async () => {
  const plan = samplerFromConfig({ _class_name: "EulerDiscreteScheduler", prediction_type: "v_prediction" }).plan({
    steps: 4,
    churn: { amount: 1, noise: 1.1 },
  });
  const [sigma, next] = plan.sigmas as unknown as [number, number];
  const v = 0.3;
  const drawn = 0.7;
  const network = async () => float32([1, 1], [v]);
  const { value: state } = await plan.sample(network, float32([1, 1], [2]), { noise: recordedNoise([[drawn]]) }).next();
  const raised = sigma * 1.25;
  const x = 2 + drawn * 1.1 * Math.sqrt(raised ** 2 - sigma ** 2);
  const x0 = (-v * sigma) / Math.sqrt(sigma ** 2 + 1) + x / (sigma ** 2 + 1);
  expect(state!.x.data[0]).toBeCloseTo(x + ((x - x0) / raised) * (next - raised), 4);
});

test("a sampler by name takes the network's schedule, prediction and clipping, and a grid of its own", () => {
  const model = {
    _class_name: "DDPMScheduler",
    beta_schedule: "squaredcos_cap_v2",
    prediction_type: "v_prediction",
    clip_sample_range: 2,
  };
  expect(namedSampler("ddim", model).options).toMatchObject({
    beta_schedule: "squaredcos_cap_v2",
    prediction_type: "v_prediction",
    clip_sample: true,
    clip_sample_range: 2,
  });
  const karras = namedSampler("dpm++2m", model, { spread: "karras" });
  expect(karras.options).toMatchObject({ use_karras_sigmas: true, beta_start: 1e-4 });
  expect(namedSampler("euler", model, { spread: "sgm-uniform" }).plan({ steps: 4 }).timesteps).toEqual([
    999, 749.25, 499.5, 249.75,
  ]);
  expect(namedSampler("euler", model, { spread: "polyexponential" }).plan({ steps: 6 }).sigmas).toHaveLength(7);
  const flow = { _class_name: "FlowMatchEulerDiscreteScheduler", shift: 3 };
  expect(namedSampler("dpm++2m", flow).options).toMatchObject({
    use_flow_sigmas: true,
    flow_shift: 3,
    prediction_type: "flow_prediction",
  });
  expect(namedSampler("heun", { _class_name: "EDMEulerScheduler", sigma_max: 40 }).options).toMatchObject({
    sigma_max: 40,
  });
});

test("names and grids that cannot be are named with what can", () => {
  const model = { _class_name: "DDPMScheduler" };
  expect(() => namedSampler("eular", model)).toThrow(/"eular" is not known/);
  expect(() => namedSampler("euler", model, { spread: "cosine" })).toThrow(/spread "cosine" is not known/);
  expect(() => namedSampler("ddim", model, { spread: "karras" })).toThrow(
    /"ddim" cannot spread its steps "karras" for this network/,
  );
  expect(() => namedSampler("ddim", { _class_name: "FlowMatchEulerDiscreteScheduler" })).toThrow(/one of euler, heun/);
  for (const { config } of Object.values(SAMPLERS)) expect(isSchedulerClass(config._class_name)).toBe(true);
});

test("FlowMatchLCMScheduler draws as stochastic flow matching, and tells custom timesteps as they are", async () => {
  const lcm = samplerFromConfig({ _class_name: "FlowMatchLCMScheduler", shift: 3 });
  const euler = samplerFromConfig({
    _class_name: "FlowMatchEulerDiscreteScheduler",
    shift: 3,
    stochastic_sampling: true,
  });
  const drawn = async ({ plan }: ConfiguredSampler) => {
    const network = async (x: Samples, t: number) => float32(x.shape, [x.data[0]! * 0.3 + t / 1000]);
    const run = plan({ steps: 3 }).sample(network, float32([1, 1], [0.4]), { noise: recordedNoise([[1], [2], [3]]) });
    return [...(await finished(run, float32([1, 1], [0]))).data];
  };
  expect(await drawn(lcm)).toEqual(await drawn(euler));
  const custom = { timesteps: [900, 500] };
  expect(lcm.plan(custom).timesteps).toEqual([900, 500]);
  expect(lcm.plan(custom).sigmas).toEqual(euler.plan(custom).sigmas);
  expect(euler.plan(custom).timesteps[1]).toBe(750);
});

test("DPM-Solver upwards and down again is where it came from", async () => {
  const model = { beta_schedule: "scaled_linear", beta_start: 0.00085, beta_end: 0.012, steps_offset: 0 };
  const network = async (x: Samples) =>
    float32(
      x.shape,
      x.data.map((value) => 0.3 * Math.tanh(value)),
    );
  const ends = async (_class_name: string, x: number) => {
    const plan = samplerFromConfig({ _class_name, ...model }).plan({ steps: 200 });
    return (await finished(plan.sample(network, float32([1, 1], [x])), float32([1, 1], [x]))).data[0]!;
  };
  const noise = await ends("DPMSolverMultistepInverseScheduler", 0.6);
  expect(Math.abs(noise - 0.6)).toBeGreaterThan(0.1);
  expect(Math.abs((await ends("DPMSolverMultistepScheduler", noise)) - 0.6)).toBeLessThan(0.02);
  const plan = (options: object, steps = 5) =>
    samplerFromConfig({ _class_name: "DPMSolverMultistepInverseScheduler", ...options }).plan({ steps });
  expect(plan({ timestep_spacing: "leading" }).timesteps).toEqual([0, 166, 332, 498, 664]);
  expect(plan({ timestep_spacing: "trailing" }).timesteps).toEqual([199, 399, 599, 799, 999]);
  expect(plan({ lambda_min_clipped: -1 }).sigmas!.at(-1)).toBeLessThanOrEqual(Math.E);
  expect(() => plan({ algorithm_type: "sde-dpmsolver++" })).toThrow(/no stochastic form/);
  expect(() => plan({}, 1000)).toThrow(/no 1000 different timesteps/);
});

test("a shift that float32 does not hold keeps to the path of flow matching", () => {
  for (const _class_name of ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"]) {
    for (let shift = 1.01; shift < 4; shift += 0.0371) {
      const { sigmas } = samplerFromConfig({ _class_name, shift }).plan({ steps: 3 });
      expect(sigmas![0]).toBeCloseTo(1, 6);
      expect(sigmas![0]).toBeLessThanOrEqual(1);
    }
  }
});
