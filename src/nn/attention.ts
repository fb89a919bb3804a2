import { invariant } from "../core/errors.ts";
import {
  add,
  attentionInPieces,
  concat,
  matmul,
  mul,
  reshape,
  slice,
  softmax,
  type Tensor,
  transpose,
} from "../graph/index.ts";
import { graphPurpose } from "./inference.ts";
import { groupNorm, type LayerInitial, layerNorm, linear, rmsNorm } from "./layers.ts";
import { module } from "./module.ts";

// ---- the product itself ----------------------------------------------------------------------------------------------

/** How scores become weights. */
export interface AttendOptions {
  /** Factor on q·k, usually 1/√d. */
  readonly scale: number;
  /** Added to the scores before the softmax; broadcasts to [n, heads, queries, keys]. */
  readonly mask?: Tensor;
  /** Is handed the weights [n, heads, queries, keys] while the graph is built. */
  readonly onWeights?: (weights: Tensor) => void;
}

/** Scores of fewer bytes are held whole: measured, that is as fast or faster. */
const FEW_SCORES = 32 * 2 ** 20;

/**
 * softmax(scale·QKᵀ + mask)·V (Vaswani et al. 2017, eq. 1) for each head: q [n, heads, queries, d], k and v
 * [n, heads, keys, d] → [n, heads, queries, d].
 *
 * Measured on ONNX Runtime's CPU provider: with tokens as columns, [n, heads, d, tokens], nothing needs to be transposed,
 * but the products take up to 1.7 times as long.
 */
export function attend(q: Tensor, k: Tensor, v: Tensor, { scale, mask, onWeights }: AttendOptions): Tensor {
  const [n, heads, queries] = q.shape as [number, number, number];
  const bytes = n * heads * queries * k.shape[2]! * 4;
  const { inference, scoreBytes } = graphPurpose();
  if (inference && !mask && !onWeights && bytes > FEW_SCORES) {
    return attentionInPieces(q, k, v, scale, scoreBytes);
  }
  const pieces = Math.min(queries, Math.ceil(bytes / scoreBytes));
  const seen: Tensor[] = [];
  const some = (rows: Tensor, bias?: Tensor) => {
    const scores = matmul(rows, k, { transB: true, alpha: scale });
    const weights = softmax(bias ? add(scores, bias) : scores);
    seen.push(weights);
    return matmul(weights, v);
  };
  const told = (result: Tensor) => {
    onWeights?.(concat(seen, 2));
    return result;
  };
  if (pieces <= 1) return told(some(q, mask));
  const size = Math.ceil(queries / pieces);
  const starts = Array.from({ length: Math.ceil(queries / size) }, (_, i) => i * size);
  const cut = (x: Tensor, start: number) => slice(x, 2, start, Math.min(start + size, queries));
  return told(
    concat(
      starts.map((start) => some(cut(q, start), mask && mask.shape.at(-2) === queries ? cut(mask, start) : mask)),
      2,
    ),
  );
}

/** [n, tokens, heads·d] → [n, heads, tokens, d]; `normalize` sees [n, tokens, heads, d]. */
export function splitHeads(x: Tensor, heads: number, normalize?: (x: Tensor) => Tensor): Tensor {
  const [n, tokens, width] = x.shape as [number, number, number];
  const cut = reshape(x, [n, tokens, heads, width / heads]);
  const normal = normalize ? normalize(cut) : cut;
  return heads === 1 ? reshape(normal, [n, 1, tokens, width]) : transpose(normal, [0, 2, 1, 3]);
}

/** [n, heads, tokens, d] → [n, tokens, heads·d]. */
export function joinHeads(x: Tensor): Tensor {
  const [n, heads, tokens, d] = x.shape as [number, number, number, number];
  return reshape(heads === 1 ? x : transpose(x, [0, 2, 1, 3]), [n, tokens, heads * d]);
}

/** A mask as diffusers takes it, [n, keys] or [n, queries or 1, keys], made to fit [n, heads, queries, keys]. */
function spreadMask(mask: Tensor): Tensor {
  if (mask.shape.length === 2) return reshape(mask, [mask.shape[0]!, 1, 1, mask.shape[1]!]);
  return mask.shape.length === 3 ? reshape(mask, [mask.shape[0]!, 1, ...mask.shape.slice(1)]) : mask;
}

// ---- the layer -------------------------------------------------------------------------------------------------------

/** Normalization of each head's queries and keys. */
export type QueryKeyNorm = "layer_norm" | "rms_norm";

/** Options of an attention layer. */
export interface AttentionOptions {
  readonly heads: number;
  readonly headWidth: number;
  /** Width of the sequence that keys and values come from; undefined: the queries' own sequence. */
  readonly contextWidth?: number;
  readonly bias?: boolean;
  readonly outBias?: boolean;
  /** Groups of a normalization before everything else. */
  readonly normGroups?: number;
  readonly epsilon?: number;
  readonly qkNorm?: QueryKeyNorm;
  /** The input is added to the result. */
  readonly residual?: boolean;
  /** The result is divided by this. */
  readonly rescale?: number;
  /** Normalization of the sequence that keys and values come from. */
  readonly contextNorm?: "layer_norm" | "group_norm";
  /** Width of a second sequence whose projected keys and values are put before the layer's own. */
  readonly addedWidth?: number;
  /** With `addedWidth`: only the second sequence is attended to. */
  readonly onlyAdded?: boolean;
  /** Scores are divided by the square root of the head's width. */
  readonly scaled?: boolean;
  /** How the layers start, and the last of them where it starts otherwise. */
  readonly initial?: LayerInitial;
  readonly outInitial?: LayerInitial;
}

