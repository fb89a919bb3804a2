import { UserError } from "../core/errors.ts";
import { type ConfiguredSampler, samplerFromConfig } from "./config/index.ts";
import { readConfig, SCHEDULER_OPTIONS, type SchedulerClass, type SchedulerConfig } from "./config/options.ts";
import type { PlanRequest } from "./config/plan.ts";
import { finiteAlphas } from "./config/shared.ts";
import {
  ALIGN_YOUR_STEPS,
  alignYourStepsSigmas,
  polyexponentialSigmas,
  sgmUniformTimesteps,
  timestepOfSigma,
} from "./grids.ts";
import { sigmasOf } from "./schedule.ts";

/** What a table of samplers says about one. */
export interface NamedSampler {
  readonly title: string;
  /** The error falls as steps^−order; the measured order of stochastic samplers is that without their noise. */
  readonly order: number;
  readonly stochastic: boolean;
  readonly callsPerStep: number;
  readonly when: string;
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
    order: 1,
    stochastic: true,
    callsPerStep: 1,
    when: "the reference: hundreds of steps, all variance kinds",
    config: { _class_name: "DDPMScheduler" },
  },
  ddim: {
    title: "DDIM",
    order: 1,
    stochastic: false,
    callsPerStep: 1,
    when: "deterministic, invertible; clips x0; 50 steps and more",
    config: { _class_name: "DDIMScheduler" },
  },
  euler: {
    title: "Euler",
    order: 1,
    stochastic: false,
    callsPerStep: 1,
    when: "robust; the usual choice for flow matching",
    config: { _class_name: "EulerDiscreteScheduler" },
    flow: { _class_name: "FlowMatchEulerDiscreteScheduler" },
    edm: { _class_name: "EDMEulerScheduler" },
  },
  "euler-ancestral": {
    title: "Euler ancestral: DDPM's small variance on a σ grid",
    order: 1,
    stochastic: true,
    callsPerStep: 1,
    when: "lively pictures in 20 to 40 steps; never settles",
    config: { _class_name: "EulerAncestralDiscreteScheduler" },
  },
  heun: {
    title: "Heun (Karras et al., Algorithm 1)",
    order: 2,
    stochastic: false,
    callsPerStep: 2,
    when: "precise and plain; pixel networks, EDM networks",
    config: { _class_name: "HeunDiscreteScheduler" },
    flow: { _class_name: "FlowMatchHeunDiscreteScheduler" },
    edm: { _class_name: "EDMHeunScheduler" },
  },
  dpm2: {
    title: "DPM2, the midpoint method",
    order: 2,
    stochastic: false,
    callsPerStep: 2,
    when: "as Heun",
    config: { _class_name: "KDPM2DiscreteScheduler" },
  },
  "dpm2-ancestral": {
    title: "DPM2 ancestral",
    order: 1,
    stochastic: true,
    callsPerStep: 2,
    when: "as Euler ancestral, with the midpoint",
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
    when: "older; 12 calls before the first cheap step",
    config: { _class_name: "PNDMScheduler" },
  },
  plms: {
    title: "PLMS",
    order: 2,
    stochastic: false,
    callsPerStep: 1,
    when: "what the first Stable Diffusion shipped with",
    config: { _class_name: "PNDMScheduler", skip_prk_steps: true },
  },
  "dpm++2m": {
    title: "DPM-Solver++ multistep, order 2",
    order: 2,
    stochastic: false,
    callsPerStep: 1,
    when: "the default: good pictures in 10 to 25 calls",
    config: { _class_name: DPM },
    flow: { _class_name: DPM, ...FLOW },
    edm: { _class_name: EDM_DPM },
  },
  "dpm++3m": {
    title: "DPM-Solver++ multistep, third-order form",
    // By its name 3; the published formula, which is what everyone samples with, measures 2.
    order: 2,
    stochastic: false,
    callsPerStep: 1,
    when: "unguided networks, 15 steps and more",
    config: { _class_name: DPM, solver_order: 3 },
    flow: { _class_name: DPM, solver_order: 3, ...FLOW },
    edm: { _class_name: EDM_DPM, solver_order: 3 },
  },
  "dpm++2m-sde": {
    title: "DPM-Solver++ multistep, order 2, stochastic",
    order: 2,
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
    order: 1,
    stochastic: true,
    callsPerStep: 1,
    when: "only networks distilled for it; 1 to 8 steps",
    config: { _class_name: "LCMScheduler" },
  },
  tcd: {
    title: "TCD",
    order: 1,
    stochastic: true,
    callsPerStep: 1,
    when: "only networks distilled for it; 1 to 8 steps",
    config: { _class_name: "TCDScheduler" },
  },
} as const satisfies Record<string, NamedSampler>;

export type SamplerName = keyof typeof SAMPLERS;

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
 * prediction and the clipping come from there.
 *
 * Throws a `UserError` for an unknown name, and for a sampler or a grid that such a network cannot be sampled with.
 */
