import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { add, mul, sub, type Tensor } from "../graph/index.ts";
import { activation } from "../nn/activation.ts";
import { conv2d, groupNorm } from "../nn/layers.ts";
import { module, namedParameters } from "../nn/module.ts";
import {
  type Config,
  count,
  flag,
  layerCount,
  listOf,
  noEffect,
  number,
  oneOf,
  only,
  readConfig,
  sampleSize,
  savedConfig,
} from "./config.ts";
import { upBlock, type WayUp } from "./unet-2d-blocks.ts";
import { type ConditioningInputs, conditioning } from "./unet-2d-conditioning.ts";
import { conditionBlocks, encoderFields, maskBias, perLevel, unet2dEncoder } from "./unet-2d-encoder.ts";

const className = "UNet2DConditionModel";

const UP = ["UpBlock2D", "CrossAttnUpBlock2D", "ResnetUpsampleBlock2D"] as const;

const fields = {
  ...encoderFields,
  sample_size: sampleSize().default(null),
  out_channels: count().default(4),
  center_input_sample: flag(false),
  up_block_types: listOf(oneOf(UP)).default(["UpBlock2D", ...Array(3).fill("CrossAttnUpBlock2D")]),
  dropout: number().min(0).max(1).default(0),
  reverse_transformer_layers_per_block: listOf(
    z.union(
      [layerCount({ from: 0 }), listOf(layerCount({ from: 0 }))],
      "numbers of layers or lists of them are needed",
    ),
  )
    .nullable()
    .default(null),
  time_embedding_type: oneOf(["positional", "fourier"]).default("positional"),
  time_embedding_dim: count().nullable().default(null),
  time_embedding_act_fn: z.string().nullable().default(null),
  timestep_post_act: z.string().nullable().default(null),
  time_cond_proj_dim: count().nullable().default(null),
  conv_in_kernel: count().default(3),
  conv_out_kernel: count().default(3),
  class_embeddings_concat: flag(false),
  dual_cross_attention: only([false]),
  attention_type: only(["default"]),
  cross_attention_norm: only([null]),
  resnet_skip_time_act: only([false]),
  resnet_out_scale_factor: only([1]),
  // Of use only for a middle block that is refused.
  mid_block_only_cross_attention: noEffect(null),
};

/** Every field of a `UNet2DConditionModel`'s configuration. */
export type UNet2DConditionConfig = z.output<z.ZodObject<typeof fields>>;

/** The network that `unet2dCondition` builds. */
export type UNet2DCondition = ReturnType<typeof unet2dCondition>;

/** What the network can be given beside sample, timestep and text. */
export interface UNet2DConditionInputs extends ConditioningInputs {
  /** A control network's contributions to every state of the way down, in their order; undefined where there is none. */
  readonly downResiduals?: readonly (Tensor | undefined)[];
  /** A control network's contribution to the middle. */
  readonly midResidual?: Tensor;
  /** Which text tokens to look at: [n, tokens], 1 or 0 as float32. */
  readonly contextMask?: Tensor;
  /** Is handed the weights [n, heads, h, w, tokens] of each attention to the text while the graph is built. */
  readonly onCrossAttention?: (weights: Tensor) => void;
  /** Sees the states of the way up, and may put others in their place; layers that nothing needs then are left out. */
  readonly onWayUp?: WayUp;
}

/**
 * The text-conditional U-Net of Stable Diffusion 1.x, 2.x and XL (Rombach et al. 2022), as diffusers'
 * `UNet2DConditionModel`: same configuration, same parameter names.
 *
 * Called with a noisy batch [n, in_channels, h, w] of any size, timesteps [n] as float32 and a text
 * [n, tokens, cross_attention_dim]; gives [n, out_channels, h, w].
 *
 * @throws UserError for a configuration that cannot be taken, and for inputs the network needs or cannot take
 */
