import type { z } from "zod";
import { UserError } from "../core/errors.ts";
import { add, concat, mean, mul, silu, slice, type Tensor } from "../graph/index.ts";
import { activation } from "../nn/activation.ts";
import { conv2d } from "../nn/layers.ts";
import { module, namedParameters } from "../nn/module.ts";
import { type Config, count, counts, flag, layerCount, oneOf, readConfig, savedConfig } from "./config.ts";
import { type ConditioningInputs, conditioning } from "./unet-2d-conditioning.ts";
import { encoderFields, maskBias, perLevel, unet2dEncoder } from "./unet-2d-encoder.ts";

const className = "ControlNetModel";

const fields = {
  ...encoderFields,
  layers_per_block: layerCount().default(2),
  conditioning_channels: count().default(3),
  controlnet_conditioning_channel_order: oneOf(["rgb", "bgr"]).default("rgb"),
  conditioning_embedding_out_channels: counts().default([16, 32, 96, 256]),
  global_pool_conditions: flag(false),
};

/** Every field of a `ControlNetModel`'s configuration. */
export type ControlNetConfig = z.output<z.ZodObject<typeof fields>>;

/** The network that `controlNet` builds. */
export type ControlNet = ReturnType<typeof controlNet>;

/** What the network can be given beside sample, timestep, text and picture. */
export interface ControlNetInputs extends ConditioningInputs {
  /** Factor on everything it gives: a number, or a scalar tensor that can change from run to run. */
  readonly scale?: number | Tensor;
  /** Weaken the finer levels, from 0.1 to 1 times the factor: for use without a prompt. */
  readonly guessMode?: boolean;
  /** Which text tokens to look at: [n, tokens], 1 or 0 as float32. */
  readonly contextMask?: Tensor;
}

/**
 * A control network (Zhang et al. 2023) for the text-conditional U-Net, as diffusers' `ControlNetModel`.
 *
 * Called with the U-Net's sample [n, in_channels, h, w], timestep [n], text [n, tokens, width], and a picture
 * [n, conditioning_channels, k·h, k·w] with k = 2^(m − 1) for m `conditioning_embedding_out_channels`, as published 8; gives
 * what is to be added to each state of the U-Net's way down and to its middle.
 *
 * @throws UserError for a configuration that cannot be taken, and when called with a picture of another size
 */
export function controlNet(config: Config = {}) {
  const c = readConfig(className, fields, config);
  const channels = c.block_out_channels;
  const levels = channels.length;
  const conditions = conditioning(c);
  const encoder = unet2dEncoder(c, conditions.width);
  const layers = perLevel(c.layers_per_block, levels, "layers_per_block");
  const stateChannels = [
    channels[0]!,
    ...channels.flatMap((n, i) => Array<number>(layers[i]! + (i === levels - 1 ? 0 : 1)).fill(n)),
  ];
  const zero = (n: number) => conv2d(n, n, { kernel: 1, initial: "zero" });
  const parts = {
    conv_in: conv2d(c.in_channels, channels[0]!, { padding: 1 }),
    ...conditions.parts,
    controlnet_cond_embedding: pictureEmbedding(c),
    ...encoder.parts,
    controlnet_down_blocks: stateChannels.map(zero),
    controlnet_mid_block: zero(channels[levels - 1]!),
  };
  const activate = activation(c.act_fn);

  const forward = (sample: Tensor, timestep: Tensor, text: Tensor, picture: Tensor, inputs: ControlNetInputs = {}) => {
    const { scale = 1, guessMode = false, contextMask } = inputs;
    const embedded = activate(conditions.embed(timestep, text, inputs));
    const given = { context: conditions.context(text), contextMask: contextMask && maskBias(contextMask) };
    const ordered = c.controlnet_conditioning_channel_order === "bgr" ? reverseChannels(picture) : picture;
    const start = add(parts.conv_in(sample), sizedLike(sample, parts.controlnet_cond_embedding(ordered), picture));
    const states = encoder.down(start, embedded, given);
    const middle = parts.controlnet_mid_block(encoder.mid(states.at(-1)!, embedded, given));
    const all = [...states.map((state, i) => parts.controlnet_down_blocks[i]!(state)), middle];
    const scaled = all.map((x, i) => {
      const weaker = guessMode && !c.global_pool_conditions ? 10 ** (i / (all.length - 1) - 1) : 1;
      const factored = scale === 1 ? x : mul(x, scale);
      const result = weaker === 1 ? factored : mul(factored, weaker);
      return c.global_pool_conditions ? mean(result, [2, 3], { keepDims: true }) : result;
    });
    return { down: scaled.slice(0, -1), mid: scaled.at(-1)! };
  };
  /** The embedded picture, if it is as large as the sample. */
  const sizedLike = (sample: Tensor, embedded: Tensor, picture: Tensor) => {
    const [size, given] = [sample, embedded].map(({ shape }) => shape.slice(2));
    if (String(size) === String(given)) return embedded;
    const factor = 2 ** (c.conditioning_embedding_out_channels.length - 1);
    const needed = size!.map((side) => factor * side).join("×");
    throw new UserError(
      `The picture for this control network must be ${needed} for a sample of ${size!.join("×")}; given ${picture.shape.slice(2).join("×")}.`,
      { field: "picture" },
    );
  };
  const network = module(parts, forward);
  namedParameters(network);
  return Object.assign(network, { config: savedConfig(className, c) as Config & ControlNetConfig });
}

/** Brings the picture to the latent's size: convolutions, each second one halving. */
function pictureEmbedding({
  conditioning_channels,
  conditioning_embedding_out_channels: widths,
  block_out_channels,
}: ControlNetConfig) {
  const parts = {
    conv_in: conv2d(conditioning_channels, widths[0]!, { padding: 1 }),
    blocks: widths
      .slice(1)
      .flatMap((width, i) => [
        conv2d(widths[i]!, widths[i]!, { padding: 1 }),
        conv2d(widths[i]!, width, { padding: 1, stride: 2 }),
      ]),
    conv_out: conv2d(widths.at(-1)!, block_out_channels[0]!, { padding: 1, initial: "zero" }),
  };
  return module(parts, (picture: Tensor) =>
    parts.conv_out(parts.blocks.reduce((h, block) => silu(block(h)), silu(parts.conv_in(picture)))),
  );
}

function reverseChannels(x: Tensor): Tensor {
  const channels = Array.from({ length: x.shape[1]! }, (_, i) => slice(x, 1, i, i + 1));
  return concat(channels.reverse(), 1);
}
