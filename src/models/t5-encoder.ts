import type { z } from "zod";
import { add, constant, gather, mul, reshape, type Tensor, transpose } from "../graph/index.ts";
import { activation } from "../nn/activation.ts";
import { attend, joinHeads, splitHeads } from "../nn/attention.ts";
import { embedding, linear, rmsNorm } from "../nn/layers.ts";
import { group, module, namedParameters } from "../nn/module.ts";
import { hiddenTokens, type TextStates } from "./clip-text.ts";
import { type Config, count, layerCount, noEffect, number, oneOf, readConfig, savedTextConfig } from "./config.ts";
import { bookkeeping, checkTextClass } from "./text-encoder-config.ts";

const className = "T5EncoderModel";

/** Classes whose checkpoints hold the encoder beside a decoder. */
const WITH_DECODER = ["T5Model", "T5ForConditionalGeneration", "T5WithLMHeadModel"];

const fields = {
  ...bookkeeping,
  vocab_size: count().default(32128),
  d_model: count().default(512),
  d_kv: count().default(64),
  d_ff: count().default(2048),
  num_layers: layerCount().default(6),
  num_heads: count().default(8),
  relative_attention_num_buckets: count().default(32),
  relative_attention_max_distance: count().default(128),
  layer_norm_epsilon: number().default(1e-6),
  initializer_factor: number().default(1),
  feed_forward_proj: oneOf(["relu", "gated-gelu", "gelu", "gated-relu", "gated-silu", "silu"]).default("relu"),
  // Both follow from feed_forward_proj.
  dense_act_fn: noEffect(undefined).optional(),
  is_gated_act: noEffect(undefined).optional(),
  eos_token_id: noEffect(1),
};

/** The fields of a T5 encoder's configuration that matter. */
export type T5EncoderConfig = z.output<z.ZodObject<typeof fields>>;

/** The network that `t5Encoder` builds. */
export type T5Encoder = ReturnType<typeof t5Encoder>;

/**
 * The encoder of T5 (Raffel et al. 2020), as transformers' `T5EncoderModel`: called with token ids [n, tokens] as int64 and,
 * where some are not to be seen, a mask [n, tokens] of 1 and 0 as float32. The last hidden state is the normalized one.
 */
export function t5Encoder(config: Config = {}) {
  checkTextClass(config, [className, ...WITH_DECODER], "t5");
  const c = readConfig(className, fields, config);
  const parts = {
    shared: embedding(c.vocab_size, c.d_model, { deviation: c.initializer_factor }),
    encoder: group({
      block: Array.from({ length: c.num_layers }, (_, i) => block(c, i === 0)),
      final_layer_norm: rmsNorm(c.d_model, { epsilon: c.layer_norm_epsilon }),
    }),
  };
  const network = module(parts, (ids: Tensor, mask?: Tensor): Omit<TextStates, "pooled"> => {
    const { block: blocks, final_layer_norm } = parts.encoder.parts;
    const table = blocks[0]!.parts.layer.parts[0].parts.SelfAttention.parts.relative_attention_bias!;
    const bias = positionBias(table.parts.weight.tensor, ids.shape[1]!, c);
    const seen = mask ? add(bias, hiddenTokens(mask)) : bias;
    const hidden = [parts.shared(ids)];
    for (const each of blocks) hidden.push(each(hidden.at(-1)!, seen));
    const last = final_layer_norm(hidden.pop()!);
    return { last, hidden: [...hidden, last] };
  });
  namedParameters(network);
  return Object.assign(network, {
    config: savedTextConfig(className, c) as Config & T5EncoderConfig,
    /** Checkpoints may hold the shared embeddings twice, and a decoder. */
    storedName(name: string) {
      if (name === "encoder.embed_tokens.weight") return "shared.weight";
      return name.startsWith("decoder.") || name === "lm_head.weight" ? null : undefined;
    },
  });
}

