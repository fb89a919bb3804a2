import { combine } from "../combine.ts";
import type { Denoiser } from "../denoiser.ts";
import { noNoise } from "../noise-source.ts";
import { halfLogSnr, type Level } from "../prediction.ts";
import type { Samples } from "../process.ts";
import { integrated } from "./dpm-solver.ts";
import { lagrange } from "./lagrange.ts";
import { mustHaveOrder, type NoiseOptions, type SamplerRun, stateAfter } from "./sampler.ts";

export interface SaSolverOptions extends NoiseOptions {
  /** From 1 to 4: how many predictions each part uses, the corrector that at the end of the step among them. */
  readonly predictorOrder?: number;
  readonly correctorOrder?: number;
  /** What is integrated: x0, or the noise. */
  readonly of?: "x0" | "noise";
  /** With noise prediction: takes the noise that belongs to the thresholded x0. */
  readonly clippedNoise?: boolean;
  /** Lowers the orders in the last steps. */
  readonly lowerOrderFinal?: boolean;
  /** τ by timestep: how stochastic a step is; 0 is deterministic, 1 the usual SDE. */
  readonly tau?: (timestep: number) => number;
}

/** τ = 1 in the middle of the process, 0 at its ends (the paper's choice for latent diffusion). */
export function defaultTau(timestep: number): number {
  return timestep >= 200 && timestep <= 800 ? 1 : 0;
}

/**
 * SA-Solver (Xue et al. 2023, "SA-Solver: stochastic Adams solver for fast sampling of diffusion models", Algorithm 1):
 * a stochastic Adams–Bashforth predictor (eq. 13) and an Adams–Moulton corrector (eq. 16) for the SDE with variance
 * τ². One call and one draw a step; the corrector uses the draw of the step it corrects.
 */
export async function* saSolver(
  denoise: Denoiser,
  x: Samples,
  levels: readonly Level[],
  {
    predictorOrder = 2,
    correctorOrder = 2,
    of = "x0",
    clippedNoise = false,
    lowerOrderFinal = true,
    tau = defaultTau,
    noise = noNoise,
    first = 0,
  }: SaSolverOptions = {},
): SamplerRun {
  mustHaveOrder("SA-Solver's predictor", predictorOrder, 4);
  mustHaveOrder("SA-Solver's corrector", correctorOrder, 4);
  const steps = levels.length - 1;
  const kept = Math.max(predictorOrder, correctorOrder - 1);
  let history: Float32Array[] = []; // newest first
  let previous: { x: Samples; noise: Float32Array; tau: number; correctorOrder: number } | null = null;
  for (let i = first; i < steps; i++) {
    const from = levels[i]!;
    const to = levels[i + 1]!;
    const prediction = await denoise(x, from, { step: i, steps });
    const now = integrated(prediction, x, from, of, clippedNoise);
    if (previous) {
      const order = previous.correctorOrder;
      const weights = adamsWeights(
        levels.slice(i - order + 1, i + 1).reverse(),
        levels[i - 1]!,
        from,
        previous.tau,
        of,
        "corrector",
      );
      const arrays = [previous.x.data, previous.noise, now, ...history].slice(0, order + 2);
      x = { ...x, data: combine(weights, arrays) };
    }
    const done = history.length;
    history = [now, ...history].slice(0, kept);
    const left = lowerOrderFinal ? steps - i : Number.POSITIVE_INFINITY;
    const order = Math.min(predictorOrder, left, done + 1);
    const draw = noise(x.shape).data;
    const at = tau(from.timestep);
    previous = { x, noise: draw, tau: at, correctorOrder: Math.min(correctorOrder, left + 1, done + 2) };
    const weights = adamsWeights(levels.slice(i - order + 1, i + 1).reverse(), from, to, at, of, "predictor");
    x = { ...x, data: combine(weights, [x.data, draw, ...history.slice(0, order)]) };
    yield stateAfter(i, steps, from, to, x, prediction.x0);
  }
}

/** The weights of x, of the noise, and of the predictions at `nodes`, newest first, for a step between two levels. */
function adamsWeights(
  nodes: readonly Level[],
  from: Level,
  to: Level,
  tau: number,
  of: "x0" | "noise",
  part: "predictor" | "corrector",
): number[] {
  const a = halfLogSnr(from);
  const b = halfLogSnr(to);
  const h = b - a;
  const square = tau * tau;
  const lambdas = nodes.map(halfLogSnr);
  // The polynomials are in λ − λ_to, which keeps the exponentials below 1.
  const rate = of === "x0" ? 1 + square : -1;
  const moments = exponentialMoments(rate, -h, nodes.length);
  const integrals = lambdas.map((_, k) =>
    lagrange(
      lambdas.map((lambda) => lambda - b),
      k,
    ).reduce((sum, coefficient, power) => sum + coefficient * moments[power]!, 0),
  );
  if (of === "x0" && nodes.length === 2) {
    // A simplification of the paper's code for order 2, equal up to higher order: h² / 2 for an exact moment.
    const decay = Math.exp(-rate * h);
    const exact = (h * rate - 1 + decay) / (rate * rate);
    const change = part === "predictor" ? (h * h * 0.5 - exact) / (lambdas[0]! - lambdas[1]!) : h / 2 - exact / h;
    integrals[0]! += change;
    integrals[1]! -= change;
  }
  const scale = of === "x0" ? (1 + square) * to.alpha : -(1 + square) * to.sigma;
  const ofX = of === "x0" ? Math.exp(-square * h) * (to.sigma / from.sigma) : to.alpha / from.alpha;
  const ofNoise =
    of === "x0" ? to.sigma * Math.sqrt(-Math.expm1(-2 * square * h)) : tau * to.sigma * Math.sqrt(Math.expm1(2 * h));
  return [ofX, ofNoise, ...integrals.map((integral) => scale * integral)];
}

/** ∫ from u to 0 of tᵏ e^{rate t} dt for k = 0 … count − 1, by parts. */
function exponentialMoments(rate: number, u: number, count: number): number[] {
  const edge = Math.exp(rate * u);
  const moments = [-Math.expm1(rate * u) / rate];
  for (let k = 1; k < count; k++) moments.push((-(u ** k) * edge - k * moments[k - 1]!) / rate);
  return moments;
}
