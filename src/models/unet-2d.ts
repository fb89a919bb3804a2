import { z } from "zod";
import { invariant, UserError } from "../core/errors.ts";
import { add, cast, div, mul, reshape, sub, type Tensor } from "../graph/index.ts";
import { activation } from "../nn/activation.ts";
import { conv2d, embedding, groupNorm } from "../nn/layers.ts";
import { module, namedParameters } from "../nn/module.ts";
import type { Dropout } from "../nn/resnet-block.ts";
import { gaussianFourierProjection, sinusoids, timestepEmbedding } from "../nn/timestep-embedding.ts";
import {
  type Config,
  checkGroups,
  count,
  counts,
  flag,
  layerCount,
  listOf,
  number,
  oneOf,
  only,
  readConfig,
  sampleSize,
  savedConfig,
} from "./config.ts";
import { downBlock, midBlock, pixelAttention, type Resampling, upBlock } from "./unet-2d-blocks.ts";

const className = "UNet2DModel";

const DOWN = ["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"] as const;
const UP = ["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"] as const;

const fields = {
  sample_size: sampleSize().default(null),
  in_channels: count().default(3),
  out_channels: count().default(3),
  center_input_sample: flag(false),
  time_embedding_type: oneOf(["positional", "fourier", "learned"]).default("positional"),
  time_embedding_dim: count().nullable().default(null),
  freq_shift: number().default(0),
  flip_sin_to_cos: flag(true),
  down_block_types: listOf(oneOf(DOWN)).default(["DownBlock2D", ...Array(3).fill("AttnDownBlock2D")]),
  mid_block_type: only(["UNetMidBlock2D", null]),
  up_block_types: listOf(oneOf(UP)).default([...Array(3).fill("AttnUpBlock2D"), "UpBlock2D"]),
  block_out_channels: counts().default([224, 448, 672, 896]),
  layers_per_block: layerCount().default(2),
  mid_block_scale_factor: number().default(1),
  downsample_padding: only([1, 0]),
  downsample_type: oneOf(["conv", "resnet"]).default("conv"),
  upsample_type: oneOf(["conv", "resnet"]).default("conv"),
  dropout: number().min(0).max(1).default(0),
  act_fn: z.string().default("silu"),
  attention_head_dim: count().nullable().default(8),
  norm_num_groups: count().default(32),
  attn_norm_num_groups: count().nullable().default(null),
  norm_eps: number().default(1e-5),
  resnet_time_scale_shift: oneOf(["default", "scale_shift"]).default("default"),
  add_attention: flag(true),
  class_embed_type: oneOf(["timestep", "identity"]).nullable().default(null),
  num_class_embeds: count().nullable().default(null),
  num_train_timesteps: count().nullable().default(null),
};

/** Every field of a `UNet2DModel`'s configuration. */
export type UNet2DConfig = z.output<z.ZodObject<typeof fields>>;

/** The network that `unet2d` builds. */
export type UNet2D = ReturnType<typeof unet2d>;

/**
 * The unconditional or class-conditional U-Net of Ho et al. 2020, as diffusers' `UNet2DModel`: same configuration, same
 * parameter names.
 *
 * Called with a noisy batch [n, in_channels, h, w], timesteps [n] as float32 and, where the network has classes, their
 * labels [n] as int64 (`class_embed_type` "timestep": [n] float32; "identity": the embedding [n, width] itself); gives
 * [n, out_channels, h, w].
 *
 * @param config diffusers' `config.json`; fields left out have diffusers' defaults
 * @param options.dropout how to drop activations, with the configuration's probability; a training graph gives it.
 *   Without it nothing is dropped, as in Python's eval mode.
 * @throws UserError for a configuration that cannot be taken, and when called with a size the strides do not allow
 */