function block(c: T5EncoderConfig, first: boolean) {
  const inner = c.num_heads * c.d_kv;
  const factor = c.initializer_factor;
  const inward = factor * c.d_model ** -0.5;
  const plain = (from: number, to: number, initial: number) => linear(from, to, { bias: false, initial });
  const attention = {
    q: plain(c.d_model, inner, factor * (c.d_model * c.d_kv) ** -0.5),
    k: plain(c.d_model, inner, inward),
    v: plain(c.d_model, inner, inward),
    o: plain(inner, c.d_model, factor * inner ** -0.5),
    // One for all layers, kept by the first.
    relative_attention_bias: first
      ? embedding(c.relative_attention_num_buckets, c.num_heads, { deviation: inward })
      : undefined,
  };
  const self = module(attention, (x: Tensor, bias: Tensor) => {
    const { q, k, v, o } = attention;
    const [queries, keys, contents] = [q, k, v].map((layer) => splitHeads(layer(x), c.num_heads)) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    return o(joinHeads(attend(queries, keys, contents, { scale: 1, mask: bias })));
  });
  const norm = () => rmsNorm(c.d_model, { epsilon: c.layer_norm_epsilon });
  const parts = {
    layer: group({
      0: group({ SelfAttention: self, layer_norm: norm() }),
      1: group({ DenseReluDense: feedForward(c), layer_norm: norm() }),
    }),
  };
  return module(parts, (x: Tensor, bias: Tensor) => {
    const { 0: first, 1: second } = parts.layer.parts;
    const h = add(x, first.parts.SelfAttention(first.parts.layer_norm(x), bias));
    return add(h, second.parts.DenseReluDense(second.parts.layer_norm(h)));
  });
}

function feedForward(c: T5EncoderConfig) {
  const inward = c.initializer_factor * c.d_model ** -0.5;
  const wide = () => linear(c.d_model, c.d_ff, { bias: false, initial: inward });
  const gated = c.feed_forward_proj.startsWith("gated-");
  const parts = {
    wi: gated ? undefined : wide(),
    wi_0: gated ? wide() : undefined,
    wi_1: gated ? wide() : undefined,
    wo: linear(c.d_ff, c.d_model, { bias: false, initial: c.initializer_factor * c.d_ff ** -0.5 }),
  };
  // "gated-gelu" means the tanh approximation, for historical reasons.
  const activate = activation(
    c.feed_forward_proj === "gated-gelu" ? "gelu_new" : c.feed_forward_proj.replace("gated-", ""),
  );
  return module(parts, (x: Tensor) => {
    const { wi, wi_0, wi_1, wo } = parts;
    return wo(wi_0 && wi_1 ? mul(activate(wi_0(x)), wi_1(x)) : activate(wi!(x)));
  });
}

/** What each head adds to its scores for the distance of two tokens: [1, heads, tokens, tokens]. */
function positionBias(table: Tensor, tokens: number, c: T5EncoderConfig): Tensor {
  const buckets = BigInt64Array.from({ length: tokens * tokens }, (_, i) =>
    BigInt(bucketOf((i % tokens) - Math.floor(i / tokens), c)),
  );
  const byPair = gather(table, constant({ dtype: "int64", shape: [tokens, tokens], data: buckets }));
  return reshape(transpose(byPair, [2, 0, 1]), [1, c.num_heads, tokens, tokens]);
}

/**
 * The bucket of a distance (key minus query): half of them for each direction, of which half are for single small distances
 * and the others grow logarithmically up to the largest distance.
 */
function bucketOf(distance: number, c: T5EncoderConfig): number {
  const side = Math.floor(c.relative_attention_num_buckets / 2);
  const start = distance > 0 ? side : 0;
  const n = Math.abs(distance);
  const exact = Math.floor(side / 2);
  if (n < exact) return start + n;
  const growth = Math.fround(Math.log(n / exact)) / Math.log(c.relative_attention_max_distance / exact);
  return start + Math.min(exact + Math.trunc(Math.fround(Math.fround(growth) * (side - exact))), side - 1);
}
