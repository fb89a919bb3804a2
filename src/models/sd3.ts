import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { add, mul, type Tensor } from "../graph/index.ts";
import { feedForward } from "../nn/feed-forward.ts";
import { jointAttention } from "../nn/joint-attention.ts";
import { linear } from "../nn/layers.ts";
import { modulate, modulatedNorm, modulation, plainNorm } from "../nn/modulation.ts";
import { module, namedParameters } from "../nn/module.ts";
import { patchEmbedding, unpatchify } from "../nn/patch-embedding.ts";
import { sinusoids, timestepEmbedding } from "../nn/timestep-embedding.ts";
import { type Config, count, layerCount, oneOf, readConfig, sampleSize, savedConfig } from "./config.ts";

const className = "SD3Transformer2DModel";

const fields = {
  sample_size: sampleSize().unwrap().default(128),
  patch_size: count().default(2),
  in_channels: count().default(16),
  num_layers: layerCount().default(18),
  attention_head_dim: count().default(64),
  num_attention_heads: count().default(18),
  joint_attention_dim: count().default(4096),
  caption_projection_dim: count().default(1152),
  pooled_projection_dim: count().default(2048),
  out_channels: count().nullable().default(16),
  pos_embed_max_size: count().default(96),
  dual_attention_layers: z.array(z.int().min(0)).default([]),
  qk_norm: oneOf(["rms_norm", "layer_norm"]).nullable().default(null),
};

/** Every field of an `SD3Transformer2DModel`'s configuration. */
export type SD3Config = z.output<z.ZodObject<typeof fields>>;

/** The network that `sd3` builds. */
export type SD3 = ReturnType<typeof sd3>;

/**
 * The transformer of Stable Diffusion 3 and 3.5 (Esser et al. 2024, MM-DiT), as diffusers' `SD3Transformer2DModel`.
 *
 * Called with [n, in_channels, h, w], timesteps [n] as float32, a text [n, tokens, joint_attention_dim] and its pooled form
 * [n, pooled_projection_dim]; gives [n, out_channels, h, w]. It starts as DiT, on which it is built: as a stack of
 * identities whose output is zero.
 */
export function sd3(config: Config = {}) {
  const c = readConfig(className, fields, config);
  const width = c.num_attention_heads * c.attention_head_dim;
  if (c.caption_projection_dim !== width) {
    throw new UserError(
      `caption_projection_dim must be num_attention_heads · attention_head_dim (${width}); it is ${c.caption_projection_dim}.`,
      { field: "caption_projection_dim" },
    );
  }
  const outputs = c.out_channels ?? c.in_channels;
  const base = typeof c.sample_size === "number" ? c.sample_size : c.sample_size[0]!;
  const parts = {
    pos_embed: patchEmbedding(c.in_channels, width, {
      patch: c.patch_size,
      baseSize: Math.floor(base / c.patch_size),
      tableSize: c.pos_embed_max_size,
      initial: "xavier",
    }),
    time_text_embed: timeAndText(width, c.pooled_projection_dim),
    context_embedder: linear(c.joint_attention_dim, c.caption_projection_dim, { initial: "xavier" }),
    transformer_blocks: Array.from({ length: c.num_layers }, (_, i) =>
      jointBlock(c, width, { last: i === c.num_layers - 1, dual: c.dual_attention_layers.includes(i) }),
    ),
    norm_out: modulatedNorm(width, width, { initial: "zero" }),
    proj_out: linear(width, c.patch_size ** 2 * outputs, { initial: "zero" }),
  };
  const network = module(parts, (sample: Tensor, timestep: Tensor, text: Tensor, pooled: Tensor) => {
    const [height, columns] = sample.shape.slice(2).map((size) => size / c.patch_size) as [number, number];
    const time = parts.time_text_embed(timestep, pooled);
    let x = parts.pos_embed(sample);
    let context: Tensor | undefined = parts.context_embedder(text);
    for (const block of parts.transformer_blocks) ({ x, context } = block(x, context!, time));
    return unpatchify(parts.proj_out(parts.norm_out(x, time)), outputs, c.patch_size, height, columns);
  });
  namedParameters(network);
  return Object.assign(network, { config: savedConfig(className, c) as Config & SD3Config });
}

/** Embeddings of timestep and pooled text, and perhaps of a guidance scale, added: [n, width]. */
export function timeAndText(width: number, pooledWidth: number, { guidance = false } = {}) {
  const parts = {
    timestep_embedder: timestepEmbedding(256, width, { initial: 0.02 }),
    guidance_embedder: guidance ? timestepEmbedding(256, width, { initial: 0.02 }) : undefined,
    text_embedder: timestepEmbedding(pooledWidth, width, { initial: "xavier" }),
  };
  return module(parts, (timestep: Tensor, pooled: Tensor, scale?: Tensor) => {
    const time = parts.timestep_embedder(sinusoids(timestep, 256));
    const guided = scale && parts.guidance_embedder?.(sinusoids(scale, 256));
    return add(guided ? add(time, guided) : time, parts.text_embedder(pooled));
  });
}

/** The last block's text goes nowhere further; `dual`: a second attention over the image alone. */
function jointBlock(c: SD3Config, width: number, { last, dual }: { last: boolean; dual: boolean }) {
  const heads = {
    heads: c.num_attention_heads,
    headWidth: c.attention_head_dim,
    qkNorm: c.qk_norm ?? undefined,
    initial: "xavier",
  } as const;
  const feed = () => feedForward(width, { act: "gelu-approximate", initial: "xavier" });
  const zero = { initial: "zero" } as const;
  const parts = {
    norm1: modulation(width, width, dual ? 9 : 6, zero),
    norm1_context: modulation(width, width, last ? 2 : 6, zero),
    attn: jointAttention(width, { ...heads, contextOutput: !last }),
    attn2: dual ? jointAttention(width, { ...heads, context: false }) : undefined,
    ff: feed(),
    ff_context: last ? undefined : feed(),
  };
  const normalize = plainNorm(width);
  return module(parts, (x: Tensor, context: Tensor, time: Tensor) => {
    const { norm1, norm1_context, attn, attn2, ff, ff_context } = parts;
    const own = norm1(time);
    const other = norm1_context(time);
    const normal = normalize(x);
    // The last block's normalization of the text has scale before shift.
    const [shift, scale] = last ? [other[1]!, other[0]!] : [other[0]!, other[1]!];
    const attended = attn(modulate(normal, own[0]!, own[1]!), { context: modulate(normalize(context), shift, scale) });
    let h = add(x, mul(own[2]!, attended.x));
    if (attn2) h = add(h, mul(own[8]!, attn2(modulate(normal, own[6]!, own[7]!)).x));
    h = add(h, mul(own[5]!, ff(modulate(normalize(h), own[3]!, own[4]!))));
    if (!ff_context || !attended.context) return { x: h, context: undefined };
    const text = add(context, mul(other[2]!, attended.context));
    const fed = ff_context(modulate(normalize(text), other[3]!, other[4]!));
    return { x: h, context: add(text, mul(other[5]!, fed)) };
  });
}