/** What an attention layer is given beside its own sequence. */
export interface AttentionInputs extends Pick<AttendOptions, "mask" | "onWeights"> {
  readonly context?: Tensor;
}

/**
 * Multi-head attention as diffusers' `Attention`: x is tokens [n, tokens, width] or an image [n, width, h, w] (every
 * pixel a token); `context` [n, keys, contextWidth]; `mask` is added to the scores: [n, keys] or [n, queries, keys];
 * `onWeights` is handed what the softmax gives.
 * The result has the layout of x.
 */
export function attention(
  width: number,
  {
    heads,
    headWidth,
    contextWidth,
    bias = false,
    outBias = true,
    normGroups,
    epsilon = 1e-5,
    qkNorm,
    residual = false,
    rescale = 1,
    contextNorm,
    addedWidth,
    onlyAdded = false,
    scaled = true,
    initial,
    outInitial = initial,
  }: AttentionOptions,
) {
  const inner = heads * headWidth;
  const keyWidth = contextWidth ?? width;
  const norm = () => queryKeyNorm(qkNorm, headWidth, epsilon);
  const parts = {
    group_norm: normGroups === undefined ? undefined : groupNorm(normGroups, width, { epsilon }),
    norm_q: norm(),
    norm_k: norm(),
    norm_cross:
      contextNorm === undefined
        ? undefined
        : contextNorm === "layer_norm"
          ? layerNorm(keyWidth)
          : groupNorm(32, addedWidth ?? keyWidth),
    to_q: linear(width, inner, { bias, initial }),
    to_k: onlyAdded ? undefined : linear(keyWidth, inner, { bias, initial }),
    to_v: onlyAdded ? undefined : linear(keyWidth, inner, { bias, initial }),
    add_k_proj: addedWidth === undefined ? undefined : linear(addedWidth, inner, { initial }),
    add_v_proj: addedWidth === undefined ? undefined : linear(addedWidth, inner, { initial }),
    to_out: [linear(inner, width, { bias: outBias, initial: outInitial })] as const,
  };

  return module(parts, (x: Tensor, { context, mask, onWeights }: AttentionInputs = {}) => {
    const own = tokensOf(x);
    const given = context && normalizeContext(context);
    const source = addedWidth === undefined ? (given ?? own) : own;
    const { norm_q, norm_k, to_q, to_k, to_v, add_k_proj, add_v_proj } = parts;
    const q = splitHeads(to_q(own), heads, norm_q);
    const k = splitHeads(oneAfterTheOther(given && add_k_proj?.(given), to_k?.(source)), heads, norm_k);
    const v = splitHeads(oneAfterTheOther(given && add_v_proj?.(given), to_v?.(source)), heads);
    const scale = scaled ? 1 / Math.sqrt(headWidth) : 1;
    const attended = joinHeads(attend(q, k, v, { scale, mask: mask && spreadMask(mask), onWeights }));
    const out = parts.to_out[0](attended);
    const result = x.shape.length === 4 ? reshape(transpose(out, [0, 2, 1]), x.shape) : out;
    const sum = residual ? add(result, x) : result;
    return rescale === 1 ? sum : mul(sum, 1 / rescale);
  });

  /** The input as tokens [n, tokens, width], its channels normalized where asked for. */
  function tokensOf(x: Tensor): Tensor {
    const image = x.shape.length === 4;
    if (!parts.group_norm) return image ? toTokens(x) : x;
    if (image) return toTokens(parts.group_norm(x));
    return transpose(parts.group_norm(transpose(x, [0, 2, 1])), [0, 2, 1]);
  }

  function normalizeContext(context: Tensor): Tensor {
    if (!parts.norm_cross) return context;
    if (contextNorm === "layer_norm") return parts.norm_cross(context);
    return transpose(parts.norm_cross(transpose(context, [0, 2, 1])), [0, 2, 1]);
  }
}

/** An image [n, c, h, w] as tokens [n, h·w, c]. */
export function toTokens(x: Tensor): Tensor {
  const [n, c, h, w] = x.shape as [number, number, number, number];
  return transpose(reshape(x, [n, c, h * w]), [0, 2, 1]);
}

function oneAfterTheOther(first: Tensor | undefined, second: Tensor | undefined): Tensor {
  if (first && second) return concat([first, second], 1);
  const only = first ?? second;
  invariant(only, "an attention layer has no keys");
  return only;
}

/** The normalization of queries or keys that a network asks for. */
export function queryKeyNorm(kind: QueryKeyNorm | undefined, width: number, epsilon: number) {
  if (kind === undefined) return undefined;
  return kind === "rms_norm" ? rmsNorm(width, { epsilon }) : layerNorm(width, { epsilon });
}
