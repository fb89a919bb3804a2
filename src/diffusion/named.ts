import { UserError } from "../core/errors.ts";
import { type ConfiguredSampler, samplerFromConfig } from "./config/index.ts";
import {
  type ReadConfig,
  readConfig,
  SCHEDULER_OPTIONS,
  type SchedulerClass,
  type SchedulerConfig,
} from "./config/options.ts";
import type { PlanRequest } from "./config/plan.ts";
import { finiteAlphas, knowsShape, scheduleOf } from "./config/shared.ts";
import { type Network, withoutVariance } from "./denoiser.ts";
import {
  ALIGN_YOUR_STEPS,
  alignYourStepsSigmas,
  polyexponentialSigmas,
  sgmUniformTimesteps,
  timestepOfSigma,
} from "./grids.ts";
import { type NamedSampler, SAMPLERS, type SamplerName } from "./sampler-table.ts";
import { sigmasOf } from "./schedule.ts";

/** How the levels of a run are spread, by the name that commands and requests use. */
export const GRIDS = [
  "linspace",
  "leading",
  "trailing",
  "karras",
  "exponential",
  "beta",
  "polyexponential",
  "sgm-uniform",
  "align-your-steps",
  "align-your-steps-xl",
] as const;
export type GridName = (typeof GRIDS)[number];

/**
 * A sampler by its name, for a network whose own scheduler configuration is given: the schedule, the kind of
 * prediction, the clipping and, unless a spread is named, the spread of the steps come from there; what makes the sampler
 * itself (its order, its form) comes from `SAMPLERS`, also where the network's own scheduler is of the same class.
 *
 * @param spread how the steps are spread: one of `GRIDS`
 * @throws UserError for an unknown name, for a sampler or a spread that such a network cannot be sampled with, and for
 *   what the configuration says about the network and the sampler cannot do; the hint names the samplers that can
 */
export function namedSampler(
  name: string,
  model: SchedulerConfig,
  { spread }: { readonly spread?: string } = {},
): ConfiguredSampler {
  if (!Object.hasOwn(SAMPLERS, name)) throw unknown("sampler", name, Object.keys(SAMPLERS));
  if (spread !== undefined && !isSpread(spread)) throw unknown("spread", spread, GRIDS);
  const read = readConfig(model);
  const found = configured(name as SamplerName, read, spread);
  if (!("refusal" in found)) return found;
  const others = Object.keys(SAMPLERS).filter(
    (other) => !("refusal" in configured(other as SamplerName, read, spread)),
  );
  throw new UserError(`The sampler "${name}" ${found.refusal}.`, {
    hint:
      others.length > 0
        ? `${found.field === "spread" ? "Leave the spread out, or choose" : "Choose"} one of ${others.join(", ")}.`
        : "The model's own scheduler can: leave the sampler out.",
    field: found.field,
  });
}

/** Why a sampler cannot be had for a network. */
interface Refusal {
  readonly refusal: string;
  readonly field: "sampler" | "spread";
}

function configured(name: SamplerName, read: ReadConfig, spread: GridName | undefined): ConfiguredSampler | Refusal {
  const entry: NamedSampler = SAMPLERS[name];
  const family = familyOf(read);
  if (family === "consistency") {
    return { refusal: `cannot sample the network of a ${read.className}`, field: "sampler" };
  }
  const chosen = family === "discrete" ? entry.config : entry[family];
  if (!chosen) {
    const network = family === "flow" ? "a flow-matching network" : "an EDM network";
    return { refusal: `cannot sample ${network}`, field: "sampler" };
  }
  const to = chosen._class_name;
  const lost = lostOption(read, to);
  if (lost !== undefined) {
    const value = JSON.stringify(read.options[lost]);
    return { refusal: `cannot sample a network whose scheduler says ${lost} ${value}`, field: "sampler" };
  }
  const spreading = spreadOptions(spread, to, family);
  if (!spreading) return { refusal: `cannot spread its steps "${spread}" for this network`, field: "spread" };
  const sampler = samplerFromConfig({ ...carriedOver(read, to), ...chosen, ...spreading });
  const learned = String(read.options.variance_type ?? "").startsWith("learned");
  const whole = learned && !("variance_type" in SCHEDULER_OPTIONS[to]) ? ofNetworkWithVariance(sampler) : sampler;
  return isLaidOut(spread) ? laidOut(whole, spread) : whole;
}

