import { z } from "zod";
import { UserError } from "../core/errors.ts";
import {
  add,
  argMax,
  cast,
  equal,
  matmul,
  minimum,
  mul,
  oneHot,
  reshape,
  slice,
  sub,
  type Tensor,
  values,
} from "../graph/index.ts";
import { activation } from "../nn/activation.ts";
import { attend, joinHeads, splitHeads } from "../nn/attention.ts";
import { embedding, layerNorm, linear } from "../nn/layers.ts";
import { group, module, namedParameters } from "../nn/module.ts";
import { type Config, count, layerCount, number, readConfig, savedTextConfig } from "./config.ts";
import { bookkeeping, checkTextClass } from "./text-encoder-config.ts";

const fields = {
  ...bookkeeping,
  vocab_size: count().default(49408),
  hidden_size: count().default(512),
  intermediate_size: count().default(2048),
  projection_dim: count().default(512),
  num_hidden_layers: layerCount().default(12),
  num_attention_heads: count().default(8),
  max_position_embeddings: count().default(77),
  hidden_act: z.string().default("quick_gelu"),
  layer_norm_eps: number().default(1e-5),
  initializer_factor: number().default(1),
  eos_token_id: z.int().nullable().default(49407),
};

/** The fields of a CLIP text encoder's configuration that matter. */
export type ClipTextConfig = z.output<z.ZodObject<typeof fields>>;

/** The networks that `clipText` and `clipTextWithProjection` build. */
export type ClipText = ReturnType<typeof clipText>;

/** The most negative float32: what a token that is not to be seen gets added to its score. */
const HIDDEN = -3.4028234663852886e38;

/** What a text encoder gives. */
export interface TextStates {
  /** After the last normalization: [n, tokens, hidden_size]. */
  readonly last: Tensor;
  /** The embeddings, then the result of each layer, before the last normalization. */
  readonly hidden: readonly Tensor[];
  /** The last state at the end of the text, [n, hidden_size], or its projection [n, projection_dim]. */
  readonly pooled: Tensor;
}

/**
 * CLIP's text encoder (Radford et al. 2021), as transformers' `CLIPTextModel`: called with token ids [n, tokens] as int64
 * and, where some are not to be seen, a mask [n, tokens] of 1 and 0 as float32. Embeddings [n, tokens, width] may be given
 * in the place of those that its table has for the ids.
 */
export function clipText(config: Config = {}) {
  return encoder("CLIPTextModel", config, false);
}

/** The same with a projection of the pooled state: transformers' `CLIPTextModelWithProjection`. */
export function clipTextWithProjection(config: Config = {}) {
  return encoder("CLIPTextModelWithProjection", config, true);
}

function encoder(className: string, config: Config, projected: boolean) {
  checkTextClass(config, [className], "clip_text_model");
  const c = readConfig(className, fields, config);
  const width = c.hidden_size;
  if (width % c.num_attention_heads !== 0) {
    throw new UserError(`hidden_size ${width} is not a multiple of num_attention_heads ${c.num_attention_heads}.`, {
      field: "num_attention_heads",
    });
  }
  const deviation = 0.02 * c.initializer_factor;
  const text = {
    embeddings: group({
      token_embedding: embedding(c.vocab_size, width, { deviation }),
      position_embedding: embedding(c.max_position_embeddings, width, { deviation }),
    }),
    encoder: group({ layers: Array.from({ length: c.num_hidden_layers }, () => layer(c)) }),
    final_layer_norm: layerNorm(width, { epsilon: c.layer_norm_eps }),
  };
  const parts = {
    text_model: group(text),
    text_projection: projected
      ? linear(width, c.projection_dim, { bias: false, initial: width ** -0.5 * c.initializer_factor })
      : undefined,
  };
  const network = module(parts, (ids: Tensor, mask?: Tensor, embedded?: Tensor): TextStates => {
    const tokens = ids.shape[1]!;
    if (tokens > c.max_position_embeddings) {
      throw new UserError(`This text encoder has positions for ${c.max_position_embeddings} tokens; given ${tokens}.`, {
        field: "prompt",
      });
    }
    const { token_embedding, position_embedding } = text.embeddings.parts;
    const positions = slice(position_embedding.parts.weight.tensor, 0, 0, tokens);
    const seen = visible(tokens, mask);
    const hidden = [add(embedded ?? token_embedding(ids), positions)];
    for (const each of text.encoder.parts.layers) hidden.push(each(hidden.at(-1)!, seen));
    const last = text.final_layer_norm(hidden.at(-1)!);
    const pooled = atEnd(last, ids, c.eos_token_id);
    return { last, hidden, pooled: parts.text_projection?.(pooled) ?? pooled };
  });
  namedParameters(network);
  return Object.assign(network, {
    config: savedTextConfig(className, c) as Config & ClipTextConfig,
    /** A table of positions that older checkpoints hold is not needed; some name the weights without their prefix. */
    storedName(name: string) {
      if (name.endsWith("embeddings.position_ids")) return null;
      return name.startsWith("text_") ? undefined : `text_model.${name}`;
    },
  });
}

