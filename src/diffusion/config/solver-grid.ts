import { UserError } from "../../core/errors.ts";
import {
  dynamicallyShiftedFlowTime,
  linspace,
  roundHalfEven,
  type Spacing,
  shiftedFlowTime,
  sigmaAt,
  spacedTimesteps,
  stretchedToTerminal,
  timestepOfSigma,
} from "../grids.ts";
import { sigmasOf } from "../schedule.ts";
import type { ReadConfig } from "./options.ts";
import type { PlanRequest } from "./plan.ts";
import { checkedSigmas, checkedTimesteps, finiteAlphas, gridSigmas, sigmaGridOf, stepsOf } from "./shared.ts";

/** The grid of an exponential integrator: timesteps are whole numbers, as diffusers truncates them. */
export interface SolverGrid {
  readonly timesteps: readonly number[];
  /** One per step and the final one. */
  readonly sigmas: Float32Array;
}

type Final = "zero" | "sigma_min" | "repeated";

/** The grid of DPM-Solver, DEIS and SA-Solver. */
export function solverGrid(
  config: ReadConfig,
  request: PlanRequest,
  { final, roundsKarras = false }: { final: Final; roundsKarras?: boolean },
): SolverGrid {
  const { options: o } = config;
  const alphas = finiteAlphas(config);
  const trained = sigmasOf(alphas);
  const count = request.timesteps?.length ?? stepsOf(config, request);
  const chosen = sigmaGridOf(config);
  const named = chosen ?? (o.use_lu_lambdas ? "lu" : o.use_flow_sigmas ? "flow" : null);
  if (request.timesteps && named) {
    throw new UserError(`Custom timesteps cannot be combined with ${named} sigmas.`, { field: "timesteps" });
  }
  if (chosen && o.use_flow_sigmas) throw notOnFlowPath(config, chosen);
  const shift = flowShift(config, request);
  let timesteps: readonly number[];
  let sigmas: readonly number[];
  if (named === "flow") {
    const times = linspace(1, 1 / alphas.length, count + 1).map((alpha) => shiftedFlowTime(1 - alpha, shift));
    sigmas = times.reverse().slice(0, count);
    timesteps = sigmas.map((sigma) => sigma * alphas.length);
  } else if (named) {
    const ends = { minimum: trained[0]!, maximum: trained.at(-1)! };
    sigmas =
      named === "lu"
        ? linspace(Math.fround(Math.log(ends.maximum)), Math.fround(Math.log(ends.minimum)), count).map(Math.exp)
        : gridSigmas(named, ends, count, config);
    timesteps = sigmas.map(timestepOfSigma(alphas));
    const rounds = named === "lu" || named === "karras";
    if (
      rounds &&
      (roundsKarras || config.className === "DPMSolverSinglestepScheduler" || o.beta_schedule !== "squaredcos_cap_v2")
    ) {
      timesteps = timesteps.map(roundHalfEven);
    }
  } else {
    timesteps = request.timesteps
      ? checkedTimesteps(request.timesteps.map(Math.trunc), alphas.length)
      : solverTimesteps(config, count, alphas);
    sigmas = timesteps.map((t) => sigmaAt(t, trained));
  }
  const last = final === "zero" ? 0 : final === "repeated" ? sigmas[sigmas.length - 1]! : trained[0]!;
  return { timesteps: timesteps.map(Math.trunc), sigmas: Float32Array.from([...sigmas, last]) };
}

/** Spaced timesteps, from the last whose λ is above `lambda_min_clipped`. */
function solverTimesteps({ className, options: o }: ReadConfig, count: number, alphas: Float32Array): number[] {
  const lambdaMin = (o.lambda_min_clipped as number | undefined) ?? Number.NEGATIVE_INFINITY;
  const clipped = alphas.filter(
    (alpha) => Math.log(Math.sqrt(alpha)) - Math.log(Math.sqrt(1 - alpha)) < lambdaMin,
  ).length;
  const singlestep = className === "DPMSolverSinglestepScheduler";
  return spacedTimesteps(singlestep ? "linspace" : (o.timestep_spacing as Spacing), count, alphas.length, {
    offset: o.steps_offset as number,
    last: alphas.length - clipped,
    end: "gap",
  });
}

