import { UserError } from "../../core/errors.ts";
import { parsePythonJson } from "../../core/python-json.ts";
import { checkRanges } from "./ranges.ts";
import { unsupportedScheduler } from "./unsupported.ts";

/** A scheduler configuration in diffusers' form: `_class_name` and the constructor's arguments. */
export type SchedulerConfig = Readonly<Record<string, unknown>> & { readonly _class_name?: string };

type Defaults = Readonly<Record<string, unknown>>;

const TRAINING = {
  num_train_timesteps: 1000,
  trained_betas: null,
  prediction_type: "epsilon",
  steps_offset: 0,
} as const;
const BETAS = { beta_start: 1e-4, beta_end: 0.02, beta_schedule: "linear" } as const;
const LATENT_BETAS = { beta_start: 0.00085, beta_end: 0.012, beta_schedule: "linear" } as const;
const CLIPPING = { clip_sample: true, clip_sample_range: 1 } as const;
const THRESHOLDING = { thresholding: false, dynamic_thresholding_ratio: 0.995, sample_max_value: 1 } as const;
const SIGMA_GRIDS = { use_karras_sigmas: false, use_exponential_sigmas: false, use_beta_sigmas: false } as const;
const FLOW = {
  use_flow_sigmas: false,
  flow_shift: 1,
  use_dynamic_shifting: false,
  time_shift_type: "exponential",
} as const;
const DPM_SOLVER = { solver_order: 2, algorithm_type: "dpmsolver++", solver_type: "midpoint" } as const;
const EDM = {
  sigma_min: 0.002,
  sigma_max: 80,
  sigma_data: 0.5,
  sigma_schedule: "karras",
  num_train_timesteps: 1000,
  prediction_type: "epsilon",
  rho: 7,
  final_sigmas_type: "zero",
} as const;
const DISTILLED = {
  ...TRAINING,
  ...LATENT_BETAS,
  ...CLIPPING,
  ...THRESHOLDING,
  beta_schedule: "scaled_linear",
  original_inference_steps: 50,
  clip_sample: false,
  set_alpha_to_one: true,
  timestep_spacing: "leading",
  timestep_scaling: 10,
  rescale_betas_zero_snr: false,
} as const;
const KDPM2 = { ...TRAINING, ...LATENT_BETAS, ...SIGMA_GRIDS, timestep_spacing: "linspace" } as const;

const DDPM = {
  ...TRAINING,
  ...BETAS,
  ...CLIPPING,
  ...THRESHOLDING,
  variance_type: "fixed_small",
  timestep_spacing: "leading",
  rescale_betas_zero_snr: false,
} as const;
const DDIM = {
  ...TRAINING,
  ...BETAS,
  ...CLIPPING,
  ...THRESHOLDING,
  set_alpha_to_one: true,
  timestep_spacing: "leading",
  rescale_betas_zero_snr: false,
} as const;
const FLOW_MATCH = {
  num_train_timesteps: 1000,
  shift: 1,
  use_dynamic_shifting: false,
  base_shift: 0.5,
  max_shift: 1.15,
  base_image_seq_len: 256,
  max_image_seq_len: 4096,
  invert_sigmas: false,
  shift_terminal: null,
  ...SIGMA_GRIDS,
  time_shift_type: "exponential",
} as const;

