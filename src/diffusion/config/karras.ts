import { UserError } from "../../core/errors.ts";
import { denoiser } from "../denoiser.ts";
import { karrasAt, linspace, spacedTimesteps } from "../grids.ts";
import type { Level } from "../prediction.ts";
import { dpmSolverMultistep } from "../samplers/dpm-solver.ts";
import { euler } from "../samplers/euler.ts";
import { type ConsistencyStep, consistency } from "../samplers/few-step.ts";
import { heun } from "../samplers/heun.ts";
import { stepsBetween } from "../samplers/sampler.ts";
import { linspace32 } from "../schedule.ts";
import { checkedOrder, loweredAtEnd, mustBeOneOf } from "./exponential.ts";
import type { ReadConfig } from "./options.ts";
import type { PlanParts, PlanRequest } from "./plan.ts";
import {
  checkedChurn,
  checkedTimesteps,
  indexOfTimestep,
  limitsOf,
  mixed,
  predictionOf,
  stepsOf,
  takesOnly,
} from "./shared.ts";

/** EDMEulerScheduler. Its `sigmas` are places on the σ grid: 0 the largest, 1 the smallest. */
export function planEdmEuler(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps", "sigmas", "churn"]);
  const { options: o } = config;
  const ramp = request.sigmas ? checkedRamp(request.sigmas) : linspace(0, 1, stepsOf(config, request));
  const churn = checkedChurn(request.churn);
  const grid =
    o.sigma_schedule === "karras"
      ? karrasAt(ramp, ...endsOf(config), o.rho as number)
      : exponential(config, ramp.length);
  const sigmas = withFinal(grid, o.final_sigmas_type === "zero" ? 0 : grid[grid.length - 1]!);
  const levels = edmLevels(sigmas);
  return {
    ...edm(config, sigmas, levels),
    stochastic: churn !== undefined,
    run: (denoise, x, options) =>
      euler(denoise, x, stepsBetween(levels), { ...options, churn, churnSteps: sigmas.length - 1 }),
  };
}

/** EDMHeunScheduler: Karras et al. 2022, Algorithm 1, and with churn Algorithm 2. Two calls a step. */
export function planEdmHeun(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps", "churn"]);
  const { steps, levelBefore, ...euler } = planEdmEuler(config, request);
  const levels = Array.from({ length: steps + 1 }, (_, i) => levelBefore(i));
  const calls = euler.timesteps.flatMap((t, i) => (i === 0 ? [t] : [t, t]));
  // The end is called too unless it is σ = 0.
  if (levels[steps]!.sigma > 0) calls.push(levels[steps]!.timestep);
  return {
    ...euler,
    steps,
    levelBefore,
    timesteps: calls,
    addNoise: (x0, noise, t) => mixed(x0, noise, levels[euler.timesteps.indexOf(t)]!),
    run: (denoise, x, options) =>
      heun(denoise, x, stepsBetween(levels), {
        ...options,
        churn: request.churn,
        timestepOf: (sigma) => 0.25 * Math.log(sigma),
      }),
  };
}

/** EDMDPMSolverMultistepScheduler. */
export function planEdmDpm(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps"]);
  const { options: o } = config;
  mustBeOneOf(config, "algorithm_type", ["dpmsolver++", "sde-dpmsolver++", "deis"]);
  checkedOrder(config, "solver_order", 3);
  const stochastic = o.algorithm_type === "sde-dpmsolver++";
  const order = o.solver_order as number;
  if (stochastic && order === 3) {
    throw new UserError("EDMDPMSolverMultistepScheduler has no stochastic third order.", {
      hint: "Use solver_order 1 or 2.",
      field: "solver_order",
    });
  }
  const count = stepsOf(config, request);
  const grid =
    o.sigma_schedule === "karras"
      ? karras32(linspace32(0, 1, count), ...endsOf(config), o.rho as number)
      : exponential(config, count);
  const sigmas = withFinal(grid, o.final_sigmas_type === "zero" ? 0 : (o.sigma_min as number));
  const levels = edmLevels(sigmas);
  return {
    ...edm(config, sigmas, levels),
    stochastic,
    run: (denoise, x, options) =>
      dpmSolverMultistep(denoise, x, levels, {
        ...options,
        order,
        stochastic,
        form: o.solver_type === "heun" ? "heun" : "midpoint",
        asPublished: true,
        orderAt: loweredAtEnd(config),
      }),
  };
}

