import { UserError } from "../core/errors.ts";
import { shiftedFlowTime } from "./grids.ts";
import { type Level, levelOfSigma } from "./prediction.ts";

/**
 * The straight path of flow matching, x_s = (1 − s)·x0 + s·ε for s from 0 (image) to 1 (noise), along which the velocity
 * is ε − x0 everywhere (Lipman et al. 2023, "Flow matching for generative modeling", eq. 20–23 with σ_min = 0, time
 * running the other way; Liu et al. 2023, "Flow straight and fast", eq. 1; Esser et al. 2024, eq. 13).
 */
export interface FlowPath {
  readonly kind: "flow";
  /** The network is told t = steps · s: 1000 for the networks of diffusers' FlowMatchEulerDiscreteScheduler. */
  readonly steps: number;
  /** Moves the times that are drawn towards noise (above 1) or image (below 1), see `shiftedFlowTime`. */
  readonly shift: number;
  /**
   * Times are drawn from the scheduler's training timesteps, the shifts of 1/steps, 2/steps, …, 1, instead of all numbers
   * from 0 to 1.
   */
  readonly discrete: boolean;
}

/**
 * A flow-matching path.
 * @throws UserError for steps below 1 and a shift that is not positive
 */
export function flowPath({
  steps = 1000,
  shift = 1,
  discrete = false,
}: Partial<Omit<FlowPath, "kind">> = {}): FlowPath {
  if (!Number.isInteger(steps) || steps < 1) {
    throw new UserError(`A flow-matching path of ${steps} timesteps is not possible.`, {
      hint: "Give a whole number of 1 or more; 1000 is usual.",
      field: "num_train_timesteps",
    });
  }
  if (!(shift > 0) || !Number.isFinite(shift)) {
    throw new UserError(`Flow-matching times cannot be shifted by ${shift}.`, {
      hint: "Give a number above 0: 1 shifts nothing, 3 is Stable Diffusion 3's for large pictures.",
      field: "shift",
    });
  }
  return { kind: "flow", steps, shift, discrete };
}

/** Whether a training path is one of flow matching. */
export function isFlowPath(path: object): path is FlowPath {
  return "kind" in path && path.kind === "flow";
}

/** The timestep that a network is told for a time u drawn from [0, 1): put on the scheduler's grid, shifted, times T. */
export function flowTimestep({ steps, shift, discrete }: FlowPath, u: number): number {
  const time = discrete ? Math.min(Math.floor(u * steps) + 1, steps) / steps : u;
  return Math.fround(steps * shiftedFlowTime(time, shift));
}

/** The level of a timestep of the path. */
export function flowLevel({ steps }: FlowPath, timestep: number): Level {
  return levelOfSigma("flow", timestep / steps, timestep);
}
