import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { add, chunk, clip, exp, mul, sub, sum, type Tensor } from "../graph/index.ts";
import { conv2d } from "../nn/layers.ts";
import { module, namedParameters } from "../nn/module.ts";
import { autoencoderFields, imageDecoder, imageEncoder } from "./autoencoder-blocks.ts";
import { type Config, count, flag, number, readConfig, savedConfig } from "./config.ts";

const className = "AutoencoderKL";

const fields = {
  ...autoencoderFields,
  latent_channels: count().default(4),
  // Used by pipelines, like the scaling factor.
  shift_factor: number().nullable().default(null),
  latents_mean: z.array(number()).nullable().default(null),
  latents_std: z.array(number()).nullable().default(null),
  use_quant_conv: flag(true),
  use_post_quant_conv: flag(true),
};

/** Every field of an `AutoencoderKL`'s configuration. */
export type AutoencoderKLConfig = z.output<z.ZodObject<typeof fields>>;

/** The network that `autoencoderKL` builds. */
export type AutoencoderKL = ReturnType<typeof autoencoderKL>;

/**
 * The variational autoencoder of Stable Diffusion (Rombach et al. 2022), as diffusers' `AutoencoderKL`.
 *
 * `encode`: an image [n, in_channels, h, w] in −1 … 1 → moments [n, 2·latent_channels, h/2^k, w/2^k] (see
 * {@link diagonalGaussian}); `decode`: a latent → an image. Neither applies the scaling factor. Called itself, it decodes
 * the encoding's mean plus, where given, its deviation times `noise`.
 */
export function autoencoderKL(config: Config = {}) {
  const c = readConfig(className, fields, config);
  const width = c.latent_channels;
  for (const [field, other] of [
    ["latents_mean", "latents_std"],
    ["latents_std", "latents_mean"],
  ] as const) {
    const numbers = c[field]?.length;
    if (numbers === width || (numbers === undefined && c[other] === null)) continue;
    throw new UserError(
      `${field} and ${other} must both have a number for each of ${width} latent_channels, or neither be there; ${field} has ${numbers ?? "none"}.`,
      { field },
    );
  }
  const parts = {
    encoder: imageEncoder(c, 2 * width),
    decoder: imageDecoder(c, width),
    quant_conv: c.use_quant_conv ? conv2d(2 * width, 2 * width, { kernel: 1 }) : undefined,
    post_quant_conv: c.use_post_quant_conv ? conv2d(width, width, { kernel: 1 }) : undefined,
  };
  const encode = (image: Tensor) => {
    const h = parts.encoder(image);
    return parts.quant_conv?.(h) ?? h;
  };
  const decode = (latent: Tensor) => parts.decoder(parts.post_quant_conv?.(latent) ?? latent);
  const network = module(parts, (image: Tensor, noise?: Tensor) => {
    const { mean, deviation } = diagonalGaussian(encode(image));
    return decode(noise ? add(mean, mul(deviation, noise)) : mean);
  });
  namedParameters(network);
  return Object.assign(network, {
    encode,
    decode,
    config: savedConfig(className, c) as Config & AutoencoderKLConfig,
  });
}

/**
 * What an encoder's moments [n, 2·c, h, w] say: mean and logarithm of the variance (kept within −30 … 20), each
 * [n, c, h, w].
 */
export function diagonalGaussian(moments: Tensor) {
  const [mean, raw] = chunk(moments, 2, 1) as [Tensor, Tensor];
  const logVariance = clip(raw, -30, 20);
  return {
    mean,
    logVariance,
    deviation: exp(mul(logVariance, 0.5)),
    /** The divergence from the standard normal distribution of each sample [n]: ½ Σ (μ² + σ² − 1 − ln σ²). */
    divergence: () => mul(sum(sub(sub(add(mul(mean, mean), exp(logVariance)), 1), logVariance), [1, 2, 3]), 0.5),
  };
}