export function unet2d(
  config: Config = {},
  { dropout }: { dropout?: (x: Tensor, probability: number) => Tensor } = {},
) {
  const c = readConfig(className, fields, config);
  checkLevels(c);
  const channels = c.block_out_channels;
  const levels = channels.length;
  const width = c.time_embedding_dim ?? channels[0]! * 4;
  const activate = activation(c.act_fn);
  const drop: Dropout | undefined = dropout && c.dropout > 0 ? (x) => dropout(x, c.dropout) : undefined;
  const resnet = {
    timeChannels: width,
    timeScaleShift: c.resnet_time_scale_shift,
    // Every block would activate the same embedding: it is done once, below.
    skipTimeAct: true,
    groups: c.norm_num_groups,
    epsilon: c.norm_eps,
    act: c.act_fn,
    dropout: drop,
  } as const;
  const attend =
    (at: number, groups: number | undefined, outputScale = 1) =>
    () =>
      pixelAttention(at, c.attention_head_dim ?? at, groups, { epsilon: c.norm_eps, outputScale });
  /** Only blocks with attention look at `resampling`; the others have their own way. */
  const options = (type: string, blockChannels: number, last: boolean, resampling: Resampling) => {
    const own = type.startsWith("Attn") ? resampling : type.startsWith("Resnet") ? "resnet" : "conv";
    const attention = type.startsWith("Attn") ? attend(blockChannels, c.norm_num_groups) : undefined;
    return { resnet, attention, resampling: last ? undefined : own } as const;
  };

  const down = c.down_block_types.map((type, i) =>
    downBlock(channels[Math.max(i - 1, 0)]!, channels[i]!, c.layers_per_block, {
      ...options(type, channels[i]!, i === levels - 1, c.downsample_type),
      padding: c.downsample_padding,
    }),
  );
  const lowest = channels[levels - 1]!;
  const scale = c.mid_block_scale_factor;
  const middleGroups = c.resnet_time_scale_shift === "default" ? c.norm_num_groups : undefined;
  const mid =
    c.mid_block_type === null
      ? undefined
      : midBlock(lowest, {
          resnet: { ...resnet, outputScale: scale },
          attention: c.add_attention ? attend(lowest, c.attn_norm_num_groups ?? middleGroups, scale) : undefined,
        });
  const up = c.up_block_types.map((type, i) => {
    const level = levels - 1 - i;
    const outputs = channels[level]!;
    const skips = [...Array(c.layers_per_block).fill(outputs), channels[Math.max(level - 1, 0)]!];
    const below = channels[Math.min(level + 1, levels - 1)]!;
    return upBlock(below, skips, outputs, options(type, outputs, i === levels - 1, c.upsample_type));
  });
  const fourier = c.time_embedding_type === "fourier";
  const timeInputs = fourier ? 2 * channels[0]! : channels[0]!;
  const parts = {
    conv_in: conv2d(c.in_channels, channels[0]!, { padding: 1 }),
    time_proj: timeProjection(c),
    time_embedding: timestepEmbedding(timeInputs, width),
    class_embedding: classEmbedding(c, timeInputs, width),
    down_blocks: down,
    mid_block: mid,
    up_blocks: up,
    conv_norm_out: groupNorm(c.norm_num_groups, channels[0]!, { epsilon: c.norm_eps }),
    conv_out: conv2d(channels[0]!, c.out_channels, { padding: 1 }),
  };

  const projectTime = (t: Tensor) => {
    if (parts.time_proj) return parts.time_proj(c.time_embedding_type === "learned" ? cast(t, "int64") : t);
    return sinusoids(t, channels[0]!, { flipSinToCos: c.flip_sin_to_cos, frequencyShift: c.freq_shift });
  };

  const network = module(parts, (sample: Tensor, timestep: Tensor, classLabels?: Tensor) => {
    checkSize(sample, levels);
    let time = parts.time_embedding(projectTime(timestep));
    if (hasClasses(c) !== (classLabels !== undefined)) {
      throw new UserError(
        classLabels
          ? "Class labels were given to a network without classes (num_class_embeds and class_embed_type are null)."
          : "This network is class-conditional: class labels are needed.",
      );
    }
    if (classLabels) {
      const labels = c.class_embed_type === "timestep" ? projectTime(cast(classLabels, "float32")) : classLabels;
      time = add(time, parts.class_embedding ? parts.class_embedding(labels) : labels);
    }
    const activated = activate(time);
    let h = parts.conv_in(c.center_input_sample ? sub(mul(sample, 2), 1) : sample);
    const skips = [h];
    for (const block of down) {
      const passed = block(h, activated);
      skips.push(...passed);
      h = passed.at(-1)!;
    }
    if (mid) h = mid(h, activated);
    for (const block of up) h = block(h, skips, { embedding: activated });
    invariant(skips.length === 0, "the way up left states unused");
    const out = parts.conv_out(activation("silu")(parts.conv_norm_out(h)));
    return fourier ? div(out, reshape(timestep, [timestep.shape[0]!, 1, 1, 1])) : out;
  });
  namedParameters(network);
  return Object.assign(network, { config: savedConfig(className, c) as Config & UNet2DConfig });
}

function timeProjection(c: UNet2DConfig) {
  switch (c.time_embedding_type) {
    case "positional":
      return undefined;
    case "fourier":
      return gaussianFourierProjection(c.block_out_channels[0]!);
    case "learned":
      if (c.num_train_timesteps === null) {
        throw new UserError('time_embedding_type "learned" needs num_train_timesteps, the number of embeddings.', {
          field: "num_train_timesteps",
        });
      }
      return embedding(c.num_train_timesteps, c.block_out_channels[0]!);
  }
}

const hasClasses = (c: UNet2DConfig) => c.class_embed_type !== null || c.num_class_embeds !== null;

function classEmbedding(c: UNet2DConfig, timeInputs: number, width: number) {
  if (c.class_embed_type === "timestep") return timestepEmbedding(timeInputs, width);
  if (c.class_embed_type === "identity" || c.num_class_embeds === null) return undefined;
  return embedding(c.num_class_embeds, width);
}

function checkLevels({ down_block_types, up_block_types, block_out_channels, norm_num_groups }: UNet2DConfig): void {
  const lengths = [down_block_types.length, up_block_types.length, block_out_channels.length];
  if (new Set(lengths).size > 1) {
    throw new UserError(
      `down_block_types, up_block_types and block_out_channels must be lists of one length; theirs are ${lengths.join(", ")}.`,
      { field: "block_out_channels" },
    );
  }
  checkGroups({ block_out_channels, norm_num_groups });
}

/** Throws unless halving and doubling at each level gives every size back. */
function checkSize(sample: Tensor, levels: number): void {
  if (sample.shape.length !== 4) throw new UserError(`A batch [n, channels, h, w] is needed; given [${sample.shape}].`);
  const stride = 2 ** (levels - 1);
  const [height, width] = sample.shape.slice(2);
  if (height! % stride === 0 && width! % stride === 0) return;
  const nearest = [height!, width!].map((n) => Math.max(stride, Math.round(n / stride) * stride)).join("×");
  throw new UserError(
    `This network of ${levels} levels takes heights and widths that are multiples of ${stride}; given ${height}×${width}.`,
    { hint: `The nearest size it takes is ${nearest}.`, field: "size" },
  );
}
