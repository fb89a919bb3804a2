import type { SchedulerClass } from "./config/options.ts";

/** What a table of samplers says about one. */
export interface NamedSampler {
  readonly title: string;
  /**
   * The measured order: the error falls as steps^−order. Of a stochastic sampler it is that without its noise, or null where
   * it is no solver then and none is measured.
   */
  readonly order: number | null;
  /** The order that it is published with, where another was measured. */
  readonly published?: number;
  readonly stochastic: boolean;
  readonly callsPerStep: number;
  readonly when: string;
  /** What it is one method with, and under which conditions; tests hold these. */
  readonly same?: string;
  /** diffusers' class and options for networks trained with noise levels β_t. */
  readonly config: { readonly _class_name: SchedulerClass } & Readonly<Record<string, unknown>>;
  /** The same for flow matching, and for networks with EDM's preconditioning, where there is one. */
  readonly flow?: { readonly _class_name: SchedulerClass } & Readonly<Record<string, unknown>>;
  readonly edm?: { readonly _class_name: SchedulerClass } & Readonly<Record<string, unknown>>;
}

const DPM = "DPMSolverMultistepScheduler";
const SINGLE = "DPMSolverSinglestepScheduler";
const EDM_DPM = "EDMDPMSolverMultistepScheduler";
const FLOW = { use_flow_sigmas: true, prediction_type: "flow_prediction" } as const;

