import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { add, chunk, concat, gelu, mul, reshape, silu, type Tensor } from "../graph/index.ts";
import { attention } from "../nn/attention.ts";
import { feedForward } from "../nn/feed-forward.ts";
import { layerNorm, linear } from "../nn/layers.ts";
import { modulate, plainNorm } from "../nn/modulation.ts";
import { group, module, namedParameters, parameter } from "../nn/module.ts";
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
import { maskBias } from "./unet-2d-encoder.ts";

const className = "PixArtTransformer2DModel";

const fields = {
  num_attention_heads: count().default(16),
  attention_head_dim: count().default(72),
  in_channels: count().default(4),
  out_channels: count().nullable().default(8),
  num_layers: layerCount().default(28),
  // Applied in training only, and never in the released networks.
  dropout: only([0]),
  norm_num_groups: noEffect(32),
  cross_attention_dim: count().default(1152),
  attention_bias: flag(true),
  sample_size: count().default(128),
  patch_size: count().default(2),
  activation_fn: z.string().default("gelu-approximate"),
  num_embeds_ada_norm: noEffect(1000),
  upcast_attention: noEffect(false),
  norm_type: only(["ada_norm_single"]),
  norm_elementwise_affine: flag(false),
  norm_eps: number().default(1e-6),
  interpolation_scale: number().nullable().default(null),
  use_additional_conditions: z.boolean().nullable().default(null),
  caption_channels: count().nullable().default(null),
  attention_type: only(["default"]),
  // Of the time when these networks were saved as Transformer2DModel.
  double_self_attention: formerField([false]),
  num_vector_embeds: formerField([null]),
  only_cross_attention: formerField([false]),
  use_linear_projection: formerField([false, true]),
};

/** Every field of a `PixArtTransformer2DModel`'s configuration. */
export type PixArtConfig = z.output<z.ZodObject<typeof fields>>;

/** The network that `pixart` builds. */
export type PixArt = ReturnType<typeof pixart>;

/** What the network can be given beside sample, timestep and text. */
export interface PixArtInputs {
  /** Which text tokens to look at: [n, tokens], 1 or 0 as float32. */
  readonly contextMask?: Tensor;
  /** Height and width of the picture [n, 2], where the network takes them. */
  readonly resolution?: Tensor;
  /** Height over width [n, 1], where the network takes it. */
  readonly aspectRatio?: Tensor;
}

/**
 * The text-conditional diffusion transformer PixArt-α (Chen et al. 2024), as diffusers' `PixArtTransformer2DModel`.
 *
 * Called with [n, in_channels, h, w], timesteps [n] as float32 and a text [n, tokens, caption_channels]; gives
 * [n, out_channels, h, w]. It starts as the paper's code does: cross-attention and output give zero.
 */
export function pixart(config: Config = {}) {
  const c = readConfig(className, fields, config, { formerly: "Transformer2DModel" });
  const width = c.num_attention_heads * c.attention_head_dim;
  const outputs = c.out_channels ?? c.in_channels;
  const sized = c.use_additional_conditions ?? c.sample_size === 128;
  if (sized && width % 3 !== 0) {
    throw new UserError(
      `With use_additional_conditions num_attention_heads · attention_head_dim must be a multiple of 3; it is ${width}.`,
      { field: "use_additional_conditions" },
    );
  }
  if (c.caption_channels !== null && c.cross_attention_dim !== width) {
    throw new UserError(
      `With caption_channels cross_attention_dim must be num_attention_heads · attention_head_dim (${width}); it is ${c.cross_attention_dim}.`,
      { field: "cross_attention_dim" },
    );
  }
  const parts = {
    pos_embed: patchEmbedding(c.in_channels, width, {
      patch: c.patch_size,
      baseSize: Math.floor(c.sample_size / c.patch_size),
      scale: c.interpolation_scale ?? Math.max(Math.floor(c.sample_size / 64), 1),
      initial: "xavier",
    }),
    transformer_blocks: Array.from({ length: c.num_layers }, () => pixartBlock(c, width)),
    scale_shift_table: parameter([2, width], { kind: "normal", deviation: width ** -0.5 }),
    proj_out: linear(width, c.patch_size ** 2 * outputs, { initial: "zero" }),
    adaln_single: group({ emb: timeAndSize(width, sized), linear: linear(width, 6 * width, { initial: 0.02 }) }),
    caption_projection: c.caption_channels === null ? undefined : captionProjection(c.caption_channels, width),
  };
  const normalize = plainNorm(width);
  const network = module(parts, (sample: Tensor, timestep: Tensor, text: Tensor, inputs: PixArtInputs = {}) => {
    const n = sample.shape[0]!;
    const [height, columns] = sample.shape.slice(2).map((size) => size / c.patch_size) as [number, number];
    const { emb, linear: toModulation } = parts.adaln_single.parts;
    const time = emb(timestep, inputs); // [n, width]
    const condition = reshape(toModulation(silu(time)), [n, 6, width]);
    const context = parts.caption_projection?.(text) ?? text;
    const contextMask = inputs.contextMask && maskBias(inputs.contextMask);
    const tokens = parts.transformer_blocks.reduce(
      (x, block) => block(x, condition, context, contextMask),
      parts.pos_embed(sample),
    );
    const table = add(parts.scale_shift_table.tensor, reshape(time, [n, 1, width])); // [n, 2, width]
    const [shift, scale] = chunk(table, 2, 1) as [Tensor, Tensor];
    const out = parts.proj_out(modulate(normalize(tokens), shift, scale));
    return unpatchify(out, outputs, c.patch_size, height, columns);
  });
  namedParameters(network);
  return Object.assign(network, {
    config: savedConfig(className, c) as Config & PixArtConfig,
    /** Whether it takes resolution and aspect ratio. */
    sized,
    /** Older files hold the table of positions, which is computed here. */
    storedName: (name: string) => (name === "pos_embed.pos_embed" ? null : undefined),
  });
}

