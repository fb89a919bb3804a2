import { invariant, UserError } from "../core/errors.ts";
import { concat, type Tensor } from "../graph/index.ts";
import { attention } from "../nn/attention.ts";
import { type Module, module } from "../nn/module.ts";
import { downsample, upsample } from "../nn/resampling.ts";
import { type ResnetBlockOptions, resnetBlock } from "../nn/resnet-block.ts";
import type { TransformerInputs } from "../nn/transformer-block.ts";

/** How a block changes height and width at its end. */
export type Resampling = "conv" | "resnet" | undefined;

/** Attention over the pixels of an image, perhaps to a text: [n, c, h, w] → the same. */
export type ImageAttention = Module<[x: Tensor, inputs?: TransformerInputs], Tensor>;

/** What all blocks of a network have in common. */
export interface BlockOptions {
  /** Options of every residual block. */
  readonly resnet: ResnetBlockOptions;
  /** Makes the attention after the i-th residual block; undefined: none. */
  readonly attention?: (i: number) => ImageAttention;
  readonly resampling: Resampling;
}

/** The pixels of an image attending to each other, added to the image. */
export function pixelAttention(
  channels: number,
  headWidth: number,
  groups: number | undefined,
  { epsilon, outputScale }: Pick<ResnetBlockOptions, "epsilon" | "outputScale">,
): ImageAttention {
  if (headWidth > channels) {
    throw new UserError(`A head of ${headWidth} channels does not fit into a block of ${channels}.`, {
      hint: "Choose a smaller attention_head_dim.",
      field: "attention_head_dim",
    });
  }
  return attention(channels, {
    heads: Math.floor(channels / headWidth),
    headWidth,
    bias: true,
    normGroups: groups,
    epsilon,
    residual: true,
    rescale: outputScale,
  });
}

/** A block of the way down; gives every state it passes through, for the way up. */
export function downBlock(
  inputs: number,
  outputs: number,
  layers: number,
  { resnet, attention, resampling, padding = 1 }: BlockOptions & { padding?: number },
) {
  const attentions = attention && Array.from({ length: layers }, (_, i) => attention(i));
  const resnets = Array.from({ length: layers }, (_, i) => resnetBlock(i === 0 ? inputs : outputs, outputs, resnet));
  const convolution = resampling === "conv" ? downsample(outputs, { padding }) : undefined;
  const residual = resampling === "resnet" ? resnetBlock(outputs, outputs, { ...resnet, resample: "down" }) : undefined;
  const last = convolution ?? residual;
  return module(
    { attentions, resnets, downsamplers: last && [last] },
    (x: Tensor, embedding?: Tensor, given?: TransformerInputs) => {
      const passed: Tensor[] = [];
      let h = x;
      resnets.forEach((block, i) => {
        h = block(h, embedding);
        h = attentions?.[i]?.(h, given) ?? h;
        passed.push(h);
      });
      if (convolution) passed.push(convolution(h));
      if (residual) passed.push(residual(h, embedding));
      return passed;
    },
  );
}

/** The block at the lowest resolution: a residual block, then `layers` times attention (where given) and another. */
export function midBlock(
  channels: number,
  { resnet, attention, layers = 1 }: Omit<BlockOptions, "resampling"> & { layers?: number },
) {
  const attentions = attention && Array.from({ length: layers }, (_, i) => attention(i));
  const resnets = Array.from({ length: layers + 1 }, () => resnetBlock(channels, channels, resnet));
  return module({ attentions, resnets }, (x: Tensor, embedding?: Tensor, given?: TransformerInputs) =>
    resnets.reduce((h, block, i) => block(i === 0 ? h : (attentions?.[i - 1]?.(h, given) ?? h), embedding), x),
  );
}

/** What the way up takes beside the state itself. */
export interface UpInputs {
  readonly embedding?: Tensor;
  readonly given?: TransformerInputs;
  /** The size to grow to where doubling does not give it. */
  readonly size?: readonly [number, number];
  readonly onWayUp?: WayUp;
}

/**
 * Sees the state before each layer of the way up, and how many states of the way down are still to be joined to it; what it
 * returns goes on in its place.
 */
export type WayUp = (h: Tensor, left: number) => Tensor;

/**
 * A block of the way up. Each residual block takes, beside the state, one from the way down (`skipChannels[i]` channels):
 * the last of `skips`, which is taken out.
 */
export function upBlock(
  inputs: number,
  skipChannels: readonly number[],
  outputs: number,
  { resnet, attention, resampling }: BlockOptions,
) {
  const attentions = attention && skipChannels.map((_, i) => attention(i));
  const resnets = skipChannels.map((skip, i) => resnetBlock((i === 0 ? inputs : outputs) + skip, outputs, resnet));
  const convolution = resampling === "conv" ? upsample(outputs) : undefined;
  const residual = resampling === "resnet" ? resnetBlock(outputs, outputs, { ...resnet, resample: "up" }) : undefined;
  const last = convolution ?? residual;
  return module(
    { attentions, resnets, upsamplers: last && [last] },
    (x: Tensor, skips: Tensor[], { embedding, given, size, onWayUp }: UpInputs) => {
      let h = x;
      resnets.forEach((block, i) => {
        if (onWayUp) h = onWayUp(h, skips.length);
        const skip = skips.pop();
        invariant(skip, "the way down left too few states");
        h = block(concat([h, skip], 1), embedding);
        h = attentions?.[i]?.(h, given) ?? h;
      });
      if (residual) return residual(h, embedding);
      return convolution ? convolution(h, size) : h;
    },
  );
}
