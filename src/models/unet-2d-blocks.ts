import { invariant } from "../core/errors.ts";
import { concat, type Tensor } from "../graph/index.ts";
import { attention } from "../nn/attention.ts";
import { module } from "../nn/module.ts";
import { downsample, upsample } from "../nn/resampling.ts";
import { type ResnetBlockOptions, resnetBlock } from "../nn/resnet-block.ts";

/** How a block changes height and width at its end. */
export type Resampling = "conv" | "resnet" | undefined;

/** What all blocks of a network have in common. */
export interface BlockOptions {
  /** Options of every residual block. */
  readonly resnet: ResnetBlockOptions;
  /** Width of one attention head; undefined: blocks without attention. */
  readonly headWidth?: number;
  readonly resampling: Resampling;
}

/** Attention over the pixels of an image, added to it. */
function pixelAttention(channels: number, headWidth: number, groups: number | undefined, options: ResnetBlockOptions) {
  return attention(channels, {
    heads: Math.floor(channels / headWidth),
    headWidth,
    bias: true,
    normGroups: groups,
    epsilon: options.epsilon,
    residual: true,
    rescale: options.outputScale,
  });
}

const isDefined = <T>(x: T | undefined): x is T => x !== undefined;

/** A block of the way down; every state it passes through goes over to the way up. */
export function downBlock(
  inputs: number,
  outputs: number,
  layers: number,
  { resnet, headWidth, resampling, padding = 1 }: BlockOptions & { padding?: number },
) {
  const each = Array.from({ length: layers });
  const attentions = each.map(() =>
    headWidth === undefined ? undefined : pixelAttention(outputs, headWidth, resnet.groups, resnet),
  );
  const resnets = each.map((_, i) => resnetBlock(i === 0 ? inputs : outputs, outputs, resnet));
  const convolution = resampling === "conv" ? downsample(outputs, { padding }) : undefined;
  const residual = resampling === "resnet" ? resnetBlock(outputs, outputs, { ...resnet, resample: "down" }) : undefined;
  const last = convolution ?? residual;
  const parts = { attentions: attentions.filter(isDefined), resnets, downsamplers: last && [last] };
  return module(parts, (x: Tensor, embedding: Tensor) => {
    const passed: Tensor[] = [];
    let h = x;
    resnets.forEach((block, i) => {
      h = block(h, embedding);
      h = attentions[i]?.(h) ?? h;
      passed.push(h);
    });
    if (convolution) passed.push(convolution(h));
    if (residual) passed.push(residual(h, embedding));
    return passed;
  });
}

/** The block at the lowest resolution. */
export function midBlock(
  channels: number,
  {
    resnet,
    headWidth,
    attentionGroups,
    layers = 1,
  }: { resnet: ResnetBlockOptions; headWidth?: number; attentionGroups?: number; layers?: number },
) {
  const each = Array.from({ length: layers });
  const attentions = each.map(() =>
    headWidth === undefined ? undefined : pixelAttention(channels, headWidth, attentionGroups, resnet),
  );
  const resnets = [undefined, ...each].map(() => resnetBlock(channels, channels, resnet));
  const parts = { attentions: attentions.filter(isDefined), resnets };
  return module(parts, (x: Tensor, embedding?: Tensor) =>
    resnets.reduce((h, block, i) => block(i === 0 ? h : (attentions[i - 1]?.(h) ?? h), embedding), x),
  );
}

/**
 * A block of the way up. Each residual block takes the state before it with one from the way down (`skipChannels[i]`
 * channels) beside it. `size` is the size to grow to where doubling does not give it.
 */
export function upBlock(
  inputs: number,
  skipChannels: readonly number[],
  outputs: number,
  { resnet, headWidth, resampling }: BlockOptions,
) {
  const attentions = skipChannels.map(() =>
    headWidth === undefined ? undefined : pixelAttention(outputs, headWidth, resnet.groups, resnet),
  );
  const resnets = skipChannels.map((skip, i) => resnetBlock((i === 0 ? inputs : outputs) + skip, outputs, resnet));
  const convolution = resampling === "conv" ? upsample(outputs) : undefined;
  const residual = resampling === "resnet" ? resnetBlock(outputs, outputs, { ...resnet, resample: "up" }) : undefined;
  const last = convolution ?? residual;
  const parts = { attentions: attentions.filter(isDefined), resnets, upsamplers: last && [last] };
  return module(parts, (x: Tensor, skips: Tensor[], embedding: Tensor, size?: readonly [number, number]) => {
    let h = x;
    resnets.forEach((block, i) => {
      const skip = skips.pop();
      invariant(skip, "the way down left too few states");
      h = block(concat([h, skip], 1), embedding);
      h = attentions[i]?.(h) ?? h;
    });
    if (residual) return residual(h, embedding);
    return convolution ? convolution(h, size) : h;
  });
}
