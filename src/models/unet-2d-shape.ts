import { UserError } from "../core/errors.ts";
import type { Config } from "./config.ts";

/** A U-Net in the words of someone who trains one. */
export interface UNet2DShape {
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
  /** How many classes the network can be asked for. */
  readonly classes?: number;
  /** Timestep as scale and shift instead of a shift. */
  readonly scaleShift?: boolean;
  /** Output channels, where not those of the image (twice as many for a learned variance). */
  readonly outputChannels?: number;
}

/**
 * The `UNet2DModel` configuration of a shape.
 * @throws UserError where attention is asked for at a height that no level has
 */
export function unet2dConfig({
  size,
  imageChannels = 3,
  channels = [64, 128, 256],
  attentionAt = [],
  attentionInMiddle = true,
  layers = 2,
  headWidth = 8,
  classes,
  scaleShift = false,
  outputChannels = imageChannels,
}: UNet2DShape): Config {
  const height = typeof size === "number" ? size : size[0];
  const heights = channels.map((_, level) => height / 2 ** level);
  const absent = attentionAt.filter((at) => !heights.includes(at));
  if (absent.length > 0) {
    throw new UserError(
      `No level of the network has height ${absent.join(" or ")}; with images of height ${height} they have ${heights.join(", ")}.`,
      { field: "attentionAt" },
    );
  }
  const attends = heights.map((at) => attentionAt.includes(at));
  return {
    _class_name: "UNet2DModel",
    sample_size: typeof size === "number" ? size : [...size],
    in_channels: imageChannels,
    out_channels: outputChannels,
    block_out_channels: [...channels],
    down_block_types: attends.map((here) => (here ? "AttnDownBlock2D" : "DownBlock2D")),
    up_block_types: attends.map((here) => (here ? "AttnUpBlock2D" : "UpBlock2D")).reverse(),
    layers_per_block: layers,
    attention_head_dim: headWidth,
    add_attention: attentionInMiddle,
    norm_num_groups: groupsFor(channels),
    resnet_time_scale_shift: scaleShift ? "scale_shift" : "default",
    ...(classes === undefined ? {} : { num_class_embeds: classes }),
  };
}

/** Groups of the normalizations: up to 32 that divide all channels, with at least four channels in each (Karras et al. 2022). */
function groupsFor(channels: readonly number[]): number {
  let groups = Math.max(1, Math.min(32, Math.floor(Math.min(...channels) / 4)));
  while (channels.some((n) => n % groups !== 0)) groups--;
  return groups;
}
