import type { z } from "zod";
import {
  add,
  argMin,
  gather,
  matmul,
  mean,
  mul,
  reshape,
  stopGradient,
  sub,
  sum,
  type Tensor,
  transpose,
} from "../graph/index.ts";
import { conv2d } from "../nn/layers.ts";
import { group, module, namedParameters, parameter } from "../nn/module.ts";
import { autoencoderFields, imageDecoder, imageEncoder } from "./autoencoder-blocks.ts";
import { type Config, count, noEffect, only, readConfig, savedConfig } from "./config.ts";

const className = "VQModel";

const fields = {
  ...autoencoderFields,
  latent_channels: count().default(3),
  num_vq_embeddings: count().default(256),
  vq_embed_dim: count().nullable().default(null),
  norm_type: only(["group"]),
  lookup_from_codebook: only([false]),
  force_upcast: noEffect(false),
};

/** Every field of a `VQModel`'s configuration. */
export type VQModelConfig = z.output<z.ZodObject<typeof fields>>;

/** The network that `vqModel` builds. */
export type VQModel = ReturnType<typeof vqModel>;

/**
 * The autoencoder with a codebook of Esser et al. 2021, as diffusers' `VQModel`: `encode` an image [n, c, h, w] to
 * latents [n, width, h/2^k, w/2^k], `quantize` them to their nearest codebook entries, `decode` those.
 */
export function vqModel(config: Config = {}) {
  const c = readConfig(className, fields, config);
  const width = c.vq_embed_dim ?? c.latent_channels;
  const bound = 1 / c.num_vq_embeddings;
  const codebook = parameter([c.num_vq_embeddings, width], { kind: "uniform", bound });
  const parts = {
    encoder: imageEncoder(c, c.latent_channels),
    quant_conv: conv2d(c.latent_channels, width, { kernel: 1 }),
    quantize: group({ embedding: group({ weight: codebook }) }),
    post_quant_conv: conv2d(width, c.latent_channels, { kernel: 1 }),
    decoder: imageDecoder(c, c.latent_channels),
  };
  const encode = (image: Tensor) => parts.quant_conv(parts.encoder(image));
  const decode = (latent: Tensor) => parts.decoder(parts.post_quant_conv(latent));
  const network = module(parts, (image: Tensor) => decode(quantize(encode(image), codebook.tensor).quantized));
  namedParameters(network);
  return Object.assign(network, {
    encode,
    decode,
    quantize: (latent: Tensor) => quantize(latent, codebook.tensor),
    config: savedConfig(className, c) as Config & VQModelConfig,
  });
}

/**
 * The nearest rows of a codebook [entries, width] to the pixels of z [n, width, h, w]. Gradients pass straight through
 * to z; the codebook learns by its error, which is to be part of the loss (van den Oord et al. 2017, eq. 3).
 */
function quantize(z: Tensor, codebook: Tensor) {
  const [n, width, h, w] = z.shape as [number, number, number, number];
  const pixels = reshape(transpose(z, [0, 2, 3, 1]), [n * h * w, width]);
  // |z − e|² without |z|², which is the same for every entry.
  const squares = sum(mul(codebook, codebook), 1); // [entries]
  const distances = sub(squares, matmul(pixels, codebook, { transB: true, alpha: 2 }));
  const indices = argMin(distances, 1); // [n·h·w]
  const nearest = transpose(reshape(gather(codebook, indices), [n, h, w, width]), [0, 3, 1, 2]);
  const distance = (a: Tensor, b: Tensor) => {
    const difference = sub(a, b);
    return mean(mul(difference, difference));
  };
  return {
    quantized: add(z, stopGradient(sub(nearest, z))),
    /** Which entries, over images, rows and columns: [n·h·w]. */
    indices,
    /** How far entries are from the latents that chose them, squared: moves the entries only. */
    codebookError: distance(nearest, stopGradient(z)),
    /** The same number, which moves the latents only: how little the encoder commits itself to entries. */
    commitmentError: distance(z, stopGradient(nearest)),
  };
}
