import { invariant } from "../core/errors.ts";
import { add, concat, matmul, mul, reshape, softmax, type Tensor, transpose } from "../graph/index.ts";
import { groupNorm, layerNorm, linear, rmsNorm } from "./layers.ts";
import { module } from "./module.ts";

// ---- the product itself ----------------------------------------------------------------------------------------------

interface AttendOptions {
  /** Factor on q·k, usually 1/√d. */
  readonly scale: number;
  /** Added to the scores before the softmax; broadcasts to [n, heads, queries, keys]. */
  readonly mask?: Tensor;
}

/**
 * softmax(scale·QKᵀ + mask)·V (Vaswani et al. 2017, eq. 1) for each head, with tokens as columns: q [n, heads, d,
 * queries], k and v [n, heads, d, keys] → [n, heads, d, queries]. Channels come out of a projection in this order, so
 * neither images nor tokens are transposed; the products read their operands as they lie.
 */
export function attendColumns(q: Tensor, k: Tensor, v: Tensor, { scale, mask }: AttendOptions): Tensor {
  const scores = matmul(q, k, { transA: true, alpha: scale });
  return matmul(v, softmax(mask ? add(scores, mask) : scores), { transB: true });
}

/** The same with tokens as rows: q [n, heads, queries, d], k and v [n, heads, keys, d] → [n, heads, queries, d]. */
export function attendRows(q: Tensor, k: Tensor, v: Tensor, { scale, mask }: AttendOptions): Tensor {
  const scores = matmul(q, k, { transB: true, alpha: scale });
  return matmul(softmax(mask ? add(scores, mask) : scores), v);
}

/** [n, tokens, heads·d] → [n, heads, tokens, d]. */
export function splitHeads(x: Tensor, heads: number): Tensor {
  const [n, tokens, width] = x.shape as [number, number, number];
  return transpose(reshape(x, [n, tokens, heads, width / heads]), [0, 2, 1, 3]);
}

/** [n, heads, tokens, d] → [n, tokens, heads·d]. */
export function joinHeads(x: Tensor): Tensor {
  const [n, heads, tokens, d] = x.shape as [number, number, number, number];
  return reshape(transpose(x, [0, 2, 1, 3]), [n, tokens, heads * d]);
}

/** A mask as diffusers takes it, [n, keys] or [n, queries or 1, keys], made to fit [n, heads, queries, keys]. */
export function spreadMask(mask: Tensor): Tensor {
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
}

/**
 * Multi-head attention as diffusers' `Attention`: x is tokens [n, tokens, width] or an image [n, width, h, w] (every
 * pixel a token); `context` [n, keys, contextWidth]; `mask` is added to the scores: [n, keys] or [n, queries, keys].
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
    to_q: linear(width, inner, { bias }),
    to_k: onlyAdded ? undefined : linear(keyWidth, inner, { bias }),
    to_v: onlyAdded ? undefined : linear(keyWidth, inner, { bias }),
    add_k_proj: addedWidth === undefined ? undefined : linear(addedWidth, inner),
    add_v_proj: addedWidth === undefined ? undefined : linear(addedWidth, inner),
    to_out: [linear(inner, width, { bias: outBias })] as const,
  };

  return module(parts, (x: Tensor, { context, mask }: { context?: Tensor; mask?: Tensor } = {}) => {
    const image = x.shape.length === 4;
    const normal = parts.group_norm ? normalizeChannels(x, parts.group_norm) : x;
    const own: Sequence = image
      ? { columns: reshape(normal, [x.shape[0]!, width, x.shape[2]! * x.shape[3]!]) }
      : { rows: normal };
    const given = context && { rows: normalizeContext(context) };
    const source = addedWidth === undefined ? (given ?? own) : own;

    const projected = (layer: Linear | undefined, from: Sequence) => layer && project(layer, from);
    const q = project(parts.to_q, own);
    const k = sequence(given && projected(parts.add_k_proj, given), projected(parts.to_k, source));
    const v = sequence(given && projected(parts.add_v_proj, given), projected(parts.to_v, source));

    const options = { scale: scaled ? 1 / Math.sqrt(headWidth) : 1, mask: mask && spreadMask(mask) };
    const attended = attend(q, k, v, options); // [n, inner, queries]
    const [out] = parts.to_out;
    const projectedBack = image
      ? reshape(project(out, { columns: attended }), x.shape)
      : rowsFromColumns(out, attended);
    const sum = residual ? add(projectedBack, x) : projectedBack;
    return rescale === 1 ? sum : mul(sum, 1 / rescale);
  });

  function attend(q: Tensor, k: Tensor, v: Tensor, options: AttendOptions): Tensor {
    const byHead = (y: Tensor) => reshape(y, [y.shape[0]!, heads, headWidth, y.shape[2]!]);
    const { norm_q, norm_k } = parts;
    const result =
      norm_q && norm_k
        ? attendColumns(normalizeHead(byHead(q), norm_q), normalizeHead(byHead(k), norm_k), byHead(v), options)
        : attendColumns(byHead(q), byHead(k), byHead(v), options);
    return reshape(result, [q.shape[0]!, inner, q.shape[2]!]);
  }

  function normalizeContext(context: Tensor): Tensor {
    if (!parts.norm_cross) return context;
    if (contextNorm === "layer_norm") return parts.norm_cross(context);
    return transpose(parts.norm_cross(transpose(context, [0, 2, 1])), [0, 2, 1]);
  }
}

type Linear = ReturnType<typeof linear>;
type Norm = (x: Tensor) => Tensor;

/** Tokens as rows [n, tokens, width] or as columns [n, width, tokens]. */
export type Sequence = { readonly rows: Tensor } | { readonly columns: Tensor };

/** A linear layer whose result has tokens as columns: [n, outputs, tokens]. */
export function project({ parts: { weight, bias } }: Linear, from: Sequence): Tensor {
  const product =
    "rows" in from ? matmul(weight.tensor, from.rows, { transB: true }) : matmul(weight.tensor, from.columns);
  return bias ? add(product, reshape(bias.tensor, [bias.shape[0]!, 1])) : product;
}

/** A linear layer from columns [n, inputs, tokens] to rows [n, tokens, outputs]. */
export function rowsFromColumns({ parts: { weight, bias } }: Linear, columns: Tensor): Tensor {
  const product = matmul(columns, weight.tensor, { transA: true, transB: true });
  return bias ? add(product, bias.tensor) : product;
}

/** One sequence of columns after the other. */
function sequence(first: Tensor | undefined, second: Tensor | undefined): Tensor {
  if (first && second) return concat([first, second], 2);
  const only = first ?? second;
  invariant(only, "an attention layer has no keys");
  return only;
}

/** Group normalization of an image's or, with tokens as rows, a sequence's channels. */
function normalizeChannels(x: Tensor, norm: Norm): Tensor {
  return x.shape.length === 4 ? norm(x) : transpose(norm(transpose(x, [0, 2, 1])), [0, 2, 1]);
}

/** Normalization over d of [n, heads, d, tokens]. */
function normalizeHead(x: Tensor, norm: Norm): Tensor {
  return transpose(norm(transpose(x, [0, 1, 3, 2])), [0, 1, 3, 2]);
}

/** The normalization of queries or keys that a network asks for. */
export function queryKeyNorm(kind: QueryKeyNorm | undefined, width: number, epsilon: number) {
  if (kind === undefined) return undefined;
  return kind === "rms_norm" ? rmsNorm(width, { epsilon }) : layerNorm(width, { epsilon });
}
