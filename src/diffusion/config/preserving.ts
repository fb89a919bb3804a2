import { UserError } from "../../core/errors.ts";
import { denoiser } from "../denoiser.ts";
import { type Spacing, spacedTimesteps } from "../grids.ts";
import type { PredictionKind } from "../prediction.ts";
import type { ReverseVariance } from "../process.ts";
import { ddim } from "../samplers/ddim.ts";
import { ddpm } from "../samplers/ddpm.ts";
import { type PndmStart, pndm } from "../samplers/pndm.ts";
import type { Step } from "../samplers/sampler.ts";
import type { NoiseSchedule } from "../schedule.ts";
import type { ReadConfig } from "./options.ts";
import type { PlanParts, PlanRequest } from "./plan.ts";
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

const KINDS = ["epsilon", "sample", "v_prediction"] as const;

/** DDPMScheduler and DDPMParallelScheduler. */
export function planDdpm(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps", "timesteps"]);
  const { options: o } = config;
  const schedule = scheduleOf(config);
  const timesteps = request.timesteps
    ? checkedTimesteps(request.timesteps, schedule.steps)
    : spacedTimesteps(o.timestep_spacing as Spacing, stepsOf(config, request), schedule.steps, {
        offset: o.steps_offset as number,
      });
  const level = levelsByTimestep(schedule, 1);
  const prediction = predictionOf(config, KINDS);
  const steps = timesteps.map((t, i): Step => ({ from: level(t), to: level(timesteps[i + 1] ?? -1) }));
  mustHaveSignal(prediction, steps);
  const variance = reverseVariance(o.variance_type as string);
  return {
    ...common(timesteps, steps, level),
    stochastic: true,
    denoiser: (network) =>
      denoiser(network, { prediction, ...limitsOf(config), learnsVariance: variance.startsWith("learned") }),
    run: (denoise, x, options) => ddpm(denoise, x, steps, { ...options, variance }),
  };
}

/** DDIMScheduler and DDIMParallelScheduler. Their steps span T div steps timesteps, whatever the spacing. */
export function planDdim(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps", "eta", "clippedNoise"]);
  const { options: o } = config;
  const schedule = scheduleOf(config);
  const count = stepsOf(config, request);
  const timesteps = spacedTimesteps(o.timestep_spacing as Spacing, count, schedule.steps, {
    offset: o.steps_offset as number,
  });
  const level = levelsByTimestep(schedule, finalAlphaBar(config, schedule));
  const stride = Math.floor(schedule.steps / count);
  const steps = timesteps.map((t): Step => ({ from: level(t), to: level(t - stride) }));
  const prediction = predictionOf(config, KINDS);
  mustHaveSignal(prediction, steps);
  const { eta = 0, clippedNoise = false } = request;
  if (!(eta >= 0 && eta <= 1)) {
    throw new UserError(`An eta of ${eta} is not possible.`, {
      hint: "Give a number from 0, no fresh noise, to 1, as much as DDPM.",
      field: "eta",
    });
  }
  return {
    ...common(timesteps, steps, level),
    stochastic: eta > 0,
    denoiser: (network) => denoiser(network, { prediction, ...limitsOf(config) }),
    run: (denoise, x, options) => ddim(denoise, x, steps, { ...options, eta, clippedNoise }),
  };
}

/**
 * DDIMInverseScheduler: DDIM upwards. The network is told the timestep that a step ends at and reads x as that of the
 * one it starts from, where the true next noise is not known yet.
 */
export function planDdimInverse(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps"]);
  const { options: o } = config;
  const schedule = scheduleOf(config);
  const count = stepsOf(config, request);
  const spacing = o.timestep_spacing as Spacing;
  if (spacing === "linspace") {
    throw new UserError("DDIMInverseScheduler has no linspace spacing.", {
      hint: "Use leading or trailing.",
      field: "timestep_spacing",
    });
  }
  const timesteps = spacedTimesteps(spacing, count, schedule.steps, { offset: o.steps_offset as number }).reverse();
  const toOne = (o.set_alpha_to_zero as boolean | null) ?? (o.set_alpha_to_one as boolean);
  const level = levelsByTimestep(schedule, toOne ? 1 : schedule.alphasCumprod[0]!);
  const stride = Math.floor(schedule.steps / count);
  const steps = timesteps.map(
    (t): Step => ({ from: { ...level(Math.min(t - stride, schedule.steps - 1)), timestep: t }, to: level(t) }),
  );
  const prediction = predictionOf(config, KINDS);
  return {
    ...common(timesteps, steps, level),
    stochastic: false,
    denoiser: (network) => denoiser(network, { prediction, ...limitsOf(config) }),
    run: (denoise, x, options) => ddim(denoise, x, steps, options),
  };
}

