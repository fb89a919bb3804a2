import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { mul, sub, type Tensor } from "../graph/index.ts";
import type { ResnetBlockOptions } from "../nn/resnet-block.ts";
import { transformer2d } from "../nn/transformer-2d.ts";
import type { TransformerInputs } from "../nn/transformer-block.ts";
import {
  checkGroups,
  count,
  countOrCounts,
  counts,
  flag,
  layerCount,
  layersOrList,
  listOf,
  noEffect,
  number,
  oneOf,
  only,
} from "./config.ts";
import { downBlock, midBlock } from "./unet-2d-blocks.ts";
import { conditioningFields } from "./unet-2d-conditioning.ts";

const DOWN = ["CrossAttnDownBlock2D", "DownBlock2D", "ResnetDownsampleBlock2D"] as const;

/**
 * Transformer layers: for all blocks, for each block, or for each layer of each block. With none, what stands around them
 * (normalization and projections) is there all the same, as in diffusers.
 */
const transformerLayers = () =>
  z.union(
    [layerCount({ from: 0 }), listOf(layersOrList({ from: 0 }))],
    "a number of layers, or a list with an entry for each block",
  );

/** The fields of the way down and the middle; shared by the text-conditional U-Net and its control networks. */
export const encoderFields = {
  ...conditioningFields,
  in_channels: count().default(4),
  down_block_types: listOf(oneOf(DOWN)).default([...Array(3).fill("CrossAttnDownBlock2D"), "DownBlock2D"]),
  mid_block_type: oneOf(["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"]).nullable().default("UNetMidBlock2DCrossAttn"),
  only_cross_attention: z.union([z.boolean(), listOf(z.boolean())], "true or false, or a list of them").default(false),
  block_out_channels: counts().default([320, 640, 1280, 1280]),
  layers_per_block: layersOrList().default(2),
  downsample_padding: only([1, 0]),
  mid_block_scale_factor: number().default(1),
  norm_num_groups: count().default(32),
  norm_eps: number().default(1e-5),
  cross_attention_dim: countOrCounts().default(1280),
  transformer_layers_per_block: transformerLayers().default(1),
  /** Despite its name the number of heads. */
  attention_head_dim: countOrCounts().default(8),
  num_attention_heads: only([null]),
  use_linear_projection: flag(false),
  upcast_attention: noEffect(false),
  resnet_time_scale_shift: oneOf(["default", "scale_shift"]).default("default"),
};

/** The fields of the way down and the middle. */
export type EncoderConfig = z.output<z.ZodObject<typeof encoderFields>>;

/** A setting for each of `levels` blocks, from one for all or a list. */
export function perLevel<T>(value: T | readonly T[], levels: number, field: string): readonly T[] {
  if (!Array.isArray(value)) return Array<T>(levels).fill(value as T);
  if (value.length !== levels) {
    throw new UserError(
      `${field} must be one value or a list of ${levels}, one for each block; it has ${value.length}.`,
      {
        field,
      },
    );
  }
  return value;
}

/** How the blocks of one network are built, on the way down and up. */
export function conditionBlocks(c: EncoderConfig, embeddingWidth: number, dropout?: ResnetBlockOptions["dropout"]) {
  const resnet: ResnetBlockOptions = {
    timeChannels: embeddingWidth,
    timeScaleShift: c.resnet_time_scale_shift,
    // Every block would activate the same embedding: it is done once, by the network.
    skipTimeAct: true,
    groups: c.norm_num_groups,
    epsilon: c.norm_eps,
    act: c.act_fn,
    dropout,
    // Every block starts as the identity (Ho et al. 2020's and Dhariwal & Nichol 2021's code).
    outInitial: "zero",
  };
  const levels = c.block_out_channels.length;
  const heads = perLevel(c.attention_head_dim, levels, "attention_head_dim");
  const contextWidth = perLevel(c.cross_attention_dim, levels, "cross_attention_dim");
  const onlyCross = perLevel(c.only_cross_attention, levels, "only_cross_attention");

  /** Makes the i-th transformer of a block at `level`. */
  const transformer = (level: number, layers: number | readonly number[]) => (i: number) => {
    const channels = c.block_out_channels[level]!;
    if (heads[level]! > channels) {
      throw new UserError(
        `${heads[level]} heads (attention_head_dim) do not fit into a block of ${channels} channels.`,
        {
          field: "attention_head_dim",
        },
      );
    }
    return transformer2d(channels, {
      heads: heads[level]!,
      headWidth: Math.floor(channels / heads[level]!),
      layers: typeof layers === "number" ? layers : layers[i],
      groups: c.norm_num_groups,
      contextWidth: contextWidth[level],
      linearProjection: c.use_linear_projection,
      onlyCrossAttention: onlyCross[level],
      outInitial: "zero",
    });
  };
  return { resnet, transformer };
}

/** The blocks of the way down and the middle, as parts and as functions. */
export function unet2dEncoder(c: EncoderConfig, embeddingWidth: number, dropout?: ResnetBlockOptions["dropout"]) {
  const channels = c.block_out_channels;
  const levels = channels.length;
  if (c.down_block_types.length !== levels) {
    throw new UserError(
      `down_block_types and block_out_channels must have the same length; theirs are ${c.down_block_types.length} and ${levels}.`,
      { field: "block_out_channels" },
    );
  }
  checkGroups(c);
  const { resnet, transformer } = conditionBlocks(c, embeddingWidth, dropout);
  const layers = perLevel(c.layers_per_block, levels, "layers_per_block");
  const depth = perLevel<number | number[]>(
    c.transformer_layers_per_block as number | (number | number[])[],
    levels,
    "transformer_layers_per_block",
  );
  const down_blocks = c.down_block_types.map((type, i) =>
    downBlock(channels[Math.max(i - 1, 0)]!, channels[i]!, layers[i]!, {
      resnet,
      attention: type === "CrossAttnDownBlock2D" ? transformer(i, depth[i]!) : undefined,
      resampling: i === levels - 1 ? undefined : type === "ResnetDownsampleBlock2D" ? "resnet" : "conv",
      padding: c.downsample_padding,
    }),
  );
  // The attention of the middle always looks at the pixels first, whatever only_cross_attention says.
  const middle = conditionBlocks({ ...c, only_cross_attention: false }, embeddingWidth, dropout);
  const crosses = c.mid_block_type === "UNetMidBlock2DCrossAttn";
  const mid_block =
    c.mid_block_type === null
      ? undefined
      : midBlock(channels[levels - 1]!, {
          resnet: { ...resnet, outputScale: c.mid_block_scale_factor },
          attention: crosses ? middle.transformer(levels - 1, depth[levels - 1]!) : undefined,
          layers: crosses ? 1 : 0,
        });
  return {
    parts: { down_blocks, mid_block },
    /** Every state of the way down, `h` first. */
    down(h: Tensor, embedding: Tensor, given: TransformerInputs): Tensor[] {
      const states = [h];
      for (const block of down_blocks) states.push(...block(states.at(-1)!, embedding, given));
      return states;
    },
    mid: (h: Tensor, embedding: Tensor, given: TransformerInputs) => mid_block?.(h, embedding, given) ?? h,
  };
}

/** A mask of 1 (keep) and 0 (leave out), [n, keys], as numbers to add to the scores. */
export function maskBias(mask: Tensor): Tensor {
  return mul(sub(1, mask), -10_000);
}
