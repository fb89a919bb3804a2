import { UserError } from "../../core/errors.ts";
import { denoiser } from "../denoiser.ts";
import { log32 } from "../float32-log.ts";
import { roundHalfEven, type Spacing, sigmaAt, spacedTimesteps, timestepOfSigma } from "../grids.ts";
import type { Level, PredictionKind } from "../prediction.ts";
import { ddim } from "../samplers/ddim.ts";
import { dpmSolverSde } from "../samplers/dpm-solver-sde.ts";
import { euler } from "../samplers/euler.ts";
import { heun } from "../samplers/heun.ts";
import { linearMultistep, MAX_LMS_ORDER } from "../samplers/linear-multistep.ts";
import { type MidpointStep, midpoint } from "../samplers/midpoint.ts";
import { mustHaveOrder, stepsBetween } from "../samplers/sampler.ts";
import { linspace32, sigmasOf } from "../schedule.ts";
import type { ReadConfig } from "./options.ts";
import type { PlanParts, PlanRequest } from "./plan.ts";
import {
  checkedChurn,
  checkedSigmas,
  checkedTimesteps,
  finiteAlphas,
  gridSigmas,
  indexOfTimestep,
  limitsOf,
  mixed,
  predictionOf,
  sigmaGridOf,
  stepsOf,
  takesOnly,
} from "./shared.ts";

interface SigmaGrid {
  /** One per step, float32. */
  readonly timesteps: readonly number[];
  /** One per step and the final one, float32. */
  readonly sigmas: Float32Array;
  readonly timestepOf: (sigma: number) => number;
}

/** EulerDiscreteScheduler. */
export function planEuler(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps", "timesteps", "sigmas", "churn"]);
  const grid = eulerGrid(config, request);
  const churn = checkedChurn(request.churn);
  const prediction = predictionOf(config, ["epsilon", "sample", "original_sample", "v_prediction"]);
  // Log-linear interpolation makes one σ more than there are steps; the last is not reached.
  const levels = levelsOf(grid).slice(0, grid.timesteps.length + 1);
  const steps = stepsBetween(levels);
  return {
    ...common(config, grid.timesteps, grid.sigmas, grid.sigmas, levels, prediction),
    denoiser: (network) => {
      const denoise = denoiser(network, { prediction, scaleInput: 1 });
      if (prediction !== "v") return denoise;
      // diffusers reads v against the noisier x with the σ it was predicted at, not with the raised one.
      return async (x, level, call) => {
        const predicted = await denoise(x, level, call);
        return { ...predicted, read: (output, churned) => predicted.read(output, churned, level) };
      };
    },
    stochastic: churn !== undefined,
    run: (denoise, x, options) => euler(denoise, x, steps, { ...options, churn, churnSteps: grid.sigmas.length - 1 }),
  };
}

/** EulerAncestralDiscreteScheduler. */
export function planEulerAncestral(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps"]);
  const grid = sigmaGrid(config, request);
  const prediction = predictionOf(config, ["epsilon", "v_prediction"]);
  const levels = levelsOf(grid);
  return {
    ...common(config, grid.timesteps, grid.sigmas, grid.sigmas, levels, prediction),
    stochastic: true,
    run: (denoise, x, options) => ddim(denoise, x, stepsBetween(levels), { ...options, eta: 1, clippedNoise: true }),
  };
}

/** HeunDiscreteScheduler. Timesteps and σ are listed once per call. */
export function planHeun(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps", "timesteps", "churn"]);
  const churn = checkedChurn(request.churn);
  const grid = sigmaGrid(config, request);
  const prediction = predictionOf(config, ["epsilon", "sample", "v_prediction"]);
  const levels = levelsOf(grid);
  const calls = twiceAfterFirst(grid.timesteps);
  const sigmas = Float32Array.from([...twiceAfterFirst([...grid.sigmas.subarray(0, -1)]), grid.sigmas.at(-1)!]);
  return {
    ...common(config, calls, sigmas, grid.sigmas, levels, prediction),
    stochastic: churn !== undefined,
    // Churn as Karras et al. have it; diffusers' class has none.
    run: (denoise, x, options) =>
      heun(denoise, x, stepsBetween(levels), { ...options, churn, timestepOf: grid.timestepOf }),
  };
}

