import { add, reshape, type Tensor, transpose } from "../graph/index.ts";
import { toTokens } from "./attention.ts";
import { conv2d, groupNorm, type LayerInitial, linear } from "./layers.ts";
import { module } from "./module.ts";
import { type TransformerBlockOptions, type TransformerInputs, transformerBlock } from "./transformer-block.ts";

/** Options of the transformer over pixels. */
export interface Transformer2DOptions extends TransformerBlockOptions {
  readonly layers?: number;
  readonly groups?: number;
  /** Projects in and out by linear layers on tokens instead of 1×1 convolutions on the image; only weights differ. */
  readonly linearProjection?: boolean;
  /** How the projection out starts: with "zero" it all starts as the identity. */
  readonly outInitial?: LayerInitial;
}

/**
 * Transformer blocks over the pixels of an image [n, channels, h, w], added to it (Rombach et al. 2022, section 3.3).
 * Weights of the attention to a context are handed out as [n, heads, h, w, keys].
 */
export function transformer2d(
  channels: number,
  { layers = 1, groups = 32, linearProjection = false, outInitial, ...block }: Transformer2DOptions,
) {
  const inner = block.heads * block.headWidth;
  const projection = (from: number, to: number, initial?: LayerInitial) =>
    linearProjection ? linear(from, to, { initial }) : conv2d(from, to, { kernel: 1, initial });
  const parts = {
    norm: groupNorm(groups, channels, { epsilon: 1e-6 }),
    proj_in: projection(channels, inner),
    transformer_blocks: Array.from({ length: layers }, () => transformerBlock(inner, block)),
    proj_out: projection(inner, channels, outInitial),
  };
  return module(parts, (x: Tensor, inputs: TransformerInputs = {}) => {
    const { norm, proj_in, transformer_blocks, proj_out } = parts;
    const [n, , h, w] = x.shape as [number, number, number, number];
    const normal = norm(x);
    let tokens = linearProjection ? proj_in(toTokens(normal)) : toTokens(proj_in(normal));
    const { onCrossAttention } = inputs;
    const given = onCrossAttention && {
      ...inputs,
      onCrossAttention: (weights: Tensor) => {
        const [, heads, , keys] = weights.shape as [number, number, number, number];
        onCrossAttention(reshape(weights, [n, heads, h, w, keys]));
      },
    };
    for (const each of transformer_blocks) tokens = each(tokens, given ?? inputs);
    const image = (y: Tensor) => reshape(transpose(y, [0, 2, 1]), [n, y.shape[2]!, h, w]);
    return add(linearProjection ? image(proj_out(tokens)) : proj_out(image(tokens)), x);
  });
}
