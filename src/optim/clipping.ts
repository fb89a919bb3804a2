import { add, div, minimum, mul, sqrt, sumSquares, type Tensor } from "../graph/index.ts";

/**
 * The gradient scaled down so that its norm is at most `limit`: times limit/(norm + 1e-6) where that is below 1, as
 * torch.nn.utils.clip_grad_norm_ (Pascanu et al. 2013).
 * @returns the clipped gradient and the norm before
 */
export function clipByNorm(gradient: Tensor, limit: number): { readonly clipped: Tensor; readonly norm: Tensor } {
  const norm = sqrt(sumSquares(gradient));
  return { clipped: mul(gradient, minimum(div(limit, add(norm, 1e-6)), 1)), norm };
}
