import { UserError } from "../../core/errors.ts";
import { type DenoiserOptions, denoiser } from "../denoiser.ts";
import { type Level, levelOfSigma } from "../prediction.ts";
import { deis } from "../samplers/deis.ts";
import { dpmSolverMultistep, dpmSolverSinglestep } from "../samplers/dpm-solver.ts";
import { defaultTau, saSolver } from "../samplers/sa-solver.ts";
import { MAX_UNIPC_ORDER, unipc } from "../samplers/unipc.ts";
import type { ReadConfig } from "./options.ts";
import type { PlanParts, PlanRequest } from "./plan.ts";
import { finiteAlphas, indexOfTimestep, limitsOf, mixed, predictionOf, sigmaGridOf, takesOnly } from "./shared.ts";
import { type SolverGrid, solverGrid, unipcGrid } from "./solver-grid.ts";

/** A grid with its levels, on a variance-preserving path or a flow-matching one. */
interface LaidOut extends SolverGrid {
  readonly levels: readonly Level[];
}

/** DPMSolverMultistepScheduler. */
export function planDpmMultistep(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps", "timesteps", "mu"]);
  const { options: o } = config;
  const { of, stochastic, form } = dpmForm(config);
  const { timesteps, sigmas } = solverGrid(config, request, { final: finalSigma(config) });
  return {
    ...common(config, withLevels(config, timesteps, sigmas), of),
    stochastic,
    run: (denoise, x, options) =>
      dpmSolverMultistep(denoise, x, levelsOf(config, timesteps, sigmas), {
        ...options,
        order: o.solver_order as number,
        of,
        stochastic,
        form,
        clippedNoise: o.thresholding as boolean,
        asPublished: true,
        orderAt: loweredAtEnd(config),
      }),
  };
}

/** DPMSolverSinglestepScheduler. */
export function planDpmSinglestep(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps", "timesteps", "mu"]);
  const { options: o } = config;
  const { of, stochastic, form } = dpmForm(config);
  const { timesteps, sigmas } = solverGrid(config, request, { final: finalSigma(config) });
  const count = timesteps.length;
  const order = o.solver_order as number;
  const endsInZero = o.final_sigmas_type === "zero";
  // Steps that fill no whole group, and a last step to σ = 0, are taken in lower order, as diffusers does.
  const lowered = (o.lower_order_final as boolean) || count % order !== 0 || endsInZero;
  return {
    ...common(config, withLevels(config, timesteps, sigmas), of),
    stochastic,
    run: (denoise, x, options) =>
      dpmSolverSinglestep(denoise, x, levelsOf(config, timesteps, sigmas), {
        ...options,
        orders: groupOrders(count, order, lowered, endsInZero),
        of,
        stochastic,
        form,
        clippedNoise: o.thresholding as boolean,
        asPublished: true,
      }),
  };
}

/** DEISMultistepScheduler. */
export function planDeis(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps", "mu"]);
  const { options: o } = config;
  mustBeOneOf(config, "algorithm_type", ["deis", "dpmsolver", "dpmsolver++"]);
  checkedOrder(config, "solver_order", 3);
  // Named and flow grids repeat their last σ: the last step moves nothing.
  const repeated = sigmaGridOf(config) !== null || (o.use_flow_sigmas as boolean);
  const { timesteps, sigmas } = solverGrid(config, request, {
    final: repeated ? "repeated" : "sigma_min",
    roundsKarras: true,
  });
  const levels = levelsOf(config, timesteps, sigmas);
  return {
    ...common(config, { timesteps, sigmas, levels }, "x0"),
    stochastic: false,
    run: (denoise, x, options) =>
      deis(denoise, x, levels, {
        first: options?.first,
        order: o.solver_order as number,
        orderAt: loweredAtEnd(config),
      }),
  };
}

/** UniPCMultistepScheduler. */
export function planUnipc(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps", "sigmas", "mu"]);
  const { options: o } = config;
  checkedOrder(config, "solver_order", MAX_UNIPC_ORDER);
  const { timesteps, sigmas } = unipcGrid(config, request);
  const of = o.predict_x0 ? "x0" : "noise";
  const levels = levelsOf(config, timesteps, sigmas);
  return {
    ...common(config, { timesteps, sigmas, levels }, of),
    stochastic: false,
    run: (denoise, x, options) =>
      unipc(denoise, x, levels, {
        first: options?.first,
        order: o.solver_order as number,
        form: o.solver_type === "bh1" ? "bh1" : "bh2",
        of,
        lowerOrderFinal: o.lower_order_final as boolean,
        uncorrected: o.disable_corrector as number[],
      }),
  };
}

/** SASolverScheduler. */
export function planSaSolver(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps"]);
  const { options: o } = config;
  mustBeOneOf(config, "algorithm_type", ["data_prediction", "noise_prediction"]);
  checkedOrder(config, "predictor_order", 4);
  checkedOrder(config, "corrector_order", 4);
  const repeated = sigmaGridOf(config) !== null || (o.use_flow_sigmas as boolean);
  const { timesteps, sigmas } = solverGrid(config, request, {
    final: repeated ? "repeated" : "sigma_min",
    roundsKarras: true,
  });
  const levels = levelsOf(config, timesteps, sigmas);
  const of = o.algorithm_type === "data_prediction" ? "x0" : "noise";
  const alphas = finiteAlphas(config);
  const parts = common(config, { timesteps, sigmas, levels }, of);
  return {
    ...parts,
    stochastic: true,
    // The one solver of diffusers that adds noise by training timestep and not by σ.
    addNoise: (x0, noise, t) =>
      mixed(x0, noise, { timestep: t, alpha: Math.sqrt(alphas[t]!), sigma: Math.sqrt(1 - alphas[t]!) }),
    run: (denoise, x, options) =>
      saSolver(denoise, x, levels, {
        ...options,
        predictorOrder: o.predictor_order as number,
        correctorOrder: o.corrector_order as number,
        of,
        clippedNoise: o.thresholding as boolean,
        lowerOrderFinal: o.lower_order_final as boolean,
        tau: defaultTau,
      }),
  };
}

