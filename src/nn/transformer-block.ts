import { add, type Tensor } from "../graph/index.ts";
import { attention } from "./attention.ts";
import { feedForward } from "./feed-forward.ts";
import { layerNorm } from "./layers.ts";
import { module } from "./module.ts";

/** Options of a transformer block. */
export interface TransformerBlockOptions {
  readonly heads: number;
  readonly headWidth: number;
  /** Width of the sequence the second attention looks at; undefined: no second attention. */
  readonly contextWidth?: number;
  /** Both attentions look at the block's own sequence. */
  readonly doubleSelfAttention?: boolean;
  /** The first attention looks at the other sequence, too. */
  readonly onlyCrossAttention?: boolean;
  readonly act?: string;
  readonly attentionBias?: boolean;
  readonly epsilon?: number;
  readonly affine?: boolean;
}

/** What a block is given beside its tokens: another sequence [n, keys, contextWidth] and masks added to the scores. */
export interface TransformerInputs {
  readonly context?: Tensor;
  readonly mask?: Tensor;
  readonly contextMask?: Tensor;
  /** Is handed the weights [n, heads, queries, keys] of the attention to the context while the graph is built. */
  readonly onCrossAttention?: (weights: Tensor) => void;
}

/**
 * Self-attention, cross-attention and a feed-forward layer, each after a normalization and added to what came in (the
 * pre-norm form of Vaswani et al. 2017): tokens [n, tokens, width].
 */
export function transformerBlock(
  width: number,
  {
    heads,
    headWidth,
    contextWidth,
    doubleSelfAttention = false,
    onlyCrossAttention = false,
    act = "geglu",
    attentionBias = false,
    epsilon = 1e-5,
    affine = true,
  }: TransformerBlockOptions,
) {
  const common = { heads, headWidth, bias: attentionBias };
  const second = contextWidth !== undefined || doubleSelfAttention;
  const norm = () => layerNorm(width, { epsilon, affine });
  const parts = {
    norm1: norm(),
    attn1: attention(width, { ...common, contextWidth: onlyCrossAttention ? contextWidth : undefined }),
    norm2: second ? norm() : undefined,
    attn2: second
      ? attention(width, { ...common, contextWidth: doubleSelfAttention ? undefined : contextWidth })
      : undefined,
    norm3: norm(),
    ff: feedForward(width, { act }),
  };
  return module(parts, (x: Tensor, { context, mask, contextMask, onCrossAttention }: TransformerInputs = {}) => {
    const { norm1, attn1, norm2, attn2, norm3, ff } = parts;
    let h = add(attn1(norm1(x), { context: onlyCrossAttention ? context : undefined, mask }), x);
    if (attn2 && norm2) {
      const crossed = doubleSelfAttention ? {} : { context, onWeights: onCrossAttention };
      h = add(attn2(norm2(h), { ...crossed, mask: contextMask }), h);
    }
    return add(ff(norm3(h)), h);
  });
}