/**
 * What the configuration of another class, or of the same, says about the network. A schedule that the class cannot name
 * goes along as its β_t.
 */
function carriedOver(read: ReadConfig, to: SchedulerClass): Record<string, unknown> {
  const { className: from, options } = read;
  const known: Readonly<Record<string, unknown>> = SCHEDULER_OPTIONS[to];
  const kept = from === to ? Object.keys(options).filter((name) => !OF_THE_METHOD.includes(name)) : OF_THE_NETWORK;
  const carried: Record<string, unknown> = {};
  for (const name of kept) if (name in options && name in known) carried[name] = options[name];
  if ("shift" in options && "flow_shift" in known) carried.flow_shift = options.shift;
  if ("flow_shift" in options && "shift" in known) carried.shift = options.flow_shift;
  const rescaled = options.rescale_betas_zero_snr === true && !("rescale_betas_zero_snr" in known);
  const shaped = "beta_schedule" in options && !knowsShape(to, options.beta_schedule as string);
  if (rescaled || shaped) {
    carried.trained_betas = Array.from(scheduleOf(read).betas);
    carried.beta_schedule = "linear";
  }
  return carried;
}

/** Options that describe the network and not the sampler. */
const OF_THE_NETWORK = [
  ...["num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"],
  ...["prediction_type", "variance_type", "steps_offset", "timestep_spacing", "set_alpha_to_one"],
  ...["clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value"],
  ...["sigma_min", "sigma_max", "sigma_data", "sigma_schedule", "rho"],
  ...["shift", "flow_shift", "use_dynamic_shifting", "base_shift", "max_shift"],
  ...["base_image_seq_len", "max_image_seq_len", "invert_sigmas", "shift_terminal", "time_shift_type"],
  ...["original_inference_steps", "timestep_scaling"],
];

/** Options that make a class one sampler or another: the table of samplers says them, and never the network. */
const OF_THE_METHOD = [
  ...["algorithm_type", "solver_order", "solver_type", "solver_p", "predict_x0", "disable_corrector"],
  ...["predictor_order", "corrector_order", "tau_func", "skip_prk_steps", "stochastic_sampling", "final_sigmas_type"],
];

/** What says, unless it has this value, how a network was trained, and changes the picture where it is left out. */
const NEUTRAL: Readonly<Record<string, unknown>> = {
  use_dynamic_shifting: false,
  shift_terminal: null,
  invert_sigmas: false,
  timestep_type: "discrete",
};

/** An option about the network that a class cannot be told, if there is one. */
function lostOption({ options }: ReadConfig, to: SchedulerClass): string | undefined {
  return Object.keys(NEUTRAL).find((name) => {
    if (!(name in options) || options[name] === NEUTRAL[name] || name in SCHEDULER_OPTIONS[to]) return false;
    // diffusers tells continuous times to networks that predict v, and to no others.
    return name !== "timestep_type" || options.prediction_type === "v_prediction";
  });
}

type Family = "discrete" | "flow" | "edm" | "consistency";

function familyOf({ className, options }: ReadConfig): Family {
  if (className.startsWith("FlowMatch") || options.use_flow_sigmas || options.prediction_type === "flow_prediction") {
    return "flow";
  }
  if (className.startsWith("EDM")) return "edm";
  return "beta_schedule" in options ? "discrete" : "consistency";
}

/** The options of diffusers that stand for a spread, all others being reset; undefined where a class has none. */
function spreadOptions(
  spread: GridName | undefined,
  to: SchedulerClass,
  family: Family,
): Record<string, unknown> | undefined {
  if (spread === undefined) return {};
  const known: Readonly<Record<string, unknown>> = SCHEDULER_OPTIONS[to];
  const reset = Object.fromEntries(Object.entries(NO_SPREAD).filter(([name]) => name in known));
  if (isLaidOut(spread)) {
    const whole = DPM_SOLVERS.includes(to) && spread !== "polyexponential";
    return family === "discrete" && (ON_SIGMAS.includes(to) || whole) ? reset : undefined;
  }
  if (family === "edm") return spread === "karras" || spread === "exponential" ? { sigma_schedule: spread } : undefined;
  const spacing = spread === "linspace" || spread === "leading" || spread === "trailing";
  const option = spacing ? "timestep_spacing" : `use_${spread}_sigmas`;
  // LCM and TCD go by the timesteps of their distillation, whatever the spacing.
  if (!(option in known) || "original_inference_steps" in known) return undefined;
  // DPM-Solver's and UniPC's flow times have one spread; UniPC can bring Karras' σ to [0, 1].
  if (family === "flow" && "use_flow_sigmas" in known && !(to === "UniPCMultistepScheduler" && spread === "karras")) {
    return undefined;
  }
  return { ...reset, [option]: spacing ? spread : true };
}

