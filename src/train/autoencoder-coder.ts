import type { Dataset } from "../data/index.ts";
import type { Tensor } from "../graph/index.ts";
import { type AutoencoderKL, autoencoderKL, type Config, type VQModel, vqModel } from "../models/index.ts";
import { groupsFor } from "../nn/layers.ts";
import { type Coded, codedByCodebook, codedByGaussian } from "./autoencoder-loss.ts";
import type { AutoencoderRecipe } from "./autoencoder-recipe.ts";

/** An autoencoder as training sees it, of whichever kind. */
export interface Coder {
  /** diffusers' name of it. */
  readonly className: "AutoencoderKL" | "VQModel";
  readonly network: AutoencoderKL | VQModel;
  /** Channels, height and width of the noise that an image's coding needs; none where it needs none. */
  readonly noise?: readonly [number, number, number];
  /** Entries of the codebook, where there is one. */
  readonly codebookSize?: number;
  /** What a training step does with images [n, c, h, w] in −1 … 1. */
  coded(images: Tensor, noise?: Tensor): Coded;
  /** What images look like afterwards, and which entries of the codebook [n·h′·w′] they became. */
  reconstructed(images: Tensor): { readonly output: Tensor; readonly indices?: Tensor };
}

/** The autoencoder that a recipe asks for. */
export function coderOf(recipe: AutoencoderRecipe, images: Dataset): Coder {
  const config = autoencoderConfig(recipe, images);
  if (recipe.kind === "kl") {
    const network = autoencoderKL(config);
    const factor = 2 ** (recipe.channels.length - 1);
    return {
      className: "AutoencoderKL",
      network,
      noise: [recipe.latentChannels, images.height / factor, images.width / factor],
      coded: (x, noise) => codedByGaussian(network, x, noise!, recipe.klWeight),
      reconstructed: (x) => ({ output: network(x) }),
    };
  }
  const network = vqModel(config);
  return {
    className: "VQModel",
    network,
    codebookSize: recipe.codebookSize,
    coded: (x) => codedByCodebook(network, x, recipe.commitment),
    reconstructed(x) {
      const { quantized, indices } = network.quantize(network.encode(x));
      return { output: network.decode(quantized), indices };
    },
  };
}

/** diffusers' configuration of the autoencoder that a recipe asks for. */
export function autoencoderConfig(recipe: AutoencoderRecipe, { channels, height, width }: Dataset): Config {
  return {
    in_channels: channels,
    out_channels: channels,
    down_block_types: recipe.channels.map(() => "DownEncoderBlock2D"),
    up_block_types: recipe.channels.map(() => "UpDecoderBlock2D"),
    block_out_channels: recipe.channels,
    layers_per_block: recipe.layers,
    norm_num_groups: groupsFor(recipe.channels),
    sample_size: height === width ? height : [height, width],
    latent_channels: recipe.latentChannels,
    mid_block_add_attention: recipe.middleAttention,
    // Until it is measured: latents as they are.
    scaling_factor: 1,
    ...(recipe.kind === "vq" ? { num_vq_embeddings: recipe.codebookSize, vq_embed_dim: recipe.codebookWidth } : {}),
  };
}
