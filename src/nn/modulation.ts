import { add, chunk, mul, reshape, silu, type Tensor } from "../graph/index.ts";
import { type LayerInitial, layerNorm, linear } from "./layers.ts";
import { module } from "./module.ts";

/** x·(1 + scale) + shift for tokens x [n, tokens, width]; scale and shift [n, 1, width]. */
export function modulate(x: Tensor, shift: Tensor, scale: Tensor): Tensor {
  return add(mul(x, add(scale, 1)), shift);
}

/** [n, count·width] as `count` tensors that stand for all tokens of a sample: [n, 1, width] each. */
export function perToken(x: Tensor, count: number): readonly Tensor[] {
  const [n, width] = x.shape as [number, number];
  return chunk(reshape(x, [n, 1, width]), count, 2);
}

/**
 * What adaptive normalization (Peebles & Xie 2023, adaLN) makes of an embedding [n, inputs]: `count` shifts, scales and
 * gates, [n, 1, width] each. With `initial` "zero" (adaLN-zero) each block starts as the identity.
 */
export function modulation(
  inputs: number,
  width: number,
  count: number,
  { initial }: { readonly initial?: LayerInitial } = {},
) {
  const parts = { linear: linear(inputs, count * width, { initial }) };
  return module(parts, (embedding: Tensor) => perToken(parts.linear(silu(embedding)), count));
}

/** The layer normalization that goes with it: no weights of its own. */
export function plainNorm(width: number) {
  return layerNorm(width, { affine: false, epsilon: 1e-6 });
}

/** Normalization with a scale and a shift from an embedding [n, inputs]: the last one of a transformer. */
export function modulatedNorm(inputs: number, width: number, { initial }: { readonly initial?: LayerInitial } = {}) {
  const parts = { linear: linear(inputs, 2 * width, { initial }) };
  const normalize = plainNorm(width);
  return module(parts, (x: Tensor, embedding: Tensor) => {
    const [scale, shift] = perToken(parts.linear(silu(embedding)), 2) as [Tensor, Tensor];
    return modulate(normalize(x), shift, scale);
  });
}
