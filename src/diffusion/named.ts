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
import { type NamedSampler, SAMPLERS, type SamplerName } from "./sampler-table.ts";
import { sigmasOf } from "./schedule.ts";

const DPM = "DPMSolverMultistepScheduler";
const SINGLE = "DPMSolverSinglestepScheduler";

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