/** CMStochasticIterativeScheduler: consistency models. Its custom timesteps count places on the training grid. */
export function planConsistency(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps", "timesteps"]);
  const { options: o } = config;
  const trained = o.num_train_timesteps as number;
  const places = request.timesteps
    ? checkedTimesteps(request.timesteps, trained)
    : spacedTimesteps("leading", stepsOf(config, request), trained);
  const ramp = [...places].reverse().map((place) => place / (trained - 1));
  const [minimum, maximum] = endsOf(config);
  const grid = karrasAt(ramp, minimum, maximum, o.rho as number);
  const sigmas = withFinal(grid, minimum);
  const timesteps = grid.map((sigma) => 250 * Math.log(sigma + 1e-44));
  const sigmaData = o.sigma_data as number;
  const levels = [...sigmas].map((sigma, i): Level => ({ alpha: 1, sigma, timestep: timesteps[i] ?? 0 }));
  const steps = stepsBetween(levels).map(({ from, to }): ConsistencyStep => {
    const above = from.sigma - minimum;
    const next = Math.min(Math.max(to.sigma, minimum), maximum);
    const added = (o.s_noise as number) * Math.sqrt(Math.max(next * next - minimum * minimum, 0));
    return {
      from,
      to,
      skip: sigmaData ** 2 / (above ** 2 + sigmaData ** 2),
      out: (above * sigmaData) / Math.sqrt(from.sigma ** 2 + sigmaData ** 2),
      added: levels.length > 2 ? added : null,
    };
  });
  return {
    steps: steps.length,
    timesteps,
    sigmas,
    initNoiseSigma: maximum,
    stochastic: steps.length > 1,
    levelBefore: (step) => levels[step]!,
    addNoise: (x0, noise, t) => mixed(x0, noise, levels[indexOfTimestep(timesteps, t)]!),
    denoiser: (network) => denoiser(network, { prediction: "x0", scaleInput: sigmaData }),
    run: (denoise, x, options) => consistency(denoise, x, steps, { ...options, clip: o.clip_denoised ? 1 : undefined }),
  };
}

function edm(config: ReadConfig, sigmas: Float32Array, levels: readonly Level[]) {
  const { options: o } = config;
  const kind = predictionOf(config, ["epsilon", "v_prediction"]);
  const sigmaData = o.sigma_data as number;
  const timesteps = levels.slice(0, -1).map(({ timestep }) => timestep);
  return {
    steps: timesteps.length,
    timesteps,
    sigmas,
    initNoiseSigma: Math.sqrt((o.sigma_max as number) ** 2 + 1),
    levelBefore: (step: number) => levels[step]!,
    addNoise: ((x0, noise, t) => mixed(x0, noise, levels[indexOfTimestep(timesteps, t)]!)) as PlanParts["addNoise"],
    denoiser: ((network) =>
      denoiser(network, {
        prediction: { edm: { sigmaData, sign: kind === "v" ? -1 : 1 } },
        scaleInput: sigmaData,
        ...limitsOf(config),
      })) as PlanParts["denoiser"],
  };
}

/** c_noise = ln(σ) / 4 is what the network is told (Karras et al. 2022, table 1). */
function edmLevels(sigmas: Float32Array): Level[] {
  return [...sigmas].map((sigma) => ({
    alpha: 1,
    sigma,
    timestep: sigma === 0 ? 0 : Math.fround(0.25 * Math.fround(Math.log(sigma))),
  }));
}

/** `karrasAt` rounded to float32 after each operation, as this class computes it. */
function karras32(ramp: Float32Array, minimum: number, maximum: number, rho: number): number[] {
  const f = Math.fround;
  const low = minimum ** (1 / rho);
  const high = maximum ** (1 / rho);
  const width = f(low - high);
  return [...ramp].map((u) => f(f(f(high) + f(u * width)) ** rho));
}

function exponential(config: ReadConfig, count: number): number[] {
  const [minimum, maximum] = endsOf(config);
  return [...linspace32(Math.log(minimum), Math.log(maximum), count)].map(Math.exp).reverse();
}

/** Places of a grid: from 0, the largest σ, to 1, the smallest. */
function checkedRamp(ramp: readonly number[]): readonly number[] {
  const rising = ramp.every((u, i) => u >= 0 && u <= 1 && (i === 0 || u > ramp[i - 1]!));
  if (ramp.length > 0 && rising) return ramp;
  throw new UserError("EDMEulerScheduler takes as sigmas places between its largest σ, 0, and its smallest, 1.", {
    hint: "Give rising numbers from 0 to 1, or a number of steps.",
    field: "sigmas",
  });
}

function endsOf({ options }: ReadConfig): [minimum: number, maximum: number] {
  return [options.sigma_min as number, options.sigma_max as number];
}

function withFinal(grid: readonly number[], last: number): Float32Array {
  return Float32Array.from([...grid, last]);
}
