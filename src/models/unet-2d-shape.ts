import { UserError } from "../core/errors.ts";
import type { Config } from "./config.ts";

/** A U-Net in the words of someone who trains one, whatever it is conditioned on. */
interface AnyUNetShape {
  /** Height and width of the images, or [height, width]. */
  readonly size: number | readonly [number, number];
  /** Channels of the images: 3 for colour, 1 for gray. */
  readonly imageChannels?: number;
  /** Channels of the network at each level; height and width halve from one level to the next. */
  readonly channels?: readonly number[];
  /** Heights at which pixels attend to each other, such as [16]. */
  readonly attentionAt?: readonly number[];
  /** Attention at the lowest level's middle block. */
  readonly attentionInMiddle?: boolean;
  /** Residual blocks a level. */
  readonly layers?: number;
  /** Width of one attention head. */
  readonly headWidth?: number;
  /** Timestep as scale and shift instead of a shift. */
  readonly scaleShift?: boolean;
  /** Output channels, where not those of the image (twice as many for a learned variance). */
  readonly outputChannels?: number;
}

/** A U-Net that draws pictures of all kinds or of classes. */
export interface UNet2DShape extends AnyUNetShape {
  /** How many classes the network can be asked for. */
  readonly classes?: number;
}

/** A U-Net that draws what a text says: wherever pixels attend to each other, they attend to the text, too. */
export interface UNet2DConditionShape extends AnyUNetShape {
  /** Width of the text's states. */
  readonly textWidth: number;
  /** Transformer blocks, each with both attentions, at every place of attention. */
  readonly transformerLayers?: number;
}

/**
 * The `UNet2DModel` configuration of a shape.
 * @throws UserError where attention is asked for at a height that no level has
 */
export function unet2dConfig({ headWidth = 8, attentionInMiddle = true, classes, ...shape }: UNet2DShape): Config {
  const { attends, shared } = sharedConfig({ imageChannels: 3, ...shape });
  return {
    _class_name: "UNet2DModel",
    ...shared,
    down_block_types: attends.map((here) => (here ? "AttnDownBlock2D" : "DownBlock2D")),
    up_block_types: attends.map((here) => (here ? "AttnUpBlock2D" : "UpBlock2D")).reverse(),
    attention_head_dim: headWidth,
    add_attention: attentionInMiddle,
    ...(classes === undefined ? {} : { num_class_embeds: classes }),
  };
}

/**
 * The `UNet2DConditionModel` configuration of a shape.
 * @throws UserError where attention is asked for at a height that no level has, or nowhere
 */
export function unet2dConditionConfig({
  headWidth = 8,
  attentionInMiddle = true,
  textWidth,
  transformerLayers = 1,
  ...shape
}: UNet2DConditionShape): Config {
  const { attends, shared } = sharedConfig({ imageChannels: 4, ...shape });
  if (!attentionInMiddle && !attends.includes(true)) {
    throw new UserError("A network without attention cannot look at a text.", {
      hint: "Name a height in attentionAt, or leave the attention at the lowest level.",
      field: "attentionAt",
    });
  }
  return {
    _class_name: "UNet2DConditionModel",
    ...shared,
    down_block_types: attends.map((here) => (here ? "CrossAttnDownBlock2D" : "DownBlock2D")),
    mid_block_type: attentionInMiddle ? "UNetMidBlock2DCrossAttn" : "UNetMidBlock2D",
    up_block_types: attends.map((here) => (here ? "CrossAttnUpBlock2D" : "UpBlock2D")).reverse(),
    transformer_layers_per_block: transformerLayers,
    // Numbers of heads, see the network's configuration.
    attention_head_dim: shared.block_out_channels.map((width) => Math.max(1, Math.floor(width / headWidth))),
    cross_attention_dim: textWidth,
    // The text as one vector beside the timestep: without it a network from nothing takes long to hear the words.
    addition_embed_type: "text",
    addition_embed_type_num_heads: headsOf(textWidth),
    use_linear_projection: true,
  };
}

/** The fields that both have, and at which levels pixels attend to each other. */
function sharedConfig({
  size,
  imageChannels,
  channels = [64, 128, 256],
  attentionAt = [],
  layers = 2,
  scaleShift = false,
  outputChannels = imageChannels,
}: AnyUNetShape & { readonly imageChannels: number }) {
  return {
    attends: attendingLevels(size, channels, attentionAt),
    shared: {
      sample_size: typeof size === "number" ? size : [...size],
      in_channels: imageChannels,
      out_channels: outputChannels,
      block_out_channels: [...channels],
      layers_per_block: layers,
      norm_num_groups: groupsFor(channels),
      resnet_time_scale_shift: scaleShift ? "scale_shift" : "default",
    },
  };
}

/** Heads of 32 channels, or as many more as divide the width. */
function headsOf(width: number): number {
  let heads = Math.max(1, Math.round(width / 32));
  while (width % heads !== 0) heads--;
  return heads;
}

/** At which levels pixels attend to each other. */
function attendingLevels(
  size: AnyUNetShape["size"],
  channels: readonly number[],
  attentionAt: readonly number[],
): boolean[] {
  const height = typeof size === "number" ? size : size[0];
  const heights = channels.map((_, level) => height / 2 ** level);
  const absent = attentionAt.filter((at) => !heights.includes(at));
  if (absent.length > 0) {
    throw new UserError(
      `No level of the network has height ${absent.join(" or ")}; with images of height ${height} they have ${heights.join(", ")}.`,
      { field: "attentionAt" },
    );
  }
  return heights.map((at) => attentionAt.includes(at));
}

/** Groups of the normalizations: up to 32 that divide all channels, with at least four channels in each (Karras et al. 2022). */
function groupsFor(channels: readonly number[]): number {
  let groups = Math.max(1, Math.min(32, Math.floor(Math.min(...channels) / 4)));
  while (channels.some((n) => n % groups !== 0)) groups--;
  return groups;
}
