import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { silu, type Tensor } from "../graph/index.ts";
import { conv2d, groupNorm } from "../nn/layers.ts";
import { module } from "../nn/module.ts";
import { upsample } from "../nn/resampling.ts";
import { resnetBlock } from "../nn/resnet-block.ts";
import { checkGroups, count, counts, flag, layerCount, listOf, noEffect, number, oneOf } from "./config.ts";
import { downBlock, midBlock, pixelAttention } from "./unet-2d-blocks.ts";

const DOWN = ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"] as const;
const UP = ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"] as const;
const EPSILON = 1e-6;

/** The fields that all autoencoders of this kind share. */
export const autoencoderFields = {
  in_channels: count().default(3),
  out_channels: count().default(3),
  down_block_types: listOf(oneOf(DOWN)).default(["DownEncoderBlock2D"]),
  up_block_types: listOf(oneOf(UP)).default(["UpDecoderBlock2D"]),
  block_out_channels: counts().default([64]),
  layers_per_block: layerCount().default(1),
  act_fn: z.string().default("silu"),
  norm_num_groups: count().default(32),
  sample_size: z.union([count(), z.array(count()).length(2)], "a size or [height, width]").default(32),
  mid_block_add_attention: flag(true),
  /** Used by pipelines: latents are multiplied by it before they go to the diffusion model. */
  scaling_factor: number().default(0.18215),
  // Everything is computed in float32.
  force_upcast: noEffect(true),
};

/** The fields that all autoencoders of this kind share. */
export type AutoencoderConfig = z.output<z.ZodObject<typeof autoencoderFields>>;

function options(c: AutoencoderConfig) {
  checkGroups(c);
  const resnet = { groups: c.norm_num_groups, epsilon: EPSILON, act: c.act_fn };
  // One head as wide as the image has channels.
  const attention = (channels: number) => () => pixelAttention(channels, channels, c.norm_num_groups, resnet);
  return { resnet, attention };
}

function checkLength(types: readonly string[], c: AutoencoderConfig, field: string): void {
  if (types.length === c.block_out_channels.length) return;
  throw new UserError(
    `${field} and block_out_channels must have the same length; theirs are ${types.length} and ${c.block_out_channels.length}.`,
    { field },
  );
}

/**
 * The encoder of Esser et al. 2021 and Rombach et al. 2022: an image [n, in_channels, h, w] in −1 … 1 → [n, outputs,
 * h/2^k, w/2^k] with k halvings.
 */
export function imageEncoder(c: AutoencoderConfig, outputs: number) {
  checkLength(c.down_block_types, c, "down_block_types");
  const channels = c.block_out_channels;
  const levels = channels.length;
  const lowest = channels[levels - 1]!;
  const { resnet, attention } = options(c);
  const parts = {
    conv_in: conv2d(c.in_channels, channels[0]!, { padding: 1 }),
    down_blocks: c.down_block_types.map((type, i) =>
      downBlock(channels[Math.max(i - 1, 0)]!, channels[i]!, c.layers_per_block, {
        resnet,
        attention: type === "AttnDownEncoderBlock2D" ? attention(channels[i]!) : undefined,
        resampling: i === levels - 1 ? undefined : "conv",
        padding: 0,
      }),
    ),
    mid_block: midBlock(lowest, { resnet, attention: c.mid_block_add_attention ? attention(lowest) : undefined }),
    conv_norm_out: groupNorm(c.norm_num_groups, lowest, { epsilon: EPSILON }),
    conv_out: conv2d(lowest, outputs, { padding: 1 }),
  };
  return module(parts, (image: Tensor) => {
    const h = parts.down_blocks.reduce((x, block) => block(x).at(-1)!, parts.conv_in(image));
    return parts.conv_out(silu(parts.conv_norm_out(parts.mid_block(h))));
  });
}

/** The decoder to it: [n, inputs, h, w] → an image [n, out_channels, h·2^k, w·2^k]. */
export function imageDecoder(c: AutoencoderConfig, inputs: number) {
  checkLength(c.up_block_types, c, "up_block_types");
  const channels = [...c.block_out_channels].reverse();
  const levels = channels.length;
  const { resnet, attention } = options(c);
  const parts = {
    conv_in: conv2d(inputs, channels[0]!, { padding: 1 }),
    up_blocks: c.up_block_types.map((type, i) => {
      const outputs = channels[i]!;
      const layers = Array.from({ length: c.layers_per_block + 1 });
      const attends = type === "AttnUpDecoderBlock2D";
      const attentions = attends ? layers.map(attention(outputs)) : undefined;
      const resnets = layers.map((_, j) =>
        resnetBlock(j === 0 ? channels[Math.max(i - 1, 0)]! : outputs, outputs, resnet),
      );
      const upsamplers = i === levels - 1 ? undefined : [upsample(outputs)];
      return module({ attentions, resnets, upsamplers }, (x: Tensor) => {
        const h = resnets.reduce((y, block, j) => {
          const next = block(y);
          return attentions?.[j]?.(next) ?? next;
        }, x);
        return upsamplers ? upsamplers[0]!(h) : h;
      });
    }),
    mid_block: midBlock(channels[0]!, {
      resnet,
      attention: c.mid_block_add_attention ? attention(channels[0]!) : undefined,
    }),
    conv_norm_out: groupNorm(c.norm_num_groups, channels[levels - 1]!, { epsilon: EPSILON }),
    conv_out: conv2d(channels[levels - 1]!, c.out_channels, { padding: 1 }),
  };
  return module(parts, (latent: Tensor) => {
    const h = parts.up_blocks.reduce((x, block) => block(x), parts.mid_block(parts.conv_in(latent)));
    return parts.conv_out(silu(parts.conv_norm_out(h)));
  });
}
