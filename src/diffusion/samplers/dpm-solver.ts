import { combine } from "../combine.ts";
import { type Denoiser, noiseBeside, type Prediction } from "../denoiser.ts";
import { noNoise } from "../noise-source.ts";
import { halfLogSnr, type Level } from "../prediction.ts";
import type { Samples } from "../process.ts";
import { type Integrand, stepWeights } from "./exponential.ts";
import { mustHaveOrder, type NoiseOptions, type SamplerRun, stateAfter } from "./sampler.ts";

export interface DpmSolverOptions extends NoiseOptions {
  /** DPM-Solver++ (`x0`) or DPM-Solver (`noise`). */
  readonly of?: "x0" | "noise";
  /** Solves the stochastic equation: fresh noise in each step. */
  readonly stochastic?: boolean;
  /** How the second order weights the difference of predictions; both are of order 2. */
  readonly form?: "midpoint" | "heun";
  /** With noise prediction: takes the noise that belongs to the thresholded x0. */
  readonly clippedNoise?: boolean;
  /** See `Integrand.asPublished`. */
  readonly asPublished?: boolean;
}

export interface MultistepOptions extends DpmSolverOptions {
  /** 1 (DDIM), 2 or 3. */
  readonly order?: number;
  /** The order of step i at most; for lowering it in the last steps. */
  readonly orderAt?: (step: number, steps: number) => number;
}

/**
 * DPM-Solver and DPM-Solver++ in multistep form (Lu et al. 2022b, "DPM-Solver++", Algorithm 2 and appendix B; the SDE
 * forms its appendix): one call a step, the derivatives of the prediction from earlier steps.
 *
 * A step to σ = 0 is always of order 1: λ is infinite there.
 */
export async function* dpmSolverMultistep(
  denoise: Denoiser,
  x: Samples,
  levels: readonly Level[],
  {
    order = 2,
    of = "x0",
    stochastic = false,
    form = "midpoint",
    clippedNoise = false,
    asPublished = false,
    orderAt = () => order,
    noise = noNoise,
    first = 0,
  }: MultistepOptions = {},
): SamplerRun {
  mustHaveOrder("DPM-Solver", order, 3);
  const steps = levels.length - 1;
  const integrand: Integrand = { of, stochastic, asPublished };
  let history: Float32Array[] = []; // newest first
  for (let i = first; i < steps; i++) {
    const from = levels[i]!;
    const to = levels[i + 1]!;
    const prediction = await denoise(x, from, { step: i, steps });
    history = [integrated(prediction, x, from, of, clippedNoise), ...history].slice(0, order);
    const usable = to.sigma === 0 ? 1 : Math.min(order, orderAt(i, steps), history.length);
    const nodes = levels.slice(i - usable + 1, i + 1).reverse();
    const weights = multistepWeights(integrand, form, nodes, to);
    const arrays = [x.data, ...history.slice(0, usable)];
    if (stochastic) {
      weights.push(stepWeights(integrand, from, to).noise);
      arrays.push(noise(x.shape).data);
    }
    x = { ...x, data: combine(weights, arrays) };
    yield stateAfter(i, steps, from, to, x, prediction.x0);
  }
}

/**
 * The weights of x and of the predictions at `nodes` (newest first, the step starts at the first).
 *
 * The differences over uneven steps are those of the paper's appendix B, with r = (earlier step) / (this step).
 */
function multistepWeights(
  integrand: Integrand,
  form: "midpoint" | "heun",
  nodes: readonly Level[],
  to: Level,
): number[] {
  const w = stepWeights(integrand, nodes[0]!, to);
  if (nodes.length === 1) return [w.x, w.constant];
  const [now, before, earlier] = nodes.map(halfLogSnr) as [number, number, number];
  const h = halfLogSnr(to) - now;
  const r0 = (now - before) / h;
  if (nodes.length === 2) {
    const slope = (form === "midpoint" ? w.midpoint : w.linear) / r0;
    return [w.x, w.constant + slope, -slope];
  }
  const r1 = (before - earlier) / h;
  // D1 = a + r0 / (r0 + r1) (a − b), D2 = 2 (a − b) / (r0 + r1), with a and b the last two scaled differences.
  const quadratic = integrand.asPublished ? w.quadratic : 2 * w.quadratic;
  const ofA = w.linear * (1 + r0 / (r0 + r1)) + quadratic / (r0 + r1);
  const ofB = -(w.linear * r0 + quadratic) / (r0 + r1);
  return [w.x, w.constant + ofA / r0, -ofA / r0 + ofB / r1, -ofB / r1];
}

