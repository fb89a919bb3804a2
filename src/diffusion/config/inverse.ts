import { UserError } from "../../core/errors.ts";
import { linspace, roundHalfEven, sigmaAt, timestepOfSigma } from "../grids.ts";
import { levelOfSigma } from "../prediction.ts";
import { dpmSolverMultistep } from "../samplers/dpm-solver.ts";
import { sigmasOf } from "../schedule.ts";
import { common, dpmForm, loweredAtEnd } from "./exponential.ts";
import type { ReadConfig } from "./options.ts";
import type { PlanParts, PlanRequest } from "./plan.ts";
import { finiteAlphas, gridSigmas, sigmaGridOf, stepsOf, takesOnly } from "./shared.ts";

/**
 * DPMSolverMultistepInverseScheduler: DPM-Solver upwards, from an image to the noise it would come from. The first
 * level is that of timestep 0, where an image is taken for an x; the last is the noisiest of training.
 */
export function planDpmInverse(config: ReadConfig, request: PlanRequest): PlanParts {
  takesOnly(config, request, ["steps"]);
  const { className, options: o } = config;
  const { of, stochastic, form } = dpmForm(config);
  if (stochastic || o.use_flow_sigmas) {
    throw new UserError(`${className} has no ${stochastic ? "stochastic form" : "flow sigmas"}.`, {
      hint: 'It goes upwards with "dpmsolver++" or "dpmsolver" on the path of a noise schedule.',
      field: stochastic ? "algorithm_type" : "use_flow_sigmas",
    });
  }
  const alphas = finiteAlphas(config);
  const trained = sigmasOf(alphas);
  const count = stepsOf(config, request);
  const named = sigmaGridOf(config);
  let timesteps: readonly number[];
  let sigmas: readonly number[];
  if (named) {
    // A grid from its smallest σ to its largest, which it repeats: the last step moves nothing.
    const ends = { minimum: trained[trained.length - 1]!, maximum: trained[0]! };
    sigmas = gridSigmas(named, ends, count, config);
    timesteps = sigmas.map(timestepOfSigma(alphas)).map(named === "karras" ? roundHalfEven : Math.trunc);
    sigmas = [...sigmas, sigmas[sigmas.length - 1]!];
  } else {
    const noisiest = alphas.length - 1 - belowLambda(alphas, o.lambda_min_clipped as number);
    timesteps = risingTimesteps(config, count, noisiest, alphas.length);
    sigmas = [...timesteps, noisiest].map((t) => sigmaAt(t, trained));
  }
  if (new Set(timesteps).size < timesteps.length) {
    throw new UserError(`${className} has no ${count} different timesteps.`, {
      hint: "Ask for fewer steps.",
      field: "steps",
    });
  }
  const listed = Float32Array.from(sigmas);
  const levels = [...listed].map((sigma, i) => levelOfSigma("preserving", sigma, timesteps[i] ?? 0));
  const lowered = loweredAtEnd(config);
  return {
    ...common(config, { timesteps, sigmas: listed, levels }, of),
    stochastic: false,
    run: (denoise, x, options) =>
      dpmSolverMultistep(denoise, x, levels, {
        first: options?.first,
        order: o.solver_order as number,
        of,
        form,
        clippedNoise: o.thresholding as boolean,
        asPublished: true,
        orderAt: (step, steps) => (named && step === steps - 1 ? 1 : lowered(step, steps)),
      }),
  };
}

/** How many training timesteps have a λ below a bound. */
function belowLambda(alphas: Float32Array, bound: number): number {
  return alphas.filter((alpha) => Math.log(Math.sqrt(alpha)) - Math.log(Math.sqrt(1 - alpha)) < bound).length;
}

/** Timesteps in rising order. Of linspace and leading spacing the largest is left out: the last step ends there. */
function risingTimesteps({ options: o }: ReadConfig, count: number, noisiest: number, trained: number): number[] {
  if (o.timestep_spacing === "linspace") {
    return linspace(0, noisiest, count + 1)
      .map(roundHalfEven)
      .slice(0, count);
  }
  if (o.timestep_spacing === "leading") {
    const stride = Math.floor((noisiest + 1) / (count + 1));
    return Array.from({ length: count }, (_, i) => i * stride + (o.steps_offset as number));
  }
  const stride = trained / count;
  const length = Math.ceil((noisiest + 1) / stride);
  return Array.from({ length }, (_, i) => roundHalfEven(noisiest + 1 - i * stride) - 1).reverse();
}