/** The options of every scheduler class that is read, with diffusers' defaults. */
export const SCHEDULER_OPTIONS = {
  DDPMScheduler: DDPM,
  // The same samplers; what they can do besides, several timesteps in one call, is of no use here.
  DDPMParallelScheduler: DDPM,
  DDIMScheduler: DDIM,
  DDIMParallelScheduler: DDIM,
  DDIMInverseScheduler: {
    ...TRAINING,
    ...BETAS,
    ...CLIPPING,
    set_alpha_to_one: true,
    set_alpha_to_zero: null,
    timestep_spacing: "leading",
    rescale_betas_zero_snr: false,
  },
  PNDMScheduler: { ...TRAINING, ...BETAS, skip_prk_steps: false, set_alpha_to_one: false, timestep_spacing: "leading" },
  IPNDMScheduler: { num_train_timesteps: 1000, trained_betas: null },
  EulerDiscreteScheduler: {
    ...TRAINING,
    ...BETAS,
    ...SIGMA_GRIDS,
    interpolation_type: "linear",
    sigma_min: null,
    sigma_max: null,
    timestep_spacing: "linspace",
    timestep_type: "discrete",
    rescale_betas_zero_snr: false,
    final_sigmas_type: "zero",
  },
  EulerAncestralDiscreteScheduler: {
    ...TRAINING,
    ...BETAS,
    timestep_spacing: "linspace",
    rescale_betas_zero_snr: false,
  },
  HeunDiscreteScheduler: { ...KDPM2, clip_sample: false, clip_sample_range: 1 },
  KDPM2DiscreteScheduler: KDPM2,
  KDPM2AncestralDiscreteScheduler: KDPM2,
  DPMSolverSDEScheduler: { ...KDPM2, noise_sampler_seed: null },
  LMSDiscreteScheduler: { ...TRAINING, ...BETAS, ...SIGMA_GRIDS, timestep_spacing: "linspace" },
  DPMSolverMultistepScheduler: {
    ...TRAINING,
    ...BETAS,
    ...THRESHOLDING,
    ...SIGMA_GRIDS,
    ...FLOW,
    ...DPM_SOLVER,
    lower_order_final: true,
    euler_at_final: false,
    use_lu_lambdas: false,
    final_sigmas_type: "zero",
    lambda_min_clipped: Number.NEGATIVE_INFINITY,
    variance_type: null,
    timestep_spacing: "linspace",
    rescale_betas_zero_snr: false,
  },
  DPMSolverMultistepInverseScheduler: {
    ...TRAINING,
    ...BETAS,
    ...THRESHOLDING,
    ...SIGMA_GRIDS,
    use_flow_sigmas: false,
    flow_shift: 1,
    ...DPM_SOLVER,
    lower_order_final: true,
    euler_at_final: false,
    lambda_min_clipped: Number.NEGATIVE_INFINITY,
    variance_type: null,
    timestep_spacing: "linspace",
  },
  DPMSolverSinglestepScheduler: {
    num_train_timesteps: 1000,
    trained_betas: null,
    prediction_type: "epsilon",
    ...BETAS,
    ...THRESHOLDING,
    ...SIGMA_GRIDS,
    ...FLOW,
    ...DPM_SOLVER,
    lower_order_final: false,
    final_sigmas_type: "zero",
    lambda_min_clipped: Number.NEGATIVE_INFINITY,
    variance_type: null,
  },
  DEISMultistepScheduler: {
    ...TRAINING,
    ...BETAS,
    ...THRESHOLDING,
    ...SIGMA_GRIDS,
    ...FLOW,
    solver_order: 2,
    algorithm_type: "deis",
    solver_type: "logrho",
    lower_order_final: true,
    timestep_spacing: "linspace",
  },
  UniPCMultistepScheduler: {
    ...TRAINING,
    ...BETAS,
    ...THRESHOLDING,
    ...SIGMA_GRIDS,
    ...FLOW,
    solver_order: 2,
    predict_x0: true,
    solver_type: "bh2",
    lower_order_final: true,
    disable_corrector: [],
    solver_p: null,
    timestep_spacing: "linspace",
    final_sigmas_type: "zero",
    rescale_betas_zero_snr: false,
    sigma_min: null,
    sigma_max: null,
    shift_terminal: null,
  },
  SASolverScheduler: {
    ...TRAINING,
    ...BETAS,
    ...THRESHOLDING,
    ...SIGMA_GRIDS,
    use_flow_sigmas: false,
    flow_shift: 1,
    predictor_order: 2,
    corrector_order: 2,
    tau_func: null,
    algorithm_type: "data_prediction",
    lower_order_final: true,
    lambda_min_clipped: Number.NEGATIVE_INFINITY,
    variance_type: null,
    timestep_spacing: "linspace",
  },
  EDMEulerScheduler: EDM,
  // Not a class of diffusers: Karras et al.'s own sampler, for networks with their preconditioning.
  EDMHeunScheduler: EDM,
  EDMDPMSolverMultistepScheduler: {
    ...EDM,
    ...THRESHOLDING,
    ...DPM_SOLVER,
    lower_order_final: true,
    euler_at_final: false,
  },
  LCMScheduler: DISTILLED,
  TCDScheduler: DISTILLED,
  CMStochasticIterativeScheduler: {
    num_train_timesteps: 40,
    sigma_min: 0.002,
    sigma_max: 80,
    sigma_data: 0.5,
    s_noise: 1,
    rho: 7,
    clip_denoised: true,
  },
  FlowMatchEulerDiscreteScheduler: { ...FLOW_MATCH, stochastic_sampling: false },
  // Its upscale_mode matters with scale_factors only.
  FlowMatchLCMScheduler: { ...FLOW_MATCH, scale_factors: null, upscale_mode: "bicubic" },
  FlowMatchHeunDiscreteScheduler: { num_train_timesteps: 1000, shift: 1 },
} as const satisfies Record<string, Defaults>;

/** A scheduler class that `samplerFromConfig` reads. */
export type SchedulerClass = keyof typeof SCHEDULER_OPTIONS;

/** What the words of an option may be. An option of a class that accepts fewer words checks that itself. */
const WORDS: Readonly<Record<string, readonly string[]>> = {
  beta_schedule: ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp"],
  prediction_type: ["epsilon", "sample", "original_sample", "v_prediction", "flow_prediction"],
  timestep_spacing: ["linspace", "leading", "trailing"],
  variance_type: ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"],
  final_sigmas_type: ["zero", "sigma_min"],
  interpolation_type: ["linear", "log_linear"],
  timestep_type: ["discrete", "continuous"],
  time_shift_type: ["exponential", "linear"],
  sigma_schedule: ["karras", "exponential"],
  upscale_mode: ["nearest", "linear", "bilinear", "bicubic", "trilinear", "area", "nearest-exact"],
  solver_type: ["midpoint", "heun", "bh1", "bh2", "logrho"],
  algorithm_type: [
    "dpmsolver",
    "dpmsolver++",
    "sde-dpmsolver",
    "sde-dpmsolver++",
    "deis",
    "data_prediction",
    "noise_prediction",
  ],
};