/** KDPM2DiscreteScheduler, and KDPM2AncestralDiscreteScheduler with `ancestral`. */
export function planMidpoint(config: ReadConfig, request: PlanRequest, ancestral: boolean): PlanParts {
  takesOnly(config, request, ["steps"]);
  const grid = sigmaGrid(config, request);
  const prediction = predictionOf(config, ["epsilon", "v_prediction"]);
  const levels = levelsOf(grid);
  const eta = ancestral ? 1 : 0;
  const timestepOf = timestepOfSigma32(finiteAlphas(config));
  const steps = stepsBetween(levels).map(({ from, to }): MidpointStep => {
    if (to.sigma === 0) return { from, to, middle: null };
    const sigma = ancestral
      ? halfwayInLog(down32(from.sigma, to.sigma), from.sigma)
      : halfwayInLog(from.sigma, to.sigma);
    return { from, to, middle: { alpha: 1, sigma, timestep: timestepOf(sigma) } };
  });
  const calls = callsOf(steps);
  const sigmas = Float32Array.from([...twiceAfterFirst([...grid.sigmas]), 0]);
  return {
    ...common(config, calls, sigmas, grid.sigmas, levels, prediction),
    stochastic: ancestral,
    run: (denoise, x, options) => midpoint(denoise, x, steps, { ...options, eta }),
  };
}

/** DPMSolverSDEScheduler. */
export function planDpmSde(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps"]);
  const grid = sigmaGrid(config, request);
  const prediction = predictionOf(config, ["epsilon", "v_prediction"]);
  const levels = levelsOf(grid);
  const steps = stepsBetween(levels).map(({ from, to }): MidpointStep => {
    if (to.sigma === 0) return { from, to, middle: null };
    const sigma = Math.sqrt(from.sigma * to.sigma);
    return { from, to, middle: { alpha: 1, sigma: Math.fround(sigma), timestep: Math.fround(grid.timestepOf(sigma)) } };
  });
  const calls = callsOf(steps);
  const sigmas = Float32Array.from([...twiceAfterFirst([...grid.sigmas.subarray(0, -1)]), 0]);
  return {
    ...common(config, calls, sigmas, grid.sigmas, levels, prediction),
    stochastic: true,
    run: (denoise, x, options) => dpmSolverSde(denoise, x, steps, options),
  };
}

/** What the network is told: at the beginning and in the middle of each step that has one. */
function callsOf(steps: readonly MidpointStep[]): number[] {
  return steps.flatMap(({ from, middle }) => (middle ? [from.timestep, middle.timestep] : [from.timestep]));
}

// The classes of KDPM2 compute the middle of a step in float32, in this order.

/** The σ whose logarithm is halfway between two. */
function halfwayInLog(end: number, start: number): number {
  const f = Math.fround;
  const log = f(Math.log(end));
  return f(Math.exp(f(log - f(f(log - f(Math.log(start))) / 2))));
}

/**
 * Where the deterministic part of an ancestral step ends (`ancestralSplit` with η = 1), rounded as torch rounds it; σ'²/σ
 * where the difference of squares leaves nothing in float32, as in a step from near infinite σ.
 */
function down32(sigma: number, next: number): number {
  const f = Math.fround;
  const square = f(next * next);
  const whole = f(sigma * sigma);
  const up = f(Math.sqrt(f(f(square * f(whole - square)) / whole)));
  const down = f(Math.sqrt(f(square - f(up * up))));
  return down > 0 ? down : f((next * next) / sigma);
}

/** `timestepOfSigma` in float32. */
function timestepOfSigma32(alphas: Float32Array): (sigma: number) => number {
  const f = Math.fround;
  const logs = sigmasOf(alphas).map(log32);
  return (sigma) => {
    const log = log32(sigma);
    const above = logs.findIndex((value) => value > log);
    const low = Math.min(above < 0 ? logs.length : Math.max(above - 1, 0), logs.length - 2);
    const w = Math.min(Math.max(f(f(logs[low]! - log) / f(logs[low]! - logs[low + 1]!)), 0), 1);
    return f(f(f(1 - w) * low) + f(w * (low + 1)));
  };
}

/** LMSDiscreteScheduler. */
export function planLms(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps", "order"]);
  mustHaveOrder("LMSDiscreteScheduler", request.order ?? 4, MAX_LMS_ORDER);
  const grid = sigmaGrid(config, request);
  const prediction = predictionOf(config, ["epsilon", "sample", "v_prediction"]);
  const levels = levelsOf(grid);
  return {
    ...common(config, grid.timesteps, grid.sigmas, grid.sigmas, levels, prediction),
    stochastic: false,
    run: (denoise, x, options) =>
      linearMultistep(denoise, x, levels, { first: options?.first, order: request.order, assumesHistory: true }),
  };
}

/** The σ grid that Euler, Heun, KDPM2 and LMS share: spaced timesteps, their σ, then perhaps a named grid between. */
function sigmaGrid(config: ReadConfig, request: PlanRequest): SigmaGrid {
  const alphas = finiteAlphas(config);
  const trained = sigmasOf(alphas);
  const timestepOf = timestepOfSigma(alphas);
  const spaced = timestepsOf(config, request);
  const named = sigmaGridOf(config);
  let timesteps = spaced;
  let sigmas = spaced.map((t) => sigmaAt(t, trained));
  if (named) {
    const count = request.timesteps?.length ?? request.steps!;
    ({ timesteps, sigmas } = regridded(named, sigmas, count, config, timestepOf));
    if (named === "karras" && config.className.startsWith("KDPM2")) timesteps = timesteps.map(roundHalfEven);
  }
  return { timesteps: timesteps.map(Math.fround), sigmas: Float32Array.from([...sigmas, 0]), timestepOf };
}

