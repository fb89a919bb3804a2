import { combine } from "../combine.ts";
import type { Denoiser } from "../denoiser.ts";
import { halfLogSnr, type Level } from "../prediction.ts";
import type { Samples } from "../process.ts";
import { integrated } from "./dpm-solver.ts";
import { mustHaveOrder, type SamplerRun, type StartOptions, stateAfter } from "./sampler.ts";

export interface UnipcOptions extends StartOptions {
  /**
   * The predictor's, from 1 to 6; with the corrector a step is of one order more. 2 or 3 are usual: higher ones need many
   * steps, as every polynomial through distant predictions does.
   */
  readonly order?: number;
  /** B(h) = h or e^h − 1 (the paper's section 3.1). */
  readonly form?: "bh1" | "bh2";
  /** What is integrated: x0, or the noise. */
  readonly of?: "x0" | "noise";
  /** Lowers the order in the last steps. */
  readonly lowerOrderFinal?: boolean;
  /** Indices of steps after which x is not corrected. */
  readonly uncorrected?: readonly number[];
}

/** Beyond it is not stable: with an order of 8 a run of forty steps diverges. */
export const MAX_UNIPC_ORDER = 6;

/**
 * UniPC (Zhao et al. 2023, "UniPC: a unified predictor-corrector framework", Algorithms 5–8): a predictor of order p
 * and a corrector that uses the next call's prediction, which is made anyway, to raise the order by one. One call a
 * step.
 */
export async function* unipc(
  denoise: Denoiser,
  x: Samples,
  levels: readonly Level[],
  { order = 2, form = "bh2", of = "x0", lowerOrderFinal = true, uncorrected = [], first = 0 }: UnipcOptions = {},
): SamplerRun {
  mustHaveOrder("UniPC", order, MAX_UNIPC_ORDER);
  const steps = levels.length - 1;
  let history: Float32Array[] = []; // newest first
  let previous: { readonly x: Samples; readonly order: number } | null = null;
  for (let i = first; i < steps; i++) {
    const from = levels[i]!;
    const to = levels[i + 1]!;
    const prediction = await denoise(x, from, { step: i, steps });
    const now = integrated(prediction, x, from, of, false);
    if (previous && !uncorrected.includes(i - 1)) {
      const nodes = levels.slice(i - previous.order, i).reverse();
      const weights = correctorWeights(nodes, from, form, of);
      x = { ...x, data: combine(weights, [previous.x.data, ...history.slice(0, previous.order), now]) };
    }
    history = [now, ...history].slice(0, order);
    const limit = lowerOrderFinal ? Math.min(order, steps - i) : order;
    const usable = to.sigma === 0 ? 1 : Math.min(limit, history.length);
    previous = { x, order: usable };
    const nodes = levels.slice(i - usable + 1, i + 1).reverse();
    x = { ...x, data: combine(predictorWeights(nodes, to, form, of), [x.data, ...history.slice(0, usable)]) };
    yield stateAfter(i, steps, from, to, x, prediction.x0);
  }
}

/** The weights of x and of the predictions at `nodes`, newest first (UniP, eq. 3 and 5 of the paper). */
function predictorWeights(nodes: readonly Level[], to: Level, form: "bh1" | "bh2", of: "x0" | "noise"): number[] {
  const base = baseStep(nodes, to, form, of);
  const differences = base.ratios.length;
  // With one difference the paper takes 1/2 for any B(h).
  const rhos = differences === 1 ? [0.5] : solve(vandermonde(base.ratios), base.right.slice(0, differences));
  return weightsOfDifferences(base, rhos);
}

/** As `predictorWeights`, and last the weight of the prediction at the end of the step (UniC). */
function correctorWeights(nodes: readonly Level[], to: Level, form: "bh1" | "bh2", of: "x0" | "noise"): number[] {
  const base = baseStep(nodes, to, form, of);
  const ratios = [...base.ratios, 1];
  const rhos = ratios.length === 1 ? [0.5] : solve(vandermonde(ratios), base.right);
  return weightsOfDifferences({ ...base, ratios }, rhos);
}

interface BaseStep {
  readonly ofX: number;
  readonly ofNow: number;
  /** What the sum of differences is multiplied by: B(h) and the level's scale. */
  readonly scale: number;
  /** (λ_node − λ_from) / h of the earlier nodes. */
  readonly ratios: readonly number[];
  readonly right: readonly number[];
}

function baseStep(nodes: readonly Level[], to: Level, form: "bh1" | "bh2", of: "x0" | "noise"): BaseStep {
  const from = nodes[0]!;
  const now = halfLogSnr(from);
  const h = halfLogSnr(to) - now;
  const signed = of === "x0" ? -h : h;
  const phi = Math.expm1(signed);
  const b = form === "bh1" ? signed : phi;
  const scale = of === "x0" ? to.alpha : to.sigma;
  const right: number[] = [];
  let factorial = 1;
  let phiK = phi / signed - 1;
  for (let k = 1; k <= nodes.length; k++) {
    right.push((phiK * factorial) / b);
    factorial *= k + 1;
    phiK = phiK / signed - 1 / factorial;
  }
  return {
    ofX: of === "x0" ? to.sigma / from.sigma : to.alpha / from.alpha,
    ofNow: -scale * phi,
    scale: -scale * b,
    ratios: nodes.slice(1).map((node) => (halfLogSnr(node) - now) / h),
    right,
  };
}

/** Spreads Σ ρ_k (m_k − m_0) / r_k over the predictions m. */
function weightsOfDifferences({ ofX, ofNow, scale, ratios }: BaseStep, rhos: readonly number[]): number[] {
  const ofOthers = ratios.map((ratio, k) => (scale * rhos[k]!) / ratio);
  return [ofX, ofNow - ofOthers.reduce((sum, weight) => sum + weight, 0), ...ofOthers];
}

/** Rows are the powers 0, 1, … of the ratios. */
function vandermonde(ratios: readonly number[]): number[][] {
  return ratios.map((_, power) => ratios.map((ratio) => ratio ** power));
}

/** Solves a small linear system by elimination with pivoting. */
function solve(matrix: number[][], right: readonly number[]): number[] {
  const rows = matrix.map((row, i) => [...row, right[i]!]);
  const n = rows.length;
  for (let column = 0; column < n; column++) {
    let pivot = column;
    for (let r = column + 1; r < n; r++) if (Math.abs(rows[r]![column]!) > Math.abs(rows[pivot]![column]!)) pivot = r;
    [rows[column], rows[pivot]] = [rows[pivot]!, rows[column]!];
    for (let r = column + 1; r < n; r++) {
      const factor = rows[r]![column]! / rows[column]![column]!;
      for (let c = column; c <= n; c++) rows[r]![c]! -= factor * rows[column]![c]!;
    }
  }
  const solution = new Array<number>(n).fill(0);
  for (let r = n - 1; r >= 0; r--) {
    let value = rows[r]![n]!;
    for (let c = r + 1; c < n; c++) value -= rows[r]![c]! * solution[c]!;
    solution[r] = value / rows[r]![r]!;
  }
  return solution;
}
