import { add, concat, cos, mul, neg, reshape, sin, slice, split, type Tensor, values } from "../graph/index.ts";

/** Cosines and sines of each token's angles, [tokens, d/2] each. */
export interface Rotation {
  readonly cos: Tensor;
  readonly sin: Tensor;
}

/**
 * The rotations of tokens that have a position along several axes (Su et al. 2021, RoPE): positions [tokens, axes] as
 * float32; axis i turns `widths[i]` channels, two by two, at frequencies base^(−2k/width).
 */
export function rotationsOf(positions: Tensor, widths: readonly number[], { base = 10_000 } = {}): Rotation {
  const angles = widths.map((width, axis) => {
    const half = width / 2;
    const frequencies = Float32Array.from({ length: half }, (_, k) => base ** ((-2 * k) / width));
    return mul(slice(positions, 1, axis, axis + 1), values([1, half], frequencies)); // [tokens, half]
  });
  const all = concat(angles, 1);
  return { cos: cos(all), sin: sin(all) };
}

/** Turns neighbouring pairs of channels of x [n, heads, tokens, d]. */
export function rotate(x: Tensor, rotation: Rotation): Tensor {
  const [n, heads, tokens, d] = x.shape as [number, number, number, number];
  const [real, imaginary] = split(reshape(x, [n, heads, tokens, d / 2, 2]), [1, 1], 4) as [Tensor, Tensor];
  const c = reshape(rotation.cos, [tokens, d / 2, 1]);
  const s = reshape(rotation.sin, [tokens, d / 2, 1]);
  const turned = concat([add(mul(real, c), neg(mul(imaginary, s))), add(mul(imaginary, c), mul(real, s))], 4);
  return reshape(turned, x.shape);
}