export function namedSampler(
  name: string,
  model: SchedulerConfig,
  { grid }: { readonly grid?: string } = {},
): ConfiguredSampler {
  if (!Object.hasOwn(SAMPLERS, name)) throw unknown("sampler", name, Object.keys(SAMPLERS));
  if (grid !== undefined && !(GRIDS as readonly string[]).includes(grid)) throw unknown("grid", grid, GRIDS);
  const entry: NamedSampler = SAMPLERS[name as SamplerName];
  const read = readConfig(model);
  const family = familyOf(read.className);
  const chosen = family === "discrete" ? entry.config : entry[family];
  if (!chosen) {
    const possible = Object.entries(SAMPLERS).filter(([, other]) => family in other);
    throw new UserError(
      `The sampler "${name}" cannot sample a ${family === "flow" ? "flow-matching" : "EDM"} network.`,
      {
        hint: `It can be sampled with ${possible.map(([other]) => other).join(", ")}.`,
        field: "sampler",
      },
    );
  }
  const options = carriedOver(read.className, read.options, chosen._class_name);
  const sampler = samplerFromConfig({ ...options, ...chosen, ...gridOptions(grid, chosen._class_name) });
  return isLaidOut(grid) ? withGrid(sampler, grid) : sampler;
}

/** Options that describe the network and not the sampler; a flow network's shift has another name in DPM-Solver. */
function carriedOver(
  from: SchedulerClass,
  options: Readonly<Record<string, unknown>>,
  to: SchedulerClass,
): Record<string, unknown> {
  const kept = from === to ? Object.keys(options) : OF_THE_NETWORK;
  const carried: Record<string, unknown> = {};
  for (const name of kept) if (name in options && name in SCHEDULER_OPTIONS[to]) carried[name] = options[name];
  if ("shift" in options && "flow_shift" in SCHEDULER_OPTIONS[to]) carried.flow_shift = options.shift;
  return carried;
}

const OF_THE_NETWORK = [
  ...["num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"],
  ...["prediction_type", "variance_type", "steps_offset", "timestep_spacing", "set_alpha_to_one"],
  ...["clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value"],
  ...["sigma_min", "sigma_max", "sigma_data", "sigma_schedule", "rho"],
  ...["shift", "use_dynamic_shifting", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"],
  ...["invert_sigmas", "shift_terminal", "time_shift_type"],
];

function familyOf(className: SchedulerClass): "discrete" | "flow" | "edm" {
  if (className.startsWith("FlowMatch")) return "flow";
  return className.startsWith("EDM") ? "edm" : "discrete";
}

/** The option of diffusers that stands for a grid. */
function gridOptions(grid: string | undefined, className: SchedulerClass): Record<string, unknown> {
  if (grid === undefined || isLaidOut(grid)) return {};
  const option = ["karras", "exponential", "beta"].includes(grid) ? `use_${grid}_sigmas` : "timestep_spacing";
  if (className.startsWith("EDM") && (grid === "karras" || grid === "exponential")) return { sigma_schedule: grid };
  if (!(option in SCHEDULER_OPTIONS[className])) {
    throw new UserError(`${className} has no grid "${grid}".`, {
      hint: "Leave the grid out, or choose another sampler.",
      field: "grid",
    });
  }
  return { [option]: option === "timestep_spacing" ? grid : true };
}

function isLaidOut(
  grid: string | undefined,
): grid is "polyexponential" | "sgm-uniform" | "align-your-steps" | "align-your-steps-xl" {
  return grid === "polyexponential" || grid === "sgm-uniform" || (grid?.startsWith("align-your-steps") ?? false);
}

/** Grids without an option of their own become the custom timesteps or σ of a request. */
function withGrid(
  sampler: ConfiguredSampler,
  grid: "polyexponential" | "sgm-uniform" | "align-your-steps" | "align-your-steps-xl",
): ConfiguredSampler {
  const { className, options } = sampler;
  const takesSigmas = className === "EulerDiscreteScheduler";
  // DPM-Solver's timesteps are whole numbers, too coarse for the small σ of a polyexponential grid.
  const whole = className === DPM || className === SINGLE;
  if (!takesSigmas && className !== "HeunDiscreteScheduler" && !(whole && grid !== "polyexponential")) {
    throw new UserError(`${className} has no grid "${grid}".`, {
      hint: `euler and heun have it${grid === "polyexponential" ? "" : ", and the DPM-Solver samplers"}.`,
      field: "grid",
    });
  }
  const trained = options.num_train_timesteps as number;
  const alphas = finiteAlphas({ className, options, ignored: [] });
  const request = (steps: number): PlanRequest => {
    const told = (timesteps: readonly number[]) => (whole ? timesteps.map(Math.round) : timesteps);
    if (grid === "sgm-uniform") return { timesteps: told(sgmUniformTimesteps(steps, trained)) };
    if (grid !== "polyexponential" && steps === 10) {
      return {
        timesteps: ALIGN_YOUR_STEPS[grid === "align-your-steps" ? "stable-diffusion" : "stable-diffusion-xl"].timesteps,
      };
    }
    const ends = sigmasOf(alphas);
    const sigmas =
      grid === "polyexponential"
        ? [...polyexponentialSigmas(ends[0]!, ends.at(-1)!, steps), 0]
        : alignYourStepsSigmas(grid === "align-your-steps" ? "stable-diffusion" : "stable-diffusion-xl", steps);
    return takesSigmas ? { sigmas } : { timesteps: told(sigmas.slice(0, -1).map(timestepOfSigma(alphas))) };
  };
  return {
    ...sampler,
    plan: ({ steps, ...rest }) => {
      if (steps === undefined) throw new UserError(`The grid "${grid}" needs a number of steps.`, { field: "steps" });
      return sampler.plan({ ...rest, ...request(steps) });
    },
  };
}

function unknown(what: string, given: string, known: readonly string[]): UserError {
  return new UserError(`The ${what} "${given}" is not known.`, { hint: `Known are ${known.join(", ")}.`, field: what });
}