/** UniPC's grid: its last σ is the grid's own, and flow times may be shifted by μ and stretched. */
export function unipcGrid(config: ReadConfig, request: PlanRequest): SolverGrid {
  const { options: o } = config;
  const flow = o.use_flow_sigmas as boolean;
  const named = sigmaGridOf(config);
  if (flow && named && named !== "karras") throw notOnFlowPath(config, named);
  if (o.shift_terminal !== null && !flow) {
    throw new UserError("shift_terminal needs use_flow_sigmas.", { field: "shift_terminal" });
  }
  if (o.use_dynamic_shifting && request.mu === undefined) {
    throw new UserError("Dynamic shifting needs mu.", { hint: "Pass mu, the logarithm of the shift.", field: "mu" });
  }
  if (request.sigmas && !flow) throw new UserError("Custom sigmas need use_flow_sigmas.", { field: "sigmas" });
  if (request.sigmas) checkedSigmas(request.sigmas, { most: 1 });
  const alphas = finiteAlphas(config);
  const trained = sigmasOf(alphas);
  const T = alphas.length;
  const count = request.sigmas?.length ?? stepsOf(config, request);
  let timesteps: readonly number[];
  let sigmas: readonly number[];
  let smallest: number;
  if (named) {
    const own = request.sigmas ?? [...trained];
    const ends = { minimum: own[0]!, maximum: own[own.length - 1]! };
    sigmas = gridSigmas(named, ends, count, config);
    if (named === "karras" && flow) {
      sigmas = sigmas.map((sigma) => sigma / (sigma + 1));
      timesteps = sigmas.map((sigma) => sigma * T);
    } else {
      timesteps = sigmas.map(timestepOfSigma(alphas));
      if (named === "karras") timesteps = timesteps.map(roundHalfEven);
    }
    smallest = sigmas[sigmas.length - 1]!;
  } else if (flow) {
    let times = (request.sigmas ?? linspace(1, 1 / T, count + 1).slice(0, count)).map((u) =>
      o.use_dynamic_shifting
        ? dynamicallyShiftedFlowTime(u, request.mu!, o.time_shift_type as "exponential" | "linear")
        : shiftedFlowTime(u, o.flow_shift as number),
    );
    if (o.shift_terminal) times = stretchedToTerminal(times, o.shift_terminal as number);
    // Kept below 1, where λ is infinite.
    if (Math.abs(times[0]! - 1) < 1e-6) times[0]! -= 1e-6;
    sigmas = times;
    timesteps = times.map((u) => u * T);
    smallest = times[times.length - 1]!;
  } else {
    timesteps = solverTimesteps(config, count, alphas);
    sigmas = timesteps.map((t) => sigmaAt(t, trained));
    smallest = trained[0]!;
  }
  const last = o.final_sigmas_type === "zero" ? 0 : smallest;
  return { timesteps: timesteps.map(Math.trunc), sigmas: Float32Array.from([...sigmas, last]) };
}

/** These σ go up to those of the noise schedule, and times of a flow-matching path to 1. */
function notOnFlowPath({ className }: ReadConfig, named: string): UserError {
  return new UserError(`${className} cannot combine use_${named}_sigmas with use_flow_sigmas.`, {
    hint: `Set one of them${className === "UniPCMultistepScheduler" ? "; karras sigmas can be combined" : ""}.`,
    field: `use_${named}_sigmas`,
  });
}

function flowShift({ className, options: o }: ReadConfig, { mu }: PlanRequest): number {
  if (mu === undefined) return (o.flow_shift as number | undefined) ?? 1;
  if (!o.use_dynamic_shifting || o.time_shift_type !== "exponential") {
    throw new UserError(`${className} takes mu only with use_dynamic_shifting and time_shift_type "exponential".`, {
      field: "mu",
    });
  }
  return Math.exp(mu);
}