export interface SinglestepOptions extends DpmSolverOptions {
  /** The order of the formula that each call ends in: 1 starts a group, 2 and 3 redo the group from its start. */
  readonly orders: readonly number[];
}

/**
 * DPM-Solver and DPM-Solver++ in singlestep form (Lu et al. 2022, Algorithms 1 and 2; 2022b, Algorithm 1): groups of 1,
 * 2 or 3 calls, the last of a group using all of them from the group's start. Here each call counts as a step, since
 * each reaches a level of the grid.
 */
export async function* dpmSolverSinglestep(
  denoise: Denoiser,
  x: Samples,
  levels: readonly Level[],
  {
    orders,
    of = "x0",
    stochastic = false,
    form = "midpoint",
    clippedNoise = false,
    asPublished = false,
    noise = noNoise,
    first = 0,
  }: SinglestepOptions,
): SamplerRun {
  for (const order of orders) mustHaveOrder("DPM-Solver", order, 3);
  const steps = orders.length;
  const integrand: Integrand = { of, stochastic, asPublished };
  let history: Float32Array[] = []; // newest first
  let start = x;
  for (let i = first; i < steps; i++) {
    const from = levels[i]!;
    const to = levels[i + 1]!;
    const prediction = await denoise(x, from, { step: i, steps });
    history = [integrated(prediction, x, from, of, clippedNoise), ...history].slice(0, 3);
    const usable = Math.min(orders[i]!, history.length);
    if (usable === 1) start = x;
    const nodes = levels.slice(i - usable + 1, i + 1).reverse();
    const weights = singlestepWeights(integrand, form, nodes, to);
    const arrays = [start.data, ...history.slice(0, usable)];
    if (stochastic) {
      weights.push(stepWeights(integrand, nodes[usable - 1]!, to).noise);
      arrays.push(noise(x.shape).data);
    }
    x = { ...x, data: combine(weights, arrays) };
    yield stateAfter(i, steps, from, to, x, prediction.x0);
  }
}

/** As `multistepWeights`, but x is that of the oldest node, where the step starts. */
function singlestepWeights(
  integrand: Integrand,
  form: "midpoint" | "heun",
  nodes: readonly Level[],
  to: Level,
): number[] {
  const origin = nodes[nodes.length - 1]!;
  const w = stepWeights(integrand, origin, to);
  if (nodes.length === 1) return [w.x, w.constant];
  const base = halfLogSnr(origin);
  const h = halfLogSnr(to) - base;
  const r0 = (halfLogSnr(nodes[0]!) - base) / h;
  if (nodes.length === 2) {
    const slope = (form === "midpoint" ? w.midpoint : w.linear) / r0;
    return [w.x, slope, w.constant - slope];
  }
  if (form === "midpoint") {
    const slope = w.linear / r0;
    return [w.x, slope, 0, w.constant - slope];
  }
  const r1 = (halfLogSnr(nodes[1]!) - base) / h;
  // D1 = (r0 a − r1 b) / (r0 − r1), D2 = 2 (b − a) / (r0 − r1), with a over r1 and b over r0.
  const ofA = (w.linear * r0 - 2 * w.quadratic) / (r0 - r1);
  const ofB = (2 * w.quadratic - w.linear * r1) / (r0 - r1);
  return [w.x, ofB / r0, ofA / r1, w.constant - ofA / r1 - ofB / r0];
}

/** What is integrated: x0, or the noise (that belongs to the thresholded x0). */
export function integrated(
  prediction: Prediction,
  x: Samples,
  level: Level,
  of: "x0" | "noise",
  clipped: boolean,
): Float32Array {
  if (of === "x0") return prediction.x0;
  return clipped ? noiseBeside(prediction.x0, x.data, level) : prediction.noise;
}
