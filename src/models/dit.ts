import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { add, mul, silu, type Tensor } from "../graph/index.ts";
import { attention } from "../nn/attention.ts";
import { feedForward } from "../nn/feed-forward.ts";
import { embedding, layerNorm, linear } from "../nn/layers.ts";
import { modulate, perToken, plainNorm } from "../nn/modulation.ts";
import { group, module, namedParameters } from "../nn/module.ts";
import { patchEmbedding, unpatchify } from "../nn/patch-embedding.ts";
import { sinusoids, timestepEmbedding } from "../nn/timestep-embedding.ts";
import {
  type Config,
  count,
  flag,
  formerField,
  layerCount,
  noEffect,
  number,
  only,
  readConfig,
  savedConfig,
} from "./config.ts";

const className = "DiTTransformer2DModel";

const fields = {
  num_attention_heads: count().default(16),
  attention_head_dim: count().default(72),
  in_channels: count().default(4),
  out_channels: count().nullable().default(null),
  num_layers: layerCount().default(28),
  // Applied in training only, and never in the released networks.
  dropout: only([0]),
  norm_num_groups: noEffect(32),
  attention_bias: flag(true),
  sample_size: count().default(32),
  patch_size: count().default(2),
  activation_fn: z.string().default("gelu-approximate"),
  num_embeds_ada_norm: count().default(1000),
  upcast_attention: noEffect(false),
  norm_type: only(["ada_norm_zero"]),
  norm_elementwise_affine: flag(false),
  norm_eps: number().default(1e-5),
  // Of the time when these networks were saved as Transformer2DModel.
  double_self_attention: formerField([false]),
  num_vector_embeds: formerField([null]),
  only_cross_attention: formerField([false]),
  use_linear_projection: formerField([false, true]),
  cross_attention_dim: formerField([null]),
  attention_type: formerField(["default"]),
  caption_channels: formerField([null]),
  interpolation_scale: formerField([null, 1]),
  use_additional_conditions: formerField([null, false]),
};

/** Every field of a `DiTTransformer2DModel`'s configuration. */
export type DiTConfig = z.output<z.ZodObject<typeof fields>>;

/** The network that `dit` builds. */
export type DiT = ReturnType<typeof dit>;

/**
 * The class-conditional diffusion transformer of Peebles & Xie 2023, as diffusers' `DiTTransformer2DModel`.
 *
 * Called with [n, in_channels, h, w], timesteps [n] as float32 and class labels [n] as int64 (`num_embeds_ada_norm` is the
 * label for no class); gives [n, out_channels, h, w]. It starts as the paper's code does: as a stack of identities whose
 * output is zero.
 */
export function dit(config: Config = {}) {
  const c = readConfig(className, fields, config, { formerly: "Transformer2DModel" });
  const width = c.num_attention_heads * c.attention_head_dim;
  const outputs = c.out_channels ?? c.in_channels;
  const parts = {
    pos_embed: patchEmbedding(c.in_channels, width, {
      patch: c.patch_size,
      baseSize: Math.floor(c.sample_size / c.patch_size),
      initial: "xavier",
    }),
    transformer_blocks: Array.from({ length: c.num_layers }, () => ditBlock(c, width)),
    proj_out_1: linear(width, 2 * width, { initial: "zero" }),
    proj_out_2: linear(width, c.patch_size ** 2 * outputs, { initial: "zero" }),
  };
  const normalize = plainNorm(width);
  const network = module(parts, (sample: Tensor, timestep: Tensor, classLabels: Tensor) => {
    const [height, columns] = sample.shape.slice(2).map((size) => size / c.patch_size) as [number, number];
    // The same for all blocks, each of which embeds it with weights of its own.
    const waves = sinusoids(timestep, 256, { frequencyShift: 1 });
    const tokens = parts.transformer_blocks.reduce((x, block) => block(x, waves, classLabels), parts.pos_embed(sample));
    const first = parts.transformer_blocks[0]!.parts.norm1.parts.emb(waves, classLabels);
    const [shift, scale] = perToken(parts.proj_out_1(silu(first)), 2) as [Tensor, Tensor];
    const out = parts.proj_out_2(modulate(normalize(tokens), shift, scale));
    return unpatchify(out, outputs, c.patch_size, height, columns);
  });
  namedParameters(network);
  return Object.assign(network, {
    config: savedConfig(className, c) as Config & DiTConfig,
    /** Older files hold the table of positions, which is computed here. */
    storedName: (name: string) => (name === "pos_embed.pos_embed" ? null : undefined),
  });
}

function ditBlock(c: DiTConfig, width: number) {
  const labels = embedding(c.num_embeds_ada_norm + 1, width, { deviation: 0.02 });
  const embed = {
    timestep_embedder: timestepEmbedding(256, width, { initial: 0.02 }),
    class_embedder: group({ embedding_table: labels }),
  };
  const emb = module(embed, (waves: Tensor, classLabels: Tensor) => {
    if (classLabels.shape.length !== 1) throw new UserError("Class labels must have shape [n].");
    return add(embed.timestep_embedder(waves), labels(classLabels));
  });
  const parts = {
    norm1: group({ emb, linear: linear(width, 6 * width, { initial: "zero" }) }),
    attn1: attention(width, {
      heads: c.num_attention_heads,
      headWidth: c.attention_head_dim,
      bias: c.attention_bias,
      initial: "xavier",
    }),
    norm3: layerNorm(width, { epsilon: c.norm_eps, affine: c.norm_elementwise_affine }),
    ff: feedForward(width, { act: c.activation_fn, initial: "xavier" }),
  };
  const normalize = plainNorm(width);
  return module(parts, (x: Tensor, waves: Tensor, classLabels: Tensor) => {
    const { norm1, attn1, norm3, ff } = parts;
    const condition = norm1.parts.linear(silu(norm1.parts.emb(waves, classLabels)));
    const [shift1, scale1, gate1, shift2, scale2, gate2] = perToken(condition, 6) as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ];
    const h = add(x, mul(gate1, attn1(modulate(normalize(x), shift1, scale1))));
    return add(h, mul(gate2, ff(modulate(norm3(h), shift2, scale2))));
  });
}