/** A configuration with its class and every option filled in. */
export interface ReadConfig {
  readonly className: SchedulerClass;
  readonly options: Readonly<Record<string, unknown>>;
  /** Options of other classes that this one does not have: diffusers' own files carry them along. */
  readonly ignored: readonly string[];
}

/**
 * Reads and checks a configuration. An option that no class has, a value of the wrong type or an unknown word is a
 * `UserError` that names it; keys that start with `_` are diffusers' own notes.
 */
export function readConfig(config: SchedulerConfig): ReadConfig {
  const className = config._class_name;
  if (typeof className !== "string" || !isSchedulerClass(className)) {
    throw unsupportedScheduler(className, Object.keys(SCHEDULER_OPTIONS));
  }
  const defaults: Defaults = SCHEDULER_OPTIONS[className];
  const options: Record<string, unknown> = { ...defaults };
  const ignored: string[] = [];
  let predictsEpsilon: unknown;
  for (const [name, value] of Object.entries(config)) {
    if (name.startsWith("_")) continue;
    if (Object.hasOwn(defaults, name)) options[name] = checked(className, name, value, defaults[name]);
    else if (name === "predict_epsilon" && "prediction_type" in defaults) predictsEpsilon = value;
    else if (OF_ANY_CLASS.has(name)) ignored.push(name);
    else {
      throw new UserError(`${className} has no option "${name}".`, {
        hint: `It has ${Object.keys(defaults).join(", ")}.`,
        field: name,
      });
    }
  }
  if (predictsEpsilon !== undefined && predictsEpsilon !== null) {
    options.prediction_type = ofOlderReleases(className, predictsEpsilon, config.prediction_type);
  }
  checkRanges(className, options);
  return { className, options, ignored };
}

/** `predict_epsilon` of older releases of diffusers: true is the prediction type "epsilon", false is "sample". */
function ofOlderReleases(className: string, predictsEpsilon: unknown, given: unknown): string {
  if (typeof predictsEpsilon !== "boolean") {
    throw wrong(className, "predict_epsilon", predictsEpsilon, "true or false");
  }
  const type = predictsEpsilon ? "epsilon" : "sample";
  if (given === undefined || given === null || given === type) return type;
  throw new UserError(`${className} has predict_epsilon ${predictsEpsilon} and prediction_type "${given}".`, {
    hint: "Leave predict_epsilon out; it is the older option of the two.",
    field: "predict_epsilon",
  });
}

/** Whether a scheduler class is supported. */
export function isSchedulerClass(name: string): name is SchedulerClass {
  return Object.hasOwn(SCHEDULER_OPTIONS, name);
}

/** Parses the text of a scheduler_config.json: JSON, and the bare NaN and Infinity that Python writes. */
export function parseSchedulerConfig(text: string): SchedulerConfig {
  try {
    return parsePythonJson(text) as SchedulerConfig;
  } catch (cause) {
    throw new UserError("The scheduler configuration is not JSON.", { cause });
  }
}

/** The options that any class has. */
export const OF_ANY_CLASS: ReadonlySet<string> = new Set([
  ...Object.values(SCHEDULER_OPTIONS).flatMap((options) => Object.keys(options)),
  // Options of older releases that published files still have.
  "skip_sample_clipping",
  "tensor_format",
  "predict_epsilon",
]);

/** Options whose other values are not supported. A `noise_sampler_seed` is the seed of a run here, not of a configuration. */
const NULL_ONLY: ReadonlySet<string> = new Set(["solver_p", "tau_func", "scale_factors", "noise_sampler_seed"]);

function checked(className: string, name: string, value: unknown, standard: unknown): unknown {
  const words = WORDS[name];
  if (value === null || value === undefined) return standard;
  if (words) {
    if (typeof value === "string" && words.includes(value)) return value;
    throw wrong(className, name, value, `one of ${words.join(", ")}`);
  }
  if (typeof standard === "boolean") {
    if (typeof value === "boolean") return value;
    throw wrong(className, name, value, "true or false");
  }
  if (name === "trained_betas" || name === "disable_corrector") {
    if (Array.isArray(value) && value.every((entry) => typeof entry === "number")) return value;
    throw wrong(className, name, value, "a list of numbers");
  }
  if (NULL_ONLY.has(name)) throw wrong(className, name, value, "null; another value is not supported");
  const number = typeof value === "string" && /^-?Infinity$/.test(value) ? Number(value) : value;
  if (typeof number === "number" && !Number.isNaN(number)) return number;
  throw wrong(className, name, value, "a number");
}

function wrong(className: string, name: string, value: unknown, accepted: string): UserError {
  return new UserError(`${className} option "${name}" is ${JSON.stringify(value)}.`, {
    hint: `Accepted is ${accepted}.`,
    field: name,
  });
}