/** One block: its shifts, scales and gates are the network's, [n, 6, width], plus a table of its own. */
function pixartBlock(c: PixArtConfig, width: number) {
  const heads = {
    heads: c.num_attention_heads,
    headWidth: c.attention_head_dim,
    bias: c.attention_bias,
    initial: "xavier",
  } as const;
  const norm = () => layerNorm(width, { epsilon: c.norm_eps, affine: c.norm_elementwise_affine });
  const parts = {
    scale_shift_table: parameter([6, width], { kind: "normal", deviation: width ** -0.5 }),
    norm1: norm(),
    attn1: attention(width, heads),
    norm2: norm(),
    attn2: attention(width, { ...heads, contextWidth: c.cross_attention_dim, outInitial: "zero" }),
    ff: feedForward(width, { act: c.activation_fn, initial: "xavier" }),
  };
  return module(parts, (x: Tensor, condition: Tensor, context: Tensor, contextMask?: Tensor) => {
    const { scale_shift_table, norm1, attn1, norm2, attn2, ff } = parts;
    const [shift1, scale1, gate1, shift2, scale2, gate2] = chunk(add(scale_shift_table.tensor, condition), 6, 1) as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ];
    let h = add(mul(gate1, attn1(modulate(norm1(x), shift1, scale1))), x);
    h = add(attn2(h, { context, mask: contextMask }), h);
    return add(mul(gate2, ff(modulate(norm2(h), shift2, scale2))), h);
  });
}

/** The timestep's embedding and, where the network takes them, that of the picture's size and shape. */
function timeAndSize(width: number, sized: boolean) {
  const third = Math.floor(width / 3);
  const parts = {
    timestep_embedder: timestepEmbedding(256, width, { initial: 0.02 }),
    resolution_embedder: sized ? timestepEmbedding(256, third, { initial: 0.02 }) : undefined,
    aspect_ratio_embedder: sized ? timestepEmbedding(256, third, { initial: 0.02 }) : undefined,
  };
  return module(parts, (timestep: Tensor, { resolution, aspectRatio }: PixArtInputs) => {
    const time = parts.timestep_embedder(sinusoids(timestep, 256));
    if (!parts.resolution_embedder || !parts.aspect_ratio_embedder) {
      if (resolution || aspectRatio) {
        throw new UserError("This network has no use for resolution and aspect ratio (use_additional_conditions).");
      }
      return time;
    }
    if (!resolution || !aspectRatio) {
      throw new UserError("This network needs resolution [n, 2] and aspectRatio [n, 1] (use_additional_conditions).");
    }
    const embed = (x: Tensor, layer: ReturnType<typeof timestepEmbedding>) => {
      const [n, count] = x.shape as [number, number];
      return reshape(layer(sinusoids(reshape(x, [n * count]), 256)), [n, count * third]);
    };
    const size = concat(
      [embed(resolution, parts.resolution_embedder), embed(aspectRatio, parts.aspect_ratio_embedder)],
      1,
    );
    return add(time, size);
  });
}

function captionProjection(inputs: number, width: number) {
  const parts = {
    linear_1: linear(inputs, width, { initial: 0.02 }),
    linear_2: linear(width, width, { initial: 0.02 }),
  };
  return module(parts, (text: Tensor) => parts.linear_2(gelu(parts.linear_1(text), "tanh")));
}