/** Every sampler by the name that commands and requests use. */
export const SAMPLERS = {
  ddpm: {
    title: "DDPM, ancestral sampling",
    order: null,
    stochastic: true,
    callsPerStep: 1,
    when: "networks trained little, 20 steps; the reference, all steps; all variance kinds",
    same: "ddim with eta 1 and euler-ancestral, where it has the small variance (fixed_small)",
    config: { _class_name: "DDPMScheduler" },
  },
  ddim: {
    title: "DDIM",
    order: 1,
    stochastic: false,
    callsPerStep: 1,
    when: "deterministic, invertible; clips x0; 50 steps and more",
    same: "euler, where it does not clip",
    config: { _class_name: "DDIMScheduler" },
  },
  euler: {
    title: "Euler",
    order: 1,
    stochastic: false,
    callsPerStep: 1,
    when: "robust; the usual choice for flow matching",
    same: "ddim without clipping; every DPM-Solver and DEIS of order 1",
    config: { _class_name: "EulerDiscreteScheduler" },
    flow: { _class_name: "FlowMatchEulerDiscreteScheduler" },
    edm: { _class_name: "EDMEulerScheduler" },
  },
  "euler-ancestral": {
    title: "Euler ancestral: DDPM's small variance on a σ grid",
    order: null,
    stochastic: true,
    callsPerStep: 1,
    when: "lively pictures in 20 to 40 steps; never settles",
    same: "ddim with eta 1 without clipping; ddpm with the small variance",
    config: { _class_name: "EulerAncestralDiscreteScheduler" },
  },
  heun: {
    title: "Heun (Karras et al., Algorithm 1)",
    order: 2,
    stochastic: false,
    callsPerStep: 2,
    when: "precise; EDM networks; not where a schedule ends in nearly pure noise (cosine)",
    same: "EDM's deterministic sampler",
    config: { _class_name: "HeunDiscreteScheduler" },
    flow: { _class_name: "FlowMatchHeunDiscreteScheduler" },
    edm: { _class_name: "EDMHeunScheduler" },
  },
  dpm2: {
    title: "DPM2, the midpoint method",
    order: 2,
    stochastic: false,
    callsPerStep: 2,
    when: "precise, with 10 steps and more",
    config: { _class_name: "KDPM2DiscreteScheduler" },
  },
  "dpm2-ancestral": {
    title: "DPM2 ancestral",
    order: null,
    stochastic: true,
    callsPerStep: 2,
    when: "as Euler ancestral, on schedules that Heun takes",
    config: { _class_name: "KDPM2AncestralDiscreteScheduler" },
  },
  lms: {
    title: "Linear multistep, order 4",
    order: 4,
    stochastic: false,
    callsPerStep: 1,
    when: "older; unstable below 20 steps",
    config: { _class_name: "LMSDiscreteScheduler" },
  },
  pndm: {
    title: "PNDM with Runge–Kutta start",
    order: 2,
    stochastic: false,
    callsPerStep: 1,
    when: "older; 12 calls before the first cheap step; 4 steps and more",
    same: "plms from its fourth step on",
    config: { _class_name: "PNDMScheduler" },
  },
  plms: {
    title: "PLMS",
    order: 2,
    stochastic: false,
    callsPerStep: 1,
    when: "what the first Stable Diffusion shipped with",
    same: "pndm without the Runge–Kutta start",
    config: { _class_name: "PNDMScheduler", skip_prk_steps: true },
  },
  "dpm++2m": {
    title: "DPM-Solver++ multistep, order 2",
    order: 2,
    stochastic: false,
    callsPerStep: 1,
    when: "networks trained long: good pictures in 10 to 25 calls",
    config: { _class_name: DPM },
    flow: { _class_name: DPM, ...FLOW },
    edm: { _class_name: EDM_DPM },
  },
  "dpm++3m": {
    title: "DPM-Solver++ multistep, third-order form",
    // The published formula, which is what everyone samples with, measures 2.
    order: 2,
    published: 3,
    stochastic: false,
    callsPerStep: 1,
    when: "unguided networks, 15 steps and more",
    config: { _class_name: DPM, solver_order: 3 },
    flow: { _class_name: DPM, solver_order: 3, ...FLOW },
    edm: { _class_name: EDM_DPM, solver_order: 3 },
  },
  "dpm++2m-sde": {
    title: "DPM-Solver++ multistep, order 2, stochastic",
    order: null,
    stochastic: true,
    callsPerStep: 1,
    when: "more detail in 20 to 50 steps",
    config: { _class_name: DPM, algorithm_type: "sde-dpmsolver++" },
    flow: { _class_name: DPM, algorithm_type: "sde-dpmsolver++", ...FLOW },
    edm: { _class_name: EDM_DPM, algorithm_type: "sde-dpmsolver++" },
  },
  "dpm-solver": {
    title: "DPM-Solver multistep, order 2, noise prediction",
    order: 2,
    stochastic: false,
    callsPerStep: 1,
    when: "unguided latent networks",
    config: { _class_name: DPM, algorithm_type: "dpmsolver", final_sigmas_type: "sigma_min" },
  },
  "dpm++2s": {
    title: "DPM-Solver++ singlestep, order 2",
    order: 2,
    stochastic: false,
    callsPerStep: 1,
    when: "each two calls restart: takes sudden changes of guidance",
    config: { _class_name: SINGLE },
    flow: { _class_name: SINGLE, ...FLOW },
  },
  "dpm++3s": {
    title: "DPM-Solver++ singlestep, order 3",
    order: 3,
    stochastic: false,
    callsPerStep: 1,
    when: "unguided networks",
    config: { _class_name: SINGLE, solver_order: 3, solver_type: "heun" },
    flow: { _class_name: SINGLE, solver_order: 3, solver_type: "heun", ...FLOW },
  },
  deis: {
    title: "DEIS, order 2",
    order: 2,
    stochastic: false,
    callsPerStep: 1,
    when: "as DPM-Solver, with exact integrals",
    config: { _class_name: "DEISMultistepScheduler" },
  },
  unipc: {
    title: "UniPC, order 2 with corrector",
    order: 3,
    stochastic: false,
    callsPerStep: 1,
    when: "5 to 10 calls",
    config: { _class_name: "UniPCMultistepScheduler" },
    flow: { _class_name: "UniPCMultistepScheduler", ...FLOW },
  },
  "sa-solver": {
    title: "SA-Solver, orders 2 and 2",
    order: 2,
    stochastic: true,
    callsPerStep: 1,
    when: "stochastic, 20 steps and more",
    config: { _class_name: "SASolverScheduler" },
  },
  lcm: {
    title: "LCM",
    order: null,
    stochastic: true,
    callsPerStep: 1,
    when: "only networks distilled for it; 1 to 8 steps",
    config: { _class_name: "LCMScheduler" },
  },
  tcd: {
    title: "TCD",
    order: null,
    stochastic: true,
    callsPerStep: 1,
    when: "only networks distilled for it; 1 to 8 steps",
    same: "ddim without clipping, with eta 0",
    config: { _class_name: "TCDScheduler" },
  },
} as const satisfies Record<string, NamedSampler>;

/** Classes without a name: a model's scheduler configuration says them. The first two only draw for networks of their own kind. */
export const UNNAMED_SAMPLERS = {
  CMStochasticIterativeScheduler: "consistency models",
  IPNDMScheduler: "iPNDM, for networks of v on the path of cosine and sine",
  FlowMatchLCMScheduler: "LCM of flow matching, for networks distilled to few steps",
  DPMSolverSDEScheduler: "DPM-Solver++ SDE of two calls a step",
  DPMSolverMultistepInverseScheduler: "DPM-Solver upwards, from a picture to its noise",
  DDIMParallelScheduler: "ddim by another name",
  DDPMParallelScheduler: "ddpm by another name",
} as const satisfies { readonly [name in SchedulerClass]?: string };

export type SamplerName = keyof typeof SAMPLERS;