export function unet2dCondition(
  config: Config = {},
  { dropout }: { dropout?: (x: Tensor, probability: number) => Tensor } = {},
) {
  const c = readConfig(className, fields, config);
  const channels = c.block_out_channels;
  const levels = channels.length;
  if (c.up_block_types.length !== levels) {
    throw new UserError(
      `up_block_types and block_out_channels must have the same length; theirs are ${c.up_block_types.length} and ${levels}.`,
      { field: "up_block_types" },
    );
  }
  const drop = dropout && c.dropout > 0 ? (x: Tensor) => dropout(x, c.dropout) : undefined;
  const conditions = conditioning(c);
  const encoder = unet2dEncoder(c, conditions.width, drop);
  const parts = {
    conv_in: conv2d(c.in_channels, channels[0]!, { kernel: c.conv_in_kernel, padding: (c.conv_in_kernel - 1) >> 1 }),
    ...conditions.parts,
    ...encoder.parts,
    up_blocks: upBlocks(c, conditions.width, drop),
    conv_norm_out: groupNorm(c.norm_num_groups, channels[0]!, { epsilon: c.norm_eps }),
    conv_out: conv2d(channels[0]!, c.out_channels, {
      kernel: c.conv_out_kernel,
      padding: (c.conv_out_kernel - 1) >> 1,
      initial: "zero",
    }),
  };
  const activate = activation(c.act_fn);

  const forward = (sample: Tensor, timestep: Tensor, text: Tensor, inputs: UNet2DConditionInputs = {}) => {
    const { downResiduals, midResidual, contextMask, onCrossAttention, onWayUp } = inputs;
    const embedded = activate(conditions.embed(timestep, text, inputs));
    const given = {
      ...{ context: conditions.context(text), contextMask: contextMask && maskBias(contextMask) },
      onCrossAttention,
    };
    const input = c.center_input_sample ? sub(mul(sample, 2), 1) : sample;
    const states = encoder.down(parts.conv_in(input), embedded, given);
    let h = encoder.mid(states.at(-1)!, embedded, given);
    if (midResidual) h = add(h, midResidual);
    const skips = addResiduals(states, downResiduals);
    for (const block of parts.up_blocks) {
      // The state of the next finer level says how far to grow: with odd sizes doubling is one too many.
      const next = skips[skips.length - 1 - block.parts.resnets.length];
      const size = next && ([next.shape[2]!, next.shape[3]!] as const);
      h = block(h, skips, { embedding: embedded, given, size, onWayUp });
    }
    return parts.conv_out(activate(parts.conv_norm_out(h)));
  };
  const network = module(parts, forward);
  namedParameters(network);
  return Object.assign(network, {
    config: savedConfig(className, c) as Config & UNet2DConditionConfig,
    /** How many states of the way down are joined to the way up. */
    skips: parts.up_blocks.reduce((sum, { parts: { resnets } }) => sum + resnets.length, 0),
  });
}

function upBlocks(c: UNet2DConditionConfig, width: number, dropout?: (x: Tensor) => Tensor) {
  const channels = c.block_out_channels;
  const levels = channels.length;
  const { resnet, transformer } = conditionBlocks(c, width, dropout);
  const layers = perLevel(c.layers_per_block, levels, "layers_per_block");
  return c.up_block_types.map((type, i) => {
    const level = levels - 1 - i;
    const outputs = channels[level]!;
    const skips = [...Array(layers[level]).fill(outputs), channels[Math.max(level - 1, 0)]!];
    return upBlock(channels[Math.min(level + 1, levels - 1)]!, skips, outputs, {
      resnet,
      attention: type === "CrossAttnUpBlock2D" ? transformer(level, upDepth(c, i)) : undefined,
      resampling: i === levels - 1 ? undefined : type === "ResnetUpsampleBlock2D" ? "resnet" : "conv",
    });
  });
}

/** Transformer layers of the i-th block of the way up. */
function upDepth(c: UNet2DConditionConfig, i: number): number | number[] {
  const levels = c.block_out_channels.length;
  const own = c.reverse_transformer_layers_per_block;
  if (own) return perLevel(own, levels, "reverse_transformer_layers_per_block")[i]!;
  const down = c.transformer_layers_per_block;
  const depth = typeof down === "number" ? down : down[levels - 1 - i]!;
  if (typeof depth === "number") return depth;
  throw new UserError(
    "Lists inside transformer_layers_per_block need reverse_transformer_layers_per_block for the way up.",
    { field: "reverse_transformer_layers_per_block" },
  );
}

function addResiduals(states: readonly Tensor[], residuals: UNet2DConditionInputs["downResiduals"]): Tensor[] {
  if (!residuals) return [...states];
  if (residuals.length !== states.length) {
    throw new UserError(
      `This network takes ${states.length} residuals of a control network; given ${residuals.length}.`,
    );
  }
  return states.map((state, i) => (residuals[i] ? add(state, residuals[i]) : state));
}
