import { leakyRelu, type Tensor } from "../graph/index.ts";
import { conv2d, groupNorm, groupsFor } from "../nn/layers.ts";
import { module } from "../nn/module.ts";

/** The shape of a discriminator. */
export interface PatchDiscriminatorOptions {
  /** Channels of the pictures. */
  readonly channels: number;
  /** Channels after the first convolution; each further level has twice as many, up to 8 times as many. */
  readonly width: number;
  /** How often the picture is halved. */
  readonly levels: number;
}

/** The network that `patchDiscriminator` builds. */
export type PatchDiscriminator = ReturnType<typeof patchDiscriminator>;

/** The slope of rectifiers below zero, and the deviation of weights at the start (Isola et al. 2017, appendix 6). */
const SLOPE = 0.2;
const DEVIATION = 0.02;
/** The most times that the first level's channels are multiplied. */
const WIDEST = 8;
/** The fewest channels that are normalized together: 128 channels have 32 groups. */
const LEAST_IN_GROUP = 4;

/**
 * The discriminator of Isola et al. 2017 (section 3.2.2), which judges overlapping patches: pictures [n, channels, h, w] →
 * one number for each patch [n, 1, h′, w′], large where it looks real. With three levels a patch has 70×70 pixels.
 *
 * In the place of batch normalization stands group normalization (Wu & He 2018), with which the verdict on a picture does
 * not depend on the others of its batch: a batch can then be cut into parts, and real and decoded pictures are not told
 * apart by their statistics.
 */
export function patchDiscriminator({ channels, width, levels }: PatchDiscriminatorOptions) {
  const widths = Array.from({ length: levels + 1 }, (_, i) => width * Math.min(2 ** i, WIDEST));
  const convolution = (from: number, to: number, stride: number, bias = true) =>
    conv2d(from, to, { kernel: 4, stride, padding: 1, bias, initial: DEVIATION });
  const parts = {
    conv_in: convolution(channels, width, 2),
    blocks: widths.slice(1).map((to, i) => {
      // The last block keeps the size.
      const conv = convolution(widths[i]!, to, i === levels - 1 ? 1 : 2, false);
      const norm = groupNorm(groupsFor([to / LEAST_IN_GROUP]), to);
      return module({ conv, norm }, (x: Tensor) => leakyRelu(norm(conv(x)), SLOPE));
    }),
    conv_out: convolution(widths[levels]!, 1, 1),
  };
  return module(parts, (images: Tensor) => {
    const first = leakyRelu(parts.conv_in(images), SLOPE);
    return parts.conv_out(parts.blocks.reduce((x, block) => block(x), first));
  });
}

/** The smallest side of pictures in which a discriminator of so many levels finds a patch. */
export function smallestSide(levels: number): number {
  return 3 * 2 ** levels;
}