/** The options that stand for spreads, so that there is none. */
const NO_SPREAD = {
  use_karras_sigmas: false,
  use_exponential_sigmas: false,
  use_beta_sigmas: false,
  use_lu_lambdas: false,
  interpolation_type: "linear",
};
/** They take a request's own σ or fractional timesteps. */
const ON_SIGMAS: readonly SchedulerClass[] = ["EulerDiscreteScheduler", "HeunDiscreteScheduler"];
/** Their timesteps are whole numbers, too coarse for the small σ of a polyexponential spread. */
const DPM_SOLVERS: readonly SchedulerClass[] = ["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"];

type LaidOut = "polyexponential" | "sgm-uniform" | "align-your-steps" | "align-your-steps-xl";

function isSpread(name: string): name is GridName {
  return (GRIDS as readonly string[]).includes(name);
}

function isLaidOut(spread: string | undefined): spread is LaidOut {
  return spread === "polyexponential" || spread === "sgm-uniform" || (spread?.startsWith("align-your-steps") ?? false);
}

/** Spreads without an option of their own become the custom timesteps or σ of a request. */
function laidOut(sampler: ConfiguredSampler, spread: LaidOut): ConfiguredSampler {
  const { className, options } = sampler;
  const whole = DPM_SOLVERS.includes(className);
  const alphas = finiteAlphas({ className, options, ignored: [] });
  const ends = sigmasOf(alphas);
  const atTimesteps = (timesteps: readonly number[]): PlanRequest => ({
    timesteps: apart(whole ? timesteps.map(Math.round) : timesteps, spread),
  });
  const atSigmas = (sigmas: readonly number[]): PlanRequest =>
    className === "EulerDiscreteScheduler"
      ? { sigmas: [...sigmas, 0] }
      : atTimesteps(sigmas.map(timestepOfSigma(alphas)));
  const request = (steps: number): PlanRequest => {
    if (spread === "sgm-uniform") return atTimesteps(sgmUniformTimesteps(steps, alphas.length));
    if (spread === "polyexponential") return atSigmas(polyexponentialSigmas(ends[0]!, ends.at(-1)!, steps));
    const table = spread === "align-your-steps" ? "stable-diffusion" : "stable-diffusion-xl";
    const { timesteps, sigmas: published } = ALIGN_YOUR_STEPS[table];
    // The published timesteps are those of its σ on the schedule of Stable Diffusion, and on no other.
    const own = alphas.length === 1000 && Math.abs(ends.at(-1)! - published[0]) < 0.01;
    if (own && steps === timesteps.length) return { timesteps };
    return atSigmas(alignYourStepsSigmas(table, steps).slice(0, -1));
  };
  return {
    ...sampler,
    spread,
    plan: ({ steps, ...rest }) => {
      if (steps === undefined)
        throw new UserError(`The spread "${spread}" needs a number of steps.`, { field: "steps" });
      return sampler.plan({ ...rest, ...request(steps) });
    },
  };
}

/** Throws where rounding, or the end of the network's schedule, makes one level of two. */
function apart(timesteps: readonly number[], spread: string): readonly number[] {
  if (timesteps.every((t, i) => i === 0 || t < timesteps[i - 1]!)) return timesteps;
  throw new UserError(
    `${timesteps.length} steps spread "${spread}" would have a level twice on this network's schedule.`,
    {
      hint: "Ask for another number of steps, or choose another spread.",
      field: "steps",
    },
  );
}

/** A sampler that draws no learned variance, for a network that predicts one: it takes the other half of the channels. */
function ofNetworkWithVariance(sampler: ConfiguredSampler): ConfiguredSampler {
  return {
    ...sampler,
    plan: (request) => {
      const plan = sampler.plan(request);
      const denoiser = (network: Network) => plan.denoiser(withoutVariance(network));
      return { ...plan, denoiser, sample: (network, x, run) => plan.run(denoiser(network), x, run) };
    },
  };
}

function unknown(what: string, given: string, known: readonly string[]): UserError {
  return new UserError(`The ${what} "${given}" is not known.`, { hint: `Known are ${known.join(", ")}.`, field: what });
}
