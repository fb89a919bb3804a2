import type { z } from "zod";
import { UserError } from "../core/errors.ts";
import { add, concat, gelu, mul, split, type Tensor } from "../graph/index.ts";
import { feedForward } from "../nn/feed-forward.ts";
import { jointAttention } from "../nn/joint-attention.ts";
import { linear } from "../nn/layers.ts";
import { modulate, modulatedNorm, modulation, plainNorm } from "../nn/modulation.ts";
import { module, namedParameters } from "../nn/module.ts";
import { type Rotation, rotationsOf } from "../nn/rotary.ts";
import { type Config, count, counts, flag, layerCount, readConfig, savedConfig } from "./config.ts";
import { timeAndText } from "./sd3.ts";

const className = "FluxTransformer2DModel";

const fields = {
  patch_size: count().default(1),
  in_channels: count().default(64),
  out_channels: count().nullable().default(null),
  num_layers: layerCount({ from: 0 }).default(19),
  num_single_layers: layerCount({ from: 0 }).default(38),
  attention_head_dim: count().default(128),
  num_attention_heads: count().default(24),
  joint_attention_dim: count().default(4096),
  pooled_projection_dim: count().default(768),
  guidance_embeds: flag(false),
  axes_dims_rope: counts().default([16, 56, 56]),
};

/** Every field of a `FluxTransformer2DModel`'s configuration. */
export type FluxConfig = z.output<z.ZodObject<typeof fields>>;

/** The network that `flux` builds. */
export type Flux = ReturnType<typeof flux>;

/** What the network is given beside the latents. */
export interface FluxInputs {
  /** From 0 to 1: [n] float32. */
  readonly timestep: Tensor;
  /** [n, tokens, joint_attention_dim] */
  readonly text: Tensor;
  /** [n, pooled_projection_dim] */
  readonly pooled: Tensor;
  /** Positions of the latents' tokens, [tokens, axes] float32. */
  readonly imagePositions: Tensor;
  /** Positions of the text's tokens, [tokens, axes] float32. */
  readonly textPositions: Tensor;
  /** Guidance scale [n], where the network takes it. */
  readonly guidance?: Tensor;
}

/**
 * The transformer of FLUX.1, as diffusers' `FluxTransformer2DModel`: packed latents [n, tokens, in_channels] →
 * [n, tokens, out_channels].
 */
export function flux(config: Config = {}) {
  const c = readConfig(className, fields, config);
  const turned = c.axes_dims_rope.reduce((a, b) => a + b, 0);
  if (turned !== c.attention_head_dim || c.axes_dims_rope.some((n) => n % 2 !== 0)) {
    throw new UserError(
      `axes_dims_rope must be even numbers that sum to attention_head_dim (${c.attention_head_dim}); given ${c.axes_dims_rope.join(", ")}.`,
      { field: "axes_dims_rope" },
    );
  }
  const width = c.num_attention_heads * c.attention_head_dim;
  const parts = {
    time_text_embed: timeAndText(width, c.pooled_projection_dim, { guidance: c.guidance_embeds }),
    context_embedder: linear(c.joint_attention_dim, width),
    x_embedder: linear(c.in_channels, width),
    transformer_blocks: Array.from({ length: c.num_layers }, () => doubleBlock(c, width)),
    single_transformer_blocks: Array.from({ length: c.num_single_layers }, () => singleBlock(c, width)),
    norm_out: modulatedNorm(width, width),
    proj_out: linear(width, c.patch_size ** 2 * (c.out_channels ?? c.in_channels)),
  };
  const network = module(parts, (latents: Tensor, inputs: FluxInputs) => {
    const { timestep, text, pooled, imagePositions, textPositions, guidance } = inputs;
    if ((guidance !== undefined) !== c.guidance_embeds) {
      throw new UserError(
        guidance
          ? "This network takes no guidance scale (guidance_embeds is false)."
          : "This network needs a guidance scale (guidance_embeds is true).",
      );
    }
    const time = parts.time_text_embed(mul(timestep, 1000), pooled, guidance && mul(guidance, 1000));
    const rotation = rotationsOf(concat([textPositions, imagePositions], 0), c.axes_dims_rope);
    let x = parts.x_embedder(latents);
    let context = parts.context_embedder(text);
    for (const block of parts.transformer_blocks) ({ x, context } = block(x, context, time, rotation));
    const both = parts.single_transformer_blocks.reduce(
      (h, block) => block(h, time, rotation),
      concat([context, x], 1),
    );
    const [, image] = split(both, [context.shape[1]!, x.shape[1]!], 1) as [Tensor, Tensor];
    return parts.proj_out(parts.norm_out(image, time));
  });
  namedParameters(network);
  return Object.assign(network, { config: savedConfig(className, c) as Config & FluxConfig });
}

const headsOf = (c: FluxConfig) =>
  ({ heads: c.num_attention_heads, headWidth: c.attention_head_dim, qkNorm: "rms_norm", contextFirst: true }) as const;

/** Image and text attend together, each with its own weights. */
function doubleBlock(c: FluxConfig, width: number) {
  const feed = () => feedForward(width, { act: "gelu-approximate" });
  const parts = {
    norm1: modulation(width, width, 6),
    norm1_context: modulation(width, width, 6),
    attn: jointAttention(width, headsOf(c)),
    ff: feed(),
    ff_context: feed(),
  };
  const normalize = plainNorm(width);
  return module(parts, (x: Tensor, context: Tensor, time: Tensor, rotation: Rotation) => {
    const own = parts.norm1(time);
    const other = parts.norm1_context(time);
    const attended = parts.attn(modulate(normalize(x), own[0]!, own[1]!), {
      context: modulate(normalize(context), other[0]!, other[1]!),
      rotation,
    });
    const finish = (h: Tensor, change: Tensor, m: readonly Tensor[], feedForward: (x: Tensor) => Tensor) => {
      const sum = add(h, mul(m[2]!, change));
      return add(sum, mul(m[5]!, feedForward(modulate(normalize(sum), m[3]!, m[4]!))));
    };
    return {
      x: finish(x, attended.x, own, parts.ff),
      context: finish(context, attended.context!, other, parts.ff_context),
    };
  });
}

/** Text and image as one sequence; attention and feed-forward side by side. */
function singleBlock(c: FluxConfig, width: number) {
  const parts = {
    norm: modulation(width, width, 3),
    proj_mlp: linear(width, 4 * width),
    proj_out: linear(5 * width, width),
    attn: jointAttention(width, { ...headsOf(c), context: false, output: false }),
  };
  const normalize = plainNorm(width);
  return module(parts, (x: Tensor, time: Tensor, rotation: Rotation) => {
    const [shift, scale, gate] = parts.norm(time) as [Tensor, Tensor, Tensor];
    const normal = modulate(normalize(x), shift, scale);
    const hidden = gelu(parts.proj_mlp(normal), "tanh");
    const attended = parts.attn(normal, { rotation }).x;
    return add(x, mul(gate, parts.proj_out(concat([attended, hidden], 2))));
  });
}