/** EulerDiscreteScheduler's own options of the same grid. */
function eulerGrid(config: ReadConfig, request: PlanRequest): SigmaGrid {
  const { options: o } = config;
  const alphas = finiteAlphas(config);
  const trained = sigmasOf(alphas);
  const timestepOf = timestepOfSigma(alphas);
  const continuous = o.timestep_type === "continuous" && o.prediction_type === "v_prediction";
  const named = sigmaGridOf(config);
  let timesteps: readonly number[];
  let sigmas: readonly number[];
  if (request.sigmas) {
    sigmas = checkedSigmas(request.sigmas, { endsInZero: true }).map(Math.fround);
    timesteps = sigmas.slice(0, -1).map(timestepOf);
  } else {
    if (request.timesteps && continuous) {
      throw new UserError("Custom timesteps cannot be combined with continuous timesteps of v-prediction.", {
        field: "timesteps",
      });
    }
    timesteps = timestepsOf(config, request);
    const count = request.timesteps?.length ?? request.steps!;
    sigmas =
      o.interpolation_type === "log_linear"
        ? [...linspace32(Math.log(trained.at(-1)!), Math.log(trained[0]!), count + 1)].map((log) =>
            Math.fround(Math.exp(log)),
          )
        : timesteps.map((t) => sigmaAt(t, trained));
    if (named) ({ timesteps, sigmas } = regridded(named, sigmas, count, config, timestepOf));
    sigmas = [...sigmas, o.final_sigmas_type === "sigma_min" ? trained[0]! : 0];
  }
  if (continuous) timesteps = sigmas.slice(0, -1).map((sigma) => 0.25 * Math.fround(Math.log(Math.fround(sigma))));
  return { timesteps: timesteps.map(Math.fround), sigmas: Float32Array.from(sigmas), timestepOf };
}

function regridded(
  named: "karras" | "exponential" | "beta",
  sigmas: readonly number[],
  count: number,
  config: ReadConfig,
  timestepOf: (sigma: number) => number,
) {
  const grid = gridSigmas(named, { minimum: sigmas[sigmas.length - 1]!, maximum: sigmas[0]! }, count, config);
  return { sigmas: grid, timesteps: grid.map(timestepOf) };
}

function timestepsOf(config: ReadConfig, request: PlanRequest): readonly number[] {
  const { options: o } = config;
  if (request.timesteps) {
    const grid = sigmaGridOf(config);
    if (!grid) return checkedTimesteps(request.timesteps, o.num_train_timesteps as number).map(Math.fround);
    throw new UserError(`Custom timesteps cannot be combined with use_${grid}_sigmas.`, { field: "timesteps" });
  }
  return spacedTimesteps(o.timestep_spacing as Spacing, stepsOf(config, request), o.num_train_timesteps as number, {
    offset: o.steps_offset as number,
    fractional: true,
  });
}

function levelsOf({ timesteps, sigmas }: SigmaGrid): Level[] {
  return [...sigmas].map((sigma, i) => ({ alpha: 1, sigma, timestep: timesteps[i] ?? 0 }));
}

function common(
  config: ReadConfig,
  calls: readonly number[],
  listed: Float32Array,
  sigmas: Float32Array,
  levels: readonly Level[],
  prediction: PredictionKind,
) {
  const largest = sigmas.reduce((a, b) => Math.max(a, b));
  const leading = config.options.timestep_spacing === "leading";
  return {
    steps: levels.length - 1,
    timesteps: calls,
    sigmas: listed,
    initNoiseSigma: leading ? Math.fround(Math.sqrt(Math.fround(Math.fround(largest * largest) + 1))) : largest,
    levelBefore: (step: number) => levels[step]!,
    addNoise: ((x0, noise, t) =>
      mixed(x0, noise, { alpha: 1, sigma: listed[indexOfTimestep(calls, t)]!, timestep: t })) as PlanParts["addNoise"],
    denoiser: ((network) =>
      denoiser(network, { prediction, scaleInput: 1, ...limitsOf(config) })) as PlanParts["denoiser"],
  };
}

/** [a, b, c] as [a, b, b, c, c]: the order of calls of a method with two calls a step. */
function twiceAfterFirst(values: readonly number[]): number[] {
  return values.flatMap((value, i) => (i === 0 ? [value] : [value, value]));
}
