import { UserError } from "../../core/errors.ts";
import { denoiser } from "../denoiser.ts";
import { linspace } from "../grids.ts";
import type { Level } from "../prediction.ts";
import {
  type ConsistencyStep,
  consistency,
  lcmBoundary,
  type TrajectoryStep,
  trajectoryConsistency,
} from "../samplers/few-step.ts";
import { improvedPndm } from "../samplers/pndm.ts";
import { stepsBetween } from "../samplers/sampler.ts";
import { linspace32 } from "../schedule.ts";
import type { ReadConfig } from "./options.ts";
import type { PlanParts, PlanRequest } from "./plan.ts";
import { mustHaveSignal } from "./preserving.ts";
import {
  checkedTimesteps,
  levelsByTimestep,
  limitsOf,
  mixed,
  predictionOf,
  scheduleOf,
  stepsOf,
  takesOnly,
} from "./shared.ts";

const KINDS = ["epsilon", "sample", "v_prediction"];

/** LCMScheduler. */
export function planLcm(config: ReadConfig, request: PlanRequest): PlanParts {
  const { options: o } = config;
  const schedule = scheduleOf(config);
  const { timesteps, count } = distilledTimesteps(config, request, schedule.steps);
  const level = levelsByTimestep(schedule, o.set_alpha_to_one ? 1 : schedule.alphasCumprod[0]!);
  const steps = timesteps.map((t, i): ConsistencyStep => {
    // The step after the last has the last's timestep; a plan cut short by its strength draws noise there too.
    const to = level(timesteps[i + 1] ?? t);
    return {
      from: level(t),
      to,
      ...lcmBoundary(t, o.timestep_scaling as number),
      added: i === count - 1 ? null : to.sigma,
    };
  });
  const prediction = predictionOf(config, KINDS);
  mustHaveSignal(prediction, steps);
  return {
    ...common(timesteps, level),
    stochastic: true,
    denoiser: (network) => denoiser(network, { prediction, ...limitsOf(config) }),
    run: (denoise, x, options) => consistency(denoise, x, steps, options),
  };
}

/** TCDScheduler. It neither clips nor thresholds. */
export function planTcd(config: ReadConfig, request: PlanRequest): PlanParts {
  const { eta: gamma = 0.3, ...rest } = request;
  if (!(gamma >= 0 && gamma <= 1))
    throw new UserError(`TCD takes an eta from 0 to 1; ${gamma} was given.`, { field: "eta" });
  const schedule = scheduleOf(config);
  const { timesteps } = distilledTimesteps(config, rest, schedule.steps);
  const level = levelsByTimestep(schedule, 1);
  const kept = Math.fround(1 - gamma);
  const steps = timesteps.map((t, i): TrajectoryStep => {
    const next = timesteps[i + 1] ?? 0;
    return { from: level(t), to: level(next), between: level(Math.floor(Math.fround(kept * next))) };
  });
  const prediction = predictionOf(config, KINDS);
  mustHaveSignal(prediction, steps);
  return {
    ...common(timesteps, level),
    stochastic: gamma > 0,
    denoiser: (network) => denoiser(network, { prediction }),
    run: (denoise, x, options) => trajectoryConsistency(denoise, x, steps, { ...options, gamma }),
  };
}

/** IPNDMScheduler: its timesteps run from 1 to 0 along the path σ = sin²(π u / 2). */
export function planImprovedPndm(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps"]);
  const f = Math.fround;
  const count = stepsOf(config, request);
  const custom = config.options.trained_betas as readonly number[] | null;
  if (custom && custom.length !== count + 1) {
    throw new UserError(
      `trained_betas of IPNDMScheduler must have ${count + 1} values for ${count} steps; it has ${custom.length}.`,
      {
        field: "trained_betas",
      },
    );
  }
  const times = [...linspace32(1, 0, count + 1).subarray(0, -1), 0];
  const sines = custom?.map(f) ?? times.map((u) => f(f(Math.sin(f(f(u * f(Math.PI)) / 2))) ** 2));
  const levels = sines.map((sigma): Level => {
    const alpha = f(Math.sqrt(f(1 - f(sigma * sigma))));
    return { sigma, alpha, timestep: f(f(f(Math.atan2(sigma, alpha)) / f(Math.PI)) * 2) };
  });
  const timesteps = levels.slice(0, -1).map(({ timestep }) => timestep);
  return {
    steps: count,
    timesteps,
    sigmas: null,
    initNoiseSigma: 1,
    stochastic: false,
    levelBefore: (step) => levels[step]!,
    addNoise: (x0, noise, t) => mixed(x0, noise, levels[timesteps.indexOf(t)]!),
    denoiser: (network) => denoiser(network, { prediction: "v" }),
    run: (denoise, x, options) => improvedPndm(denoise, x, stepsBetween(levels), { first: options?.first }),
  };
}

/** Timesteps among those of the distillation, evenly, from the last; `count` before a strength cut custom ones. */
function distilledTimesteps(
  config: ReadConfig,
  request: PlanRequest,
  trained: number,
): { timesteps: readonly number[]; count: number } {
  takesOnly(config, request, ["steps", "timesteps", "originalSteps", "strength"]);
  const { className, options: o } = config;
  const { strength = 1 } = request;
  if (!(strength > 0 && strength <= 1)) {
    throw new UserError(`A strength of ${strength} is not possible.`, {
      hint: "Give a number above 0, at most 1.",
      field: "strength",
    });
  }
  if (request.timesteps) {
    const all = checkedTimesteps(request.timesteps, trained);
    const kept = Math.min(Math.trunc(all.length * strength), all.length);
    return { timesteps: all.slice(all.length - kept), count: all.length };
  }
  const originalSteps = request.originalSteps ?? (o.original_inference_steps as number);
  if (originalSteps > trained) {
    throw new UserError(`${originalSteps} original steps are more than the ${trained} training timesteps.`, {
      field: "originalSteps",
    });
  }
  const count = stepsOf(config, request);
  const stride = Math.floor(trained / originalSteps);
  // diffusers' TCD takes every training timestep as soon as a number of original steps is given.
  const origin =
    className === "TCDScheduler" && request.originalSteps !== undefined
      ? Array.from({ length: Math.trunc(trained * strength) }, (_, i) => i)
      : Array.from({ length: Math.trunc(originalSteps * strength) }, (_, i) => (i + 1) * stride - 1);
  if (count > origin.length || count > originalSteps) {
    throw new UserError(
      `${count} steps were asked for; the model was distilled with ${originalSteps} and ${origin.length} are left at strength ${strength}.`,
      {
        hint: `Ask for at most ${Math.min(origin.length, originalSteps)} steps. Distilled with more, the model has them as original_inference_steps in its scheduler's configuration.`,
        field: "steps",
      },
    );
  }
  const falling = origin.reverse();
  return {
    timesteps: linspace(0, falling.length, count + 1)
      .slice(0, count)
      .map((at) => falling[Math.floor(at)]!),
    count,
  };
}

function common(timesteps: readonly number[], level: (t: number) => Level) {
  return {
    steps: timesteps.length,
    timesteps,
    sigmas: null,
    initNoiseSigma: 1,
    levelBefore: (step: number) => level(timesteps[step]!),
    addNoise: ((x0, noise, t) => mixed(x0, noise, level(t))) as PlanParts["addNoise"],
  };
}
