import { float32 } from "../src/core/host-tensor.ts";
import {
  ancestralSplit,
  type Denoiser,
  ddim,
  deis,
  denoiser,
  dpmSolverMultistep,
  dpmSolverSinglestep,
  finished,
  groupOrders,
  heun,
  improvedPndm,
  type Level,
  levelOfSigma,
  linearMultistep,
  linspace,
  midpoint,
  normalTail,
  type PndmStart,
  pndm,
  type SamplerRun,
  type Samples,
  type Step,
  saSolver,
  stepsBetween,
  type UnipcOptions,
  unipc,
} from "../src/diffusion/index.ts";

/**
 * A data set whose denoiser and whose probability-flow ODE are known exactly: numbers from two Gaussians. The ODE of
 * one dimension keeps quantiles, so its solution from one level to another is a matter of distribution functions.
 */
const MIXTURE = [
  { weight: 0.4, mean: -1, std: 0.45 },
  { weight: 0.6, mean: 0.8, std: 0.6 },
];

/** E[x0 | x] of the mixture at any level. */
export const exactDenoiser: Denoiser = denoiser(
  async (x, _, { level: { alpha, sigma } }) =>
    float32(
      x.shape,
      x.data.map((value) => {
        let total = 0;
        let mean = 0;
        for (const part of MIXTURE) {
          const variance = alpha ** 2 * part.std ** 2 + sigma ** 2;
          const away = value - alpha * part.mean;
          const density = (part.weight * Math.exp((-0.5 * away ** 2) / variance)) / Math.sqrt(variance);
          total += density;
          mean += density * (part.mean + ((alpha * part.std ** 2) / variance) * away);
        }
        return mean / total;
      }),
    ),
  { prediction: "x0" },
);

/** E[ε | x] of the mixture: for PNDM, which averages what a network says and not what it means. */
export const exactNoise: Denoiser = denoiser(
  async (x, _, at) => float32(x.shape, (await exactDenoiser(x, at.level, at)).noise),
  { prediction: "noise" },
);

