import {
  add,
  div,
  exp,
  logSoftmax,
  matmul,
  minimum,
  mul,
  sqrt,
  sum,
  sumSquares,
  type Tensor,
  transpose,
  values,
} from "../graph/index.ts";

/** The largest factor that similarities are multiplied with before the softmax (Radford et al. 2021, section 2.5). */
export const LARGEST_LOGIT_SCALE = 100;

/** Vectors of unit length: [n, width] → [n, width]. */
export function unitLength(x: Tensor, epsilon = 1e-12): Tensor {
  return div(x, sqrt(add(sumSquares(x, -1, { keepDims: true }), epsilon)));
}

/**
 * The symmetric contrastive loss of CLIP (Radford et al. 2021, figure 3): with the similarities
 *   S = min(eˢ, 100) · a bᵀ,
 * the mean of the cross-entropies that pick the right column of each row and the right row of each column, where a and b
 * belong together row by row.
 *
 * @param a [n, width] of unit length
 * @param b [n, width] of unit length
 * @param logScale s, the logarithm of the inverse temperature: a scalar
 * @returns a scalar; ln n where nothing is told apart
 */
export function contrastiveLoss(a: Tensor, b: Tensor, logScale: Tensor): Tensor {
  const n = a.shape[0]!;
  const scale = minimum(exp(logScale), LARGEST_LOGIT_SCALE);
  const similarities = mul(matmul(a, b, { transB: true }), scale);
  const identity = new Float32Array(n * n);
  for (let i = 0; i < n; i++) identity[i * n + i] = 1;
  const right = values([n, n], identity);
  const logLikelihood = add(logSoftmax(similarities), logSoftmax(transpose(similarities, [1, 0])));
  return mul(sum(mul(logLikelihood, right)), -0.5 / n);
}
