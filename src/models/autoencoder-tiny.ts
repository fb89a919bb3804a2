import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { add, clip, mul, relu, sub, type Tensor, tanh, upsampleNearest } from "../graph/index.ts";
import { activation } from "../nn/activation.ts";
import { conv2d } from "../nn/layers.ts";
import { group, type Module, module, namedParameters } from "../nn/module.ts";
import {
  type Config,
  count,
  counts,
  layerCount,
  listOf,
  noEffect,
  number,
  only,
  readConfig,
  savedConfig,
} from "./config.ts";

const className = "AutoencoderTiny";

const fields = {
  in_channels: count().default(3),
  out_channels: count().default(3),
  encoder_block_out_channels: counts().default([64, 64, 64, 64]),
  decoder_block_out_channels: counts().default([64, 64, 64, 64]),
  act_fn: z.string().default("relu"),
  upsample_fn: only(["nearest"]),
  latent_channels: count().default(4),
  upsampling_scaling_factor: count().default(2),
  num_encoder_blocks: listOf(layerCount({ from: 0 })).default([1, 3, 3, 3]),
  num_decoder_blocks: listOf(layerCount({ from: 0 })).default([3, 3, 3, 1]),
  latent_magnitude: number().default(3),
  latent_shift: number().default(0.5),
  // Used by pipelines.
  scaling_factor: number().default(1),
  shift_factor: number().default(0),
  // The decoder's channels once more.
  block_out_channels: noEffect(null),
  force_upcast: noEffect(false),
};

/** Every field of an `AutoencoderTiny`'s configuration. */
export type AutoencoderTinyConfig = z.output<z.ZodObject<typeof fields>>;

/** The network that `autoencoderTiny` builds. */
export type AutoencoderTiny = ReturnType<typeof autoencoderTiny>;

type Layer = Module<[Tensor], Tensor>;
type Step = Layer | ((x: Tensor) => Tensor);

/**
 * The small autoencoder TAESD, as diffusers' `AutoencoderTiny`: `encode` an image [n, c, h, w] in −1 … 1 to latents
 * [n, latent_channels, h/2^k, w/2^k], `decode` them.
 */
export function autoencoderTiny(config: Config = {}) {
  const c = readConfig(className, fields, config);
  checkLengths(c, "num_encoder_blocks", "encoder_block_out_channels");
  checkLengths(c, "num_decoder_blocks", "decoder_block_out_channels");
  const encoder = sequence(encoderSteps(c));
  const decoder = sequence(decoderSteps(c));
  const encode = (image: Tensor) => encoder(mul(add(image, 1), 0.5));
  const decode = (latent: Tensor) => sub(mul(decoder(mul(tanh(mul(latent, 1 / 3)), 3)), 2), 1);
  const network = module({ encoder, decoder }, (image: Tensor) => decode(encode(image)));
  namedParameters(network);
  const span = 2 * c.latent_magnitude;
  return Object.assign(network, {
    encode,
    decode,
    /** Latents as numbers from 0 to 1, as they are kept in pictures. */
    scaleLatents: (x: Tensor) => clip(add(mul(x, 1 / span), c.latent_shift), 0, 1),
    unscaleLatents: (x: Tensor) => mul(sub(x, c.latent_shift), span),
    config: savedConfig(className, { ...c, block_out_channels: c.decoder_block_out_channels }) as Config &
      AutoencoderTinyConfig,
  });
}

function encoderSteps(c: AutoencoderTinyConfig): Step[] {
  const widths = c.encoder_block_out_channels;
  const steps = c.num_encoder_blocks.flatMap((blocks, i): Step[] => [
    i === 0
      ? conv2d(c.in_channels, widths[i]!, { padding: 1 })
      : conv2d(widths[i]!, widths[i]!, { padding: 1, stride: 2, bias: false }),
    ...Array.from({ length: blocks }, () => tinyBlock(widths[i]!, c.act_fn)),
  ]);
  return [...steps, conv2d(widths.at(-1)!, c.latent_channels, { padding: 1 })];
}

function decoderSteps(c: AutoencoderTinyConfig): Step[] {
  const widths = c.decoder_block_out_channels;
  const last = widths.length - 1;
  const steps = c.num_decoder_blocks.flatMap((blocks, i): Step[] => [
    ...Array.from({ length: blocks }, () => tinyBlock(widths[i]!, c.act_fn)),
    ...(i === last ? [] : [(x: Tensor) => upsampleNearest(x, c.upsampling_scaling_factor)]),
    conv2d(widths[i]!, i === last ? c.out_channels : widths[i]!, { padding: 1, bias: i === last }),
  ]);
  return [conv2d(c.latent_channels, widths[0]!, { padding: 1 }), activation(c.act_fn), ...steps];
}

/** Three convolutions with activations between, added to the input, then cut off below zero. */
function tinyBlock(channels: number, act: string): Layer {
  const activate = activation(act);
  const convolution = () => conv2d(channels, channels, { padding: 1 });
  const conv = { 0: convolution(), 2: convolution(), 4: convolution() };
  return module({ conv: group(conv) }, (x: Tensor) => relu(add(conv[4](activate(conv[2](activate(conv[0](x))))), x)));
}

/** Steps one after the other; each counts in the names, those without weights too. */
function sequence(steps: readonly Step[]) {
  const weighted = steps.flatMap((step, i) => ("parts" in step ? [[String(i), step as Layer] as const] : []));
  return module({ layers: group(Object.fromEntries(weighted)) }, (x: Tensor) => steps.reduce((h, step) => step(h), x));
}

function checkLengths(
  c: AutoencoderTinyConfig,
  blocks: "num_encoder_blocks" | "num_decoder_blocks",
  channels: "encoder_block_out_channels" | "decoder_block_out_channels",
): void {
  if (c[blocks].length === c[channels].length) return;
  throw new UserError(
    `${blocks} and ${channels} must have the same length; theirs are ${c[blocks].length} and ${c[channels].length}.`,
    { field: blocks },
  );
}
