import { add, concat, div, minimum, mul, split, sqrt, sumSquares, type Tensor } from "../graph/index.ts";

/**
 * The gradient scaled down so that its norm is at most `limit`: times limit/(norm + 1e-6) where that is below 1, as
 * torch.nn.utils.clip_grad_norm_ (Pascanu et al. 2013).
 * @param sizes lengths of parts of the vector that are clipped each by its own norm; all of it is one part when left out
 * @returns the clipped gradient and the norm before, of all parts
 */
export function clipByNorm(
  gradient: Tensor,
  limit: number,
  sizes: readonly number[] = [],
): { readonly clipped: Tensor; readonly norm: Tensor } {
  if (sizes.length > 1) {
    const parts = split(gradient, sizes, 0).map((part) => clipByNorm(part, limit));
    const squares = parts.map(({ norm }) => mul(norm, norm)).reduce(add);
    return {
      clipped: concat(
        parts.map(({ clipped }) => clipped),
        0,
      ),
      norm: sqrt(squares),
    };
  }
  const norm = sqrt(sumSquares(gradient));
  return { clipped: mul(gradient, minimum(div(limit, add(norm, 1e-6)), 1)), norm };
}