/** The exact end of the probability-flow ODE for x at `from`. */
export function exactEnd(x: number, from: Level, to: Level): number {
  const share = below(x, from);
  let low = -50;
  let high = 50;
  for (let i = 0; i < 100; i++) {
    const middle = (low + high) / 2;
    if (below(middle, to) < share) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** P(X ≤ x) of the noised mixture. */
export function below(x: number, { alpha, sigma }: Level): number {
  return MIXTURE.reduce((sum, { weight, mean, std }) => {
    const deviation = Math.sqrt(alpha ** 2 * std ** 2 + sigma ** 2);
    return sum + weight * (1 - normalTail((x - alpha * mean) / deviation));
  }, 0);
}

type Run = (denoise: Denoiser, x: Samples, levels: readonly Level[]) => SamplerRun;

/** A solver as it is measured: which path it goes, its declared order, how it runs over levels. */
export interface MeasuredSolver {
  readonly name: string;
  readonly order: number;
  readonly path: "preserving" | "exploding" | "flow";
  readonly run: Run;
  /** Numbers of steps to measure at, in the place of those of the order. */
  readonly steps?: readonly number[];
}

const dpm =
  (order: number, of: "x0" | "noise", form: "midpoint" | "heun" = "midpoint"): Run =>
  (denoise, x, levels) =>
    dpmSolverMultistep(denoise, x, levels, { order, of, form });
const single =
  (order: number, form: "midpoint" | "heun", of: "x0" | "noise" = "x0"): Run =>
  (denoise, x, levels) =>
    dpmSolverSinglestep(denoise, x, levels, { orders: groupOrders(levels.length - 1, order, false, false), form, of });
const uni =
  (options: UnipcOptions): Run =>
  (denoise, x, levels) =>
    unipc(denoise, x, levels, { ...options, lowerOrderFinal: false });

/** Every deterministic solver and the order it declares. */
export const SOLVERS: readonly MeasuredSolver[] = [
  { name: "Euler", order: 1, path: "exploding", run: (d, x, l) => ddim(d, x, stepsBetween(l)) },
  { name: "DDIM", order: 1, path: "preserving", run: (d, x, l) => ddim(d, x, stepsBetween(l)) },
  { name: "Euler, flow matching", order: 1, path: "flow", run: (d, x, l) => ddim(d, x, stepsBetween(l)) },
  { name: "Heun", order: 2, path: "exploding", run: (d, x, l) => heun(d, x, stepsBetween(l)) },
  { name: "Heun, flow matching", order: 2, path: "flow", run: (d, x, l) => heun(d, x, stepsBetween(l)) },
  {
    name: "DPM2 (midpoint)",
    order: 2,
    path: "exploding",
    run: (d, x, l) => midpoint(d, x, stepsBetween(l).map(withMiddle)),
  },
  { name: "LMS 2", order: 2, path: "exploding", run: (d, x, l) => linearMultistep(d, x, l, { order: 2 }) },
  { name: "LMS 3", order: 3, path: "exploding", run: (d, x, l) => linearMultistep(d, x, l, { order: 3 }) },
  { name: "LMS 4", order: 4, path: "exploding", run: (d, x, l) => linearMultistep(d, x, l, { order: 4 }) },
  { name: "PLMS", order: 2, path: "preserving", run: (_, x, l) => pndm(exactNoise, x, stepsBetween(l)) },
  { name: "PNDM, Runge–Kutta start", order: 2, path: "preserving", run: withRungeKutta },
  { name: "Improved PNDM", order: 2, path: "preserving", run: (d, x, l) => improvedPndm(d, x, stepsBetween(l)) },
  { name: "DPM-Solver++ 1", order: 1, path: "preserving", run: dpm(1, "x0") },
  { name: "DPM-Solver++ 2M", order: 2, path: "preserving", run: dpm(2, "x0") },
  { name: "DPM-Solver++ 2M, heun form", order: 2, path: "preserving", run: dpm(2, "x0", "heun") },
  { name: "DPM-Solver++ 2M, flow matching", order: 2, path: "flow", run: dpm(2, "x0") },
  { name: "DPM-Solver++ 3M", order: 3, path: "preserving", run: dpm(3, "x0") },
  {
    name: "DPM-Solver++ 3M, as published",
    order: 2,
    path: "preserving",
    run: (d, x, l) => dpmSolverMultistep(d, x, l, { order: 3, asPublished: true }),
  },
  { name: "DPM-Solver 2M", order: 2, path: "preserving", run: dpm(2, "noise") },
  { name: "DPM-Solver 3M", order: 3, path: "preserving", run: dpm(3, "noise") },
  { name: "DPM-Solver++ 2S", order: 2, path: "preserving", run: single(2, "midpoint") },
  { name: "DPM-Solver++ 3S", order: 3, path: "preserving", run: single(3, "heun") },
  { name: "DPM-Solver 2S", order: 2, path: "preserving", run: single(2, "midpoint", "noise") },
  { name: "DPM-Solver 3S", order: 3, path: "preserving", run: single(3, "heun", "noise") },
  { name: "DEIS 1", order: 1, path: "preserving", run: (d, x, l) => deis(d, x, l, { order: 1 }) },
  { name: "DEIS 2", order: 2, path: "preserving", run: (d, x, l) => deis(d, x, l, { order: 2 }) },
  { name: "DEIS 3", order: 3, path: "preserving", run: (d, x, l) => deis(d, x, l, { order: 3 }) },
  // The corrector makes each of one order more. The errors of the last are those of float32 from a hundred steps on.
  { name: "UniPC 1", order: 2, path: "preserving", run: uni({ order: 1 }) },
  { name: "UniPC 2, bh1", order: 3, path: "preserving", run: uni({ order: 2, form: "bh1" }) },
  { name: "UniPC 2, bh2", order: 3, path: "preserving", run: uni({ order: 2 }) },
  { name: "UniPC 2, noise prediction", order: 3, path: "preserving", run: uni({ order: 2, of: "noise" }) },
  { name: "UniPC 3, bh1", order: 4, path: "preserving", run: uni({ order: 3, form: "bh1" }), steps: [30, 42, 60] },
  { name: "UniPC 3, bh2", order: 4, path: "preserving", run: uni({ order: 3 }), steps: [30, 42, 60] },
  {
    name: "SA-Solver 2, 2, without noise",
    order: 2,
    path: "preserving",
    run: (d, x, l) => saSolver(d, x, l, { tau: () => 0, noise: zeroNoise, lowerOrderFinal: false }),
  },
];

/** The errors of a solver at its end for growing numbers of steps, and their slope: the measured order. */
export interface MeasuredOrder {
  readonly points: readonly { readonly steps: number; readonly error: number }[];
  readonly order: number;
}

/** Measures a solver from σ = 80 to 0.05 per unit of signal, on levels even in the logarithm of σ.
 *
 * A start in nearly pure noise keeps small what multistep solvers lose in their first steps of lower order. */
export async function measureOrder(
  solver: MeasuredSolver,
  stepCounts: readonly number[] = solver.steps ?? STEPS[solver.order]!,
  largest = 80,
): Promise<MeasuredOrder> {
  const points: { steps: number; error: number }[] = [];
  for (const steps of stepCounts) {
    const levels = linspace(Math.log(largest), Math.log(0.05), steps + 1).map((log) =>
      levelAt(solver.path, Math.exp(log)),
    );
    const start = levels[0]!;
    const size = Math.hypot(start.alpha, start.sigma);
    const x = float32(
      [1, 41],
      linspace(-2, 2, 41).map((value) => value * size),
    );
    const end = await finished(solver.run(exactDenoiser, x, levels), x);
    const squares = [...end.data].map((value, i) => (value - exactEnd(x.data[i]!, start, levels[steps]!)) ** 2);
    points.push({ steps, error: Math.sqrt(squares.reduce((sum, square) => sum + square, 0) / squares.length) });
  }
  const logs = points.map(({ steps, error }) => [Math.log(steps), Math.log(error)] as const);
  const mean = (k: 0 | 1) => logs.reduce((sum, point) => sum + point[k], 0) / logs.length;
  const [mx, my] = [mean(0), mean(1)];
  const over = logs.reduce((sum, [a, b]) => sum + (a - mx) * (b - my), 0);
  const under = logs.reduce((sum, [a]) => sum + (a - mx) ** 2, 0);
  return { points, order: -over / under };
}

/** Where the errors have settled into their order and float32 does not yet show; whole groups of singlestep solvers. */
const STEPS: Readonly<Record<number, readonly number[]>> = {
  1: [96, 192, 384],
  2: [60, 90, 138],
  3: [90, 120, 162],
  4: [110, 140, 180],
};

const zeroNoise = (shape: readonly number[]) => float32(shape, new Float32Array(shape.reduce((a, b) => a * b, 1)));

function levelAt(path: MeasuredSolver["path"], ratio: number): Level {
  return path === "flow" ? levelOfSigma("flow", ratio / (1 + ratio), 0) : levelOfSigma(path, ratio, 0);
}

/** PNDM with three Runge–Kutta steps first, their middle halfway in log σ. */
function withRungeKutta(_: Denoiser, x: Samples, levels: readonly Level[]): SamplerRun {
  const steps = stepsBetween(levels);
  const start = steps.slice(0, 3).map(({ from, to }): PndmStart => {
    const middle = levelAt("preserving", Math.sqrt((from.sigma * to.sigma) / (from.alpha * to.alpha)));
    return { from, calls: [0, 0, 0, 0], targets: [middle, middle, to, to] };
  });
  return pndm(exactNoise, x, steps.slice(3), { start });
}

function withMiddle({ from, to }: Step) {
  const sigma = Math.sqrt(from.sigma * ancestralSplit(from, to, 0).down);
  return { from, to, middle: levelOfSigma("exploding", sigma, 0) };
}
