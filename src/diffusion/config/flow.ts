import { UserError } from "../../core/errors.ts";
import { denoiser } from "../denoiser.ts";
import { dynamicallyShiftedFlowTime, linspace, shiftedFlowTime, stretchedToTerminal } from "../grids.ts";
import { type Level, levelOfSigma } from "../prediction.ts";
import { ddim } from "../samplers/ddim.ts";
import { consistency } from "../samplers/few-step.ts";
import { heun } from "../samplers/heun.ts";
import { stepsBetween } from "../samplers/sampler.ts";
import type { ReadConfig } from "./options.ts";
import type { PlanParts, PlanRequest } from "./plan.ts";
import {
  checkedSigmas,
  checkedTimesteps,
  gridSigmas,
  indexOfTimestep,
  mixed,
  sigmaGridOf,
  stepsOf,
  takesOnly,
} from "./shared.ts";

/**
 * FlowMatchEulerDiscreteScheduler, and FlowMatchLCMScheduler, which is its stochastic sampling: the image of each call,
 * noised again. A static shift is applied twice, to the training times that the grid's ends come
 * from and again to the grid, as diffusers does: networks are sampled with these times everywhere.
 */
export function planFlowEuler(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps", "timesteps", "sigmas", "mu"]);
  const { options: o } = config;
  const given = request.sigmas ?? request.timesteps;
  const lengths = [request.sigmas?.length, request.timesteps?.length, request.steps].filter((n) => n !== undefined);
  if (new Set(lengths).size > 1) {
    throw new UserError(`steps, sigmas and timesteps must be of one length, not ${lengths.join(", ")}.`, {
      field: "sigmas",
    });
  }
  if (o.use_dynamic_shifting && request.mu === undefined) {
    throw new UserError("Dynamic shifting needs mu.", {
      hint: "Pass mu; see dynamicShiftMu for the one of an image size.",
      field: "mu",
    });
  }
  const T = o.num_train_timesteps as number;
  const shift = o.shift as number;
  const count = given ? given.length : stepsOf(config, request);
  let times: readonly number[];
  if (request.sigmas) times = checkedSigmas(request.sigmas, { most: 1 }).map(Math.fround);
  else if (request.timesteps) times = checkedTimesteps(request.timesteps, T + 1).map((t) => Math.fround(t) / T);
  else times = gridBetweenEnds(T, o.use_dynamic_shifting ? 1 : shift, count);
  times = times.map((u) =>
    o.use_dynamic_shifting
      ? dynamicallyShiftedFlowTime(u, request.mu!, o.time_shift_type as "exponential" | "linear")
      : shiftedFlowTime(u, shift),
  );
  if (o.shift_terminal) times = stretchedToTerminal(times, o.shift_terminal as number);
  const named = sigmaGridOf(config);
  if (named) {
    times = gridSigmas(named, { minimum: times[times.length - 1]!, maximum: times[0]! }, count, config);
  }
  const inverted = o.invert_sigmas as boolean;
  const falling = times.map(Math.fround);
  const sigmas = Float32Array.from(inverted ? [...falling.map((u) => 1 - u), 1] : [...falling, 0]);
  const distilled = config.className === "FlowMatchLCMScheduler";
  // FlowMatchLCMScheduler tells the network custom timesteps as they are, the other class their shifted σ.
  const told = distilled && !inverted ? request.timesteps?.map(Math.fround) : undefined;
  const levels = levelsOf(sigmas, T).map((level, i) => ({ ...level, timestep: told?.[i] ?? level.timestep }));
  const steps = stepsBetween(levels);
  const stochastic = distilled || (o.stochastic_sampling as boolean);
  return {
    ...common(
      sigmas,
      levels,
      levels.slice(0, -1).map(({ timestep }) => timestep),
      sigmas,
    ),
    stochastic,
    run: (denoise, x, options) =>
      stochastic
        ? consistency(
            denoise,
            x,
            steps.map((step) => ({ ...step, skip: 0, out: 1, added: step.to.sigma })),
            options,
          )
        : ddim(denoise, x, steps, { first: options?.first }),
  };
}

/** FlowMatchHeunDiscreteScheduler. */
export function planFlowHeun(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps"]);
  const { options: o } = config;
  const T = o.num_train_timesteps as number;
  const shift = o.shift as number;
  const count = stepsOf(config, request);
  const times = gridBetweenEnds(T, shift, count).map((u) => Math.fround(shiftedFlowTime(u, shift)));
  const sigmas = Float32Array.from([...times, 0]);
  const levels = levelsOf(sigmas, T);
  const twice = <V>(values: readonly V[]) => values.flatMap((value, i) => (i === 0 ? [value] : [value, value]));
  const calls = twice(levels.slice(0, -1).map(({ timestep }) => timestep));
  const listed = Float32Array.from([...twice(times), 0]);
  return {
    ...common(listed, levels, calls, listed),
    stochastic: false,
    run: (denoise, x, options) => heun(denoise, x, stepsBetween(levels), { first: options?.first }),
  };
}

/** μ of an image, linear in its number of latent patches (Flux's and SD3.5's pipelines, from Esser et al. 2024). */
export function dynamicShiftMu(
  patches: number,
  {
    base_image_seq_len = 256,
    max_image_seq_len = 4096,
    base_shift = 0.5,
    max_shift = 1.15,
  }: Readonly<Record<string, number>> = {},
): number {
  const slope = (max_shift - base_shift) / (max_image_seq_len - base_image_seq_len);
  return patches * slope + base_shift - slope * base_image_seq_len;
}

/** Evenly spaced times between those of the last and first training timestep, each already shifted. */
function gridBetweenEnds(T: number, shift: number, count: number): number[] {
  const high = trainedTime(1, shift);
  const low = trainedTime(1 / T, shift);
  return linspace(high * T, low * T, count).map((t) => t / T);
}

/** A training time in float32, whose rounding may not lead beyond pure noise. */
function trainedTime(u: number, shift: number): number {
  const f = Math.fround;
  const time = f(u);
  return shift === 1 ? time : Math.min(f(f(shift * time) / f(1 + f((shift - 1) * time))), 1);
}

function levelsOf(sigmas: Float32Array, T: number): Level[] {
  return [...sigmas].map((sigma) => levelOfSigma("flow", sigma, Math.fround(sigma * T)));
}

function common(sigmas: Float32Array, levels: readonly Level[], calls: readonly number[], listed: Float32Array) {
  return {
    steps: levels.length - 1,
    timesteps: calls,
    sigmas,
    initNoiseSigma: 1,
    levelBefore: (step: number) => levels[step]!,
    addNoise: ((x0, noise, t) =>
      mixed(x0, noise, levelOfSigma("flow", listed[indexOfTimestep(calls, t)]!, t))) as PlanParts["addNoise"],
    denoiser: ((network) => denoiser(network, { prediction: "flow" })) as PlanParts["denoiser"],
  };
}
