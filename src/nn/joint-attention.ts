import { concat, split, type Tensor } from "../graph/index.ts";
import { attend, joinHeads, type QueryKeyNorm, queryKeyNorm, splitHeads } from "./attention.ts";
import { type LayerInitial, linear } from "./layers.ts";
import { module } from "./module.ts";
import { type Rotation, rotate } from "./rotary.ts";

/** Options of attention over two sequences at once. */
export interface JointAttentionOptions {
  readonly heads: number;
  readonly headWidth: number;
  /** A second sequence takes part, with projections of its own. */
  readonly context?: boolean;
  /** The second sequence gets a result, too. */
  readonly contextOutput?: boolean;
  /** The second sequence stands before the first. */
  readonly contextFirst?: boolean;
  /** A last linear layer. */
  readonly output?: boolean;
  readonly qkNorm?: QueryKeyNorm;
  /** How the layers start. */
  readonly initial?: LayerInitial;
}

/**
 * Attention over the tokens of two sequences together, each with its own projections (Esser et al. 2024, section 4,
 * MM-DiT): x [n, tokens, width], context [n, others, width].
 */
export function jointAttention(
  width: number,
  {
    heads,
    headWidth,
    context: joint = true,
    contextOutput = joint,
    contextFirst = false,
    output = true,
    qkNorm,
    initial,
  }: JointAttentionOptions,
) {
  const inner = heads * headWidth;
  const norm = (wanted: boolean) => (wanted ? queryKeyNorm(qkNorm, headWidth, 1e-6) : undefined);
  const projection = (wanted: boolean) => (wanted ? linear(width, inner, { initial }) : undefined);
  const parts = {
    norm_q: norm(true),
    norm_k: norm(true),
    norm_added_q: norm(joint),
    norm_added_k: norm(joint),
    to_q: linear(width, inner, { initial }),
    to_k: linear(width, inner, { initial }),
    to_v: linear(width, inner, { initial }),
    add_q_proj: projection(joint),
    add_k_proj: projection(joint),
    add_v_proj: projection(joint),
    to_out: output ? ([linear(inner, width, { initial })] as const) : undefined,
    to_add_out: contextOutput ? linear(inner, width, { initial }) : undefined,
  };
  type Layer = ReturnType<typeof linear>;

  return module(parts, (x: Tensor, { context, rotation }: { context?: Tensor; rotation?: Rotation } = {}) => {
    const together = (
      own: Layer,
      added: Layer | undefined,
      norms: readonly (((x: Tensor) => Tensor) | undefined)[],
    ) => {
      const first = splitHeads(own(x), heads, norms[0]);
      if (!context || !added) return first;
      const second = splitHeads(added(context), heads, norms[1]);
      return concat(contextFirst ? [second, first] : [first, second], 2);
    };
    const q = together(parts.to_q, parts.add_q_proj, [parts.norm_q, parts.norm_added_q]);
    const k = together(parts.to_k, parts.add_k_proj, [parts.norm_k, parts.norm_added_k]);
    const v = together(parts.to_v, parts.add_v_proj, []);
    const turn = (y: Tensor) => (rotation ? rotate(y, rotation) : y);
    const attended = joinHeads(attend(turn(q), turn(k), v, { scale: 1 / Math.sqrt(headWidth) }));
    const finish = (y: Tensor) => parts.to_out?.[0](y) ?? y;
    if (!context) return { x: finish(attended), context: undefined };
    const sizes = [x.shape[1]!, context.shape[1]!];
    const cut = split(attended, contextFirst ? sizes.reverse() : sizes, 1);
    const [own, other] = (contextFirst ? [cut[1], cut[0]] : cut) as [Tensor, Tensor];
    return { x: finish(own), context: parts.to_add_out?.(other) };
  });
}