/** The order of each call of a singlestep solver (Lu et al. 2022, appendix, "DPM-Solver-fast"). */
export function groupOrders(steps: number, order: number, lowered: boolean, endsInZero: boolean): number[] {
  const group = Array.from({ length: order }, (_, i) => i + 1);
  const groups = (count: number) => Array.from({ length: Math.max(count, 0) }, () => group).flat();
  let orders: number[];
  if (order === 1 || !lowered) orders = groups(Math.floor(steps / order));
  else if (order === 2) orders = steps % 2 === 0 ? [...groups(steps / 2 - 1), 1, 1] : [...groups((steps - 1) / 2), 1];
  else if (steps % 3 === 0) orders = [...groups(steps / 3 - 1), 1, 2, 1];
  else orders = [...groups(Math.floor(steps / 3)), ...(steps % 3 === 1 ? [1] : [1, 2])];
  if (endsInZero) orders[orders.length - 1] = 1;
  return orders;
}

function levelsOf({ options }: ReadConfig, timesteps: readonly number[], sigmas: Float32Array): Level[] {
  const path = options.use_flow_sigmas ? "flow" : "preserving";
  return [...sigmas].map((sigma, i) => levelOfSigma(path, sigma, timesteps[i] ?? 0));
}

function withLevels(config: ReadConfig, timesteps: readonly number[], sigmas: Float32Array): LaidOut {
  return { timesteps, sigmas, levels: levelsOf(config, timesteps, sigmas) };
}

/** What the plans of exponential integrators share. */
export function common(config: ReadConfig, { timesteps, sigmas, levels }: LaidOut, of: "x0" | "noise") {
  const kinds = ["epsilon", "sample", "v_prediction"];
  // A velocity is read as x0 = x − σ u, which is its meaning on the flow-matching path only.
  if (config.options.use_flow_sigmas && of === "x0") kinds.push("flow_prediction");
  const prediction = predictionOf(config, kinds);
  const learned = ((config.options.variance_type as string | null) ?? "").startsWith("learned");
  const options: DenoiserOptions = {
    prediction,
    ...limitsOf(config),
    learnsVariance: learned && prediction === "noise",
  };
  return {
    steps: levels.length - 1,
    timesteps,
    sigmas,
    initNoiseSigma: 1,
    levelBefore: (step: number) => levels[step]!,
    addNoise: ((x0, noise, t) => mixed(x0, noise, levels[indexOfTimestep(timesteps, t)]!)) as PlanParts["addNoise"],
    denoiser: ((network) => denoiser(network, options)) as PlanParts["denoiser"],
  };
}

/** The form of DPM-Solver that a configuration asks for. */
export function dpmForm(config: ReadConfig) {
  const { options: o, className } = config;
  const algorithms = ["dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver", "deis"];
  mustBeOneOf(
    config,
    "algorithm_type",
    className === "DPMSolverSinglestepScheduler" ? algorithms.filter((a) => a !== "sde-dpmsolver") : algorithms,
  );
  checkedOrder(config, "solver_order", 3);
  // "deis" and the names of other solvers' forms occur in converted files; diffusers takes its defaults for them.
  const algorithm = o.algorithm_type === "deis" ? "dpmsolver++" : (o.algorithm_type as string);
  const of = algorithm.endsWith("++") ? ("x0" as const) : ("noise" as const);
  if (of === "noise" && o.final_sigmas_type === "zero") {
    throw new UserError(`algorithm_type "${algorithm}" cannot end at σ = 0.`, {
      hint: 'Set final_sigmas_type to "sigma_min", or use a ++ algorithm.',
      field: "final_sigmas_type",
    });
  }
  const stochastic = algorithm.startsWith("sde-");
  if (algorithm === "sde-dpmsolver" && o.solver_order === 3) {
    throw new UserError("sde-dpmsolver has no third order.", {
      hint: "Use solver_order 1 or 2.",
      field: "solver_order",
    });
  }
  return { of, stochastic, form: o.solver_type === "heun" ? ("heun" as const) : ("midpoint" as const) };
}

function finalSigma({ options }: ReadConfig): "zero" | "sigma_min" {
  return options.final_sigmas_type as "zero" | "sigma_min";
}

/** Lower orders in the last two steps of short runs, and in a last step to σ = 0. */
export function loweredAtEnd({ options: o }: ReadConfig): (step: number, steps: number) => number {
  const order = o.solver_order as number;
  return (step, steps) => {
    const short = (o.lower_order_final as boolean) && steps < 15;
    if (step === steps - 1 && (short || o.euler_at_final || o.final_sigmas_type === "zero")) return 1;
    return step === steps - 2 && short ? Math.min(order, 2) : order;
  };
}

export function checkedOrder({ className, options }: ReadConfig, name: string, maximum: number): void {
  const order = options[name] as number;
  if (Number.isInteger(order) && order >= 1 && order <= maximum) return;
  throw new UserError(`${className} option "${name}" is ${order}.`, {
    hint: `Accepted are whole numbers from 1 to ${maximum}.`,
    field: name,
  });
}

export function mustBeOneOf({ className, options }: ReadConfig, name: string, accepted: readonly string[]): void {
  if (accepted.includes(options[name] as string)) return;
  throw new UserError(`${className} option "${name}" is ${JSON.stringify(options[name])}.`, {
    hint: `Accepted is one of ${accepted.join(", ")}.`,
    field: name,
  });
}