/** PNDMScheduler. */
export function planPndm(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps"]);
  const { options: o } = config;
  const schedule = scheduleOf(config);
  const count = stepsOf(config, request);
  const grid = spacedTimesteps(o.timestep_spacing as Spacing, count, schedule.steps, {
    offset: o.steps_offset as number,
  });
  const level = levelsByTimestep(schedule, finalAlphaBar(config, schedule));
  const stride = Math.floor(schedule.steps / count);
  const half = Math.floor(stride / 2);
  const prediction = predictionOf(config, ["epsilon", "v_prediction"]);
  const stepFrom = (t: number): Step => ({ from: level(t), to: level(t - stride) });

  const start: PndmStart[] = [];
  const skip = o.skip_prk_steps as boolean;
  if (!skip) {
    if (grid.length < 4) {
      throw new UserError(`PNDM with Runge–Kutta steps needs 4 steps or more; ${count} were asked for.`, {
        hint: "Ask for 4 or more, or choose plms, which is the same without them (skip_prk_steps in a configuration).",
        field: "steps",
      });
    }
    for (let i = 0; i < 3; i++) {
      const t = grid[i]!;
      const next = grid[i + 1]!;
      const calls = [t, next + half, next + half, next] as const;
      start.push({
        from: level(t),
        calls,
        targets: [level(t - half), level(calls[1]), level(calls[2] - half), level(next)],
      });
    }
  }
  const rest = grid.slice(start.length);
  const multistep = rest.map(stepFrom);
  const second = grid[1];
  const again = skip && second !== undefined ? { from: level(second + stride), to: level(second) } : undefined;
  const calls = [...start.flatMap((step) => step.calls), ...(again ? [rest[0]!, rest[1]!, ...rest.slice(1)] : rest)];
  mustHaveSignal("noise", [...start, ...multistep], "PNDM");
  return {
    ...common(calls, [...start.map(({ from, targets }) => ({ from, to: targets[3] })), ...multistep], level),
    stochastic: false,
    denoiser: (network) => denoiser(network, { prediction }),
    run(denoise, x, { first = 0, restart = false } = {}) {
      if (!restart || first === 0 || !skip) return pndm(denoise, x, multistep, { first, start, again });
      const [t, next] = [calls[first]!, calls[first + 1]!];
      const late = multistep.map((step, i) => (i === first ? stepFrom(t) : step));
      const second = { from: level(next + stride), to: level(next) };
      return pndm(denoise, x, late, { first, again: second, restart });
    },
  };
}

function common(timesteps: readonly number[], steps: readonly Step[], level: (t: number) => Step["from"]) {
  return {
    steps: steps.length,
    timesteps,
    sigmas: null,
    initNoiseSigma: 1,
    levelBefore: (step: number) => steps[step]!.from,
    addNoise: ((x0, noise, t) => mixed(x0, noise, level(t))) as PlanParts["addNoise"],
  };
}

function finalAlphaBar({ options }: ReadConfig, schedule: NoiseSchedule): number {
  return options.set_alpha_to_one ? 1 : schedule.alphasCumprod[0]!;
}

function reverseVariance(type: string): ReverseVariance {
  if (type.startsWith("fixed_small")) return "small";
  if (type.startsWith("fixed_large")) return "large";
  return type as "learned" | "learned_range";
}

/**
 * With zero terminal SNR the first x is noise alone: a prediction of the noise says nothing about the image, and methods
 * that carry x over as such (PNDM: "noise" whatever its network predicts) divide by the signal.
 */
export function mustHaveSignal(
  prediction: PredictionKind,
  steps: readonly Pick<Step, "from">[],
  method = "Noise prediction",
): void {
  if (prediction !== "noise" || steps.every(({ from }) => from.alpha > 0)) return;
  throw new UserError(`${method} cannot start at a timestep with no signal (zero terminal SNR).`, {
    hint: "Such networks predict v, with another sampler than PNDM; or start at an earlier timestep.",
    field: "prediction_type",
  });
}
