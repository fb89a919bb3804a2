import { add, div, mul, type Operand, sqrt, sub, type Tensor } from "../graph/index.ts";

/** AdamW's numbers that stay the same during a run. */
export interface AdamWOptions {
  /** Decay of the running mean of gradients. */
  readonly beta1?: number;
  /** Decay of the running mean of squared gradients. */
  readonly beta2?: number;
  readonly epsilon?: number;
  /** Decoupled weight decay: a step first shrinks the parameters by lr · weightDecay. */
  readonly weightDecay?: number;
}

/** The same for the graph, where the decays may be read at every run. */
export interface AdamWGraphOptions extends Omit<AdamWOptions, "beta1" | "beta2"> {
  readonly beta1?: Operand;
  readonly beta2?: Operand;
}

const complement = (decay: Operand): Operand => (typeof decay === "number" ? 1 - decay : sub(1, decay));

/** Parameters with their running moments; all of one shape. */
export interface AdamWState {
  readonly parameters: Tensor;
  readonly mean: Tensor;
  readonly square: Tensor;
}

/** The scalars that change from step to step, as tensors of shape []. See `adamwScalars`. */
export interface AdamWScalars {
  readonly rate: Tensor;
  /** 1 / √(1 − β₂ⁿ) */
  readonly correction: Tensor;
  /** lr / (1 − β₁ⁿ) */
  readonly correctedRate: Tensor;
}

/**
 * One step of AdamW (Loshchilov & Hutter 2019, Algorithm 2) as torch.optim.AdamW computes it:
 *   m ← β₁m + (1 − β₁)g,  v ← β₂v + (1 − β₂)g²,
 *   θ ← θ(1 − lr·λ) − lr/(1 − β₁ⁿ) · m / (√v/√(1 − β₂ⁿ) + ε).
 */
export function adamw(
  { parameters, mean, square }: AdamWState,
  gradient: Tensor,
  { rate, correction, correctedRate }: AdamWScalars,
  { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0.01 }: AdamWGraphOptions = {},
): AdamWState {
  const nextMean = add(mul(mean, beta1), mul(gradient, complement(beta1)));
  const nextSquare = add(mul(square, beta2), mul(mul(gradient, gradient), complement(beta2)));
  const root = add(mul(sqrt(nextSquare), correction), epsilon);
  const shrunk = weightDecay === 0 ? parameters : mul(parameters, sub(1, mul(rate, weightDecay)));
  return {
    parameters: sub(shrunk, div(mul(nextMean, correctedRate), root)),
    mean: nextMean,
    square: nextSquare,
  };
}

/** The values of AdamW's changing scalars at step n, counted from 1, with learning rate `rate`. */
export function adamwScalars(n: number, rate: number, { beta1 = 0.9, beta2 = 0.999 }: AdamWOptions = {}) {
  return { rate, correction: 1 / Math.sqrt(1 - beta2 ** n), correctedRate: rate / (1 - beta1 ** n) };
}