/** Pre-norm self-attention and feed-forward. */
function layer(c: ClipTextConfig) {
  const width = c.hidden_size;
  const heads = c.num_attention_heads;
  const factor = c.initializer_factor;
  const inward = width ** -0.5 * (2 * c.num_hidden_layers) ** -0.5 * factor;
  const attention = {
    k_proj: linear(width, width, { initial: inward }),
    v_proj: linear(width, width, { initial: inward }),
    q_proj: linear(width, width, { initial: inward }),
    out_proj: linear(width, width, { initial: width ** -0.5 * factor }),
  };
  const scale = 1 / Math.sqrt(width / heads);
  const self = module(attention, (x: Tensor, mask: Tensor) => {
    const { q_proj, k_proj, v_proj, out_proj } = attention;
    const [q, k, v] = [q_proj, k_proj, v_proj].map((layer) => splitHeads(layer(x), heads)) as [Tensor, Tensor, Tensor];
    return out_proj(joinHeads(attend(q, k, v, { scale, mask })));
  });
  const feed = {
    fc1: linear(width, c.intermediate_size, { initial: (2 * width) ** -0.5 * factor }),
    fc2: linear(c.intermediate_size, width, { initial: inward }),
  };
  const activate = activation(c.hidden_act);
  const parts = {
    self_attn: self,
    layer_norm1: layerNorm(width, { epsilon: c.layer_norm_eps }),
    mlp: module(feed, (x: Tensor) => feed.fc2(activate(feed.fc1(x)))),
    layer_norm2: layerNorm(width, { epsilon: c.layer_norm_eps }),
  };
  return module(parts, (x: Tensor, mask: Tensor) => {
    const h = add(x, parts.self_attn(parts.layer_norm1(x), mask));
    return add(h, parts.mlp(parts.layer_norm2(h)));
  });
}

/** Scores' bias [1 or n, 1, tokens, tokens]: each token sees itself and those before it that the mask [n, tokens] keeps. */
function visible(tokens: number, mask?: Tensor): Tensor {
  const causal = new Float32Array(tokens * tokens);
  for (let i = 0; i < tokens; i++) causal.fill(HIDDEN, i * tokens + i + 1, (i + 1) * tokens);
  const before = values([1, 1, tokens, tokens], causal);
  return mask ? minimum(before, hiddenTokens(mask)) : before;
}

/** A mask [n, tokens] of 1 and 0 as numbers to add to scores [n, heads, queries, tokens]. */
export function hiddenTokens(mask: Tensor): Tensor {
  return reshape(mul(sub(1, mask), HIDDEN), [mask.shape[0]!, 1, 1, mask.shape[1]!]);
}

/**
 * The state where the text ends: [n, tokens, width] → [n, width]. Configurations with end token 2 are older than the real
 * one's being known: there it is the token with the highest id.
 */
function atEnd(states: Tensor, ids: Tensor, end: number | null): Tensor {
  const [n, tokens, width] = states.shape as [number, number, number];
  const score = end === 2 || end === null ? cast(ids, "float32") : cast(equal(ids, end), "float32");
  const chosen = reshape(oneHot(argMax(score, 1), tokens), [n, 1, tokens]);
  return reshape(matmul(chosen, states), [n, width]);
}
