import { abs, add, gradients, mean, mul, sub, type Tensor } from "../graph/index.ts";
import {
  type AutoencoderKL,
  type Bind,
  diagonalGaussian,
  type PatchDiscriminator,
  type VQModel,
} from "../models/index.ts";
import { adversarialPart } from "./adversarial.ts";
import type { AutoencoderRecipe } from "./autoencoder-recipe.ts";
import { codebookUse } from "./codebook-use.ts";
import type { StepLoss } from "./task.ts";

/** What becomes of pictures in a latent space, and what that costs. */
export interface Coded {
  readonly decoded: Tensor;
  /** What keeps the latents in order. */
  readonly penalty: Tensor;
  readonly measures: Readonly<Record<string, Tensor>>;
}

/**
 * A variational autoencoder (Kingma & Welling 2014): a sample of what the encoder says is decoded, and a small multiple of
 * its divergence from the normal distribution is the penalty (Rombach et al. 2022, section 3.1).
 * @param noise of the latent's shape
 */
export function codedByGaussian(
  { encode, decode }: Pick<AutoencoderKL, "encode" | "decode">,
  images: Tensor,
  noise: Tensor,
  klWeight: number,
): Coded {
  const posterior = diagonalGaussian(encode(images));
  const kl = mean(posterior.divergence());
  const decoded = decode(add(posterior.mean, mul(posterior.deviation, noise)));
  return { decoded, penalty: mul(kl, klWeight), measures: { kl } };
}

/**
 * An autoencoder with a codebook: the latents' nearest entries are decoded. The penalty moves entries towards the latents
 * that chose them and, weighted, latents towards their entries (van den Oord et al. 2017, eq. 3).
 */
export function codedByCodebook(
  { encode, decode, quantize, config }: Pick<VQModel, "encode" | "decode" | "quantize" | "config">,
  images: Tensor,
  commitmentWeight: number,
): Coded {
  const { quantized, indices, codebookError, commitmentError } = quantize(encode(images));
  return {
    decoded: decode(quantized),
    penalty: add(codebookError, mul(commitmentError, commitmentWeight)),
    measures: { commitment: commitmentError, ...codebookUse(indices, config.num_vq_embeddings) },
  };
}

/** What pictures are compared with beside their pixels. */
export interface Judges {
  /** The perceptual distance of two batches [n], its weight in the loss, and the values of its own weights. */
  readonly perceptual?: {
    readonly distance: (images: Tensor, originals: Tensor) => Tensor;
    readonly weight: number;
    readonly bind: Bind;
  };
  /** The discriminator, which is trained along, and when it counts (see `adversarialPart`). */
  readonly adversarial?: {
    readonly discriminator: PatchDiscriminator;
    readonly weight: number;
    readonly active: Tensor;
  };
}

/**
 * The loss of an autoencoder: error of the pixels, where asked for perceptual distance and a discriminator's verdict, and
 * the penalty on the latents. With a discriminator the gradients are those of two losses: parameters called
 * `discriminator.…` follow the discriminator's, all others the autoencoder's.
 *
 * @param images and what became of them: [n, c, h, w] in −1 … 1
 * @param lastLayer the weights of the decoder's last layer
 */
export function autoencoderLoss(
  images: Tensor,
  { decoded, penalty, measures: ofLatents }: Coded,
  { reconstruction: kind }: Pick<AutoencoderRecipe, "reconstruction">,
  lastLayer: Tensor,
  { perceptual: judge, adversarial }: Judges = {},
): StepLoss {
  const difference = sub(decoded, images);
  const reconstruction = mean(kind === "l2" ? mul(difference, difference) : abs(difference));
  const perceptual = judge && mean(judge.distance(decoded, images));
  const unlikeness = perceptual ? add(reconstruction, mul(perceptual, judge.weight)) : reconstruction;
  const measures = { reconstruction, ...(perceptual ? { perceptual } : {}), ...ofLatents };
  const bind = judge?.bind;
  if (!adversarial) return { loss: add(unlikeness, penalty), measures, bind };

  const { discriminator, weight, active } = adversarial;
  const part = adversarialPart(
    { images, decoded, unlikeness, lastLayer },
    { discriminate: discriminator, weight, active },
  );
  return {
    loss: add(part.loss, penalty),
    measures: { ...measures, ...part.measures },
    bind,
    networkOf,
    gradients(parameters) {
      const found = new Map<string, Tensor>();
      const follow = (loss: Tensor, names: readonly string[]) => {
        const each = gradients(
          loss,
          names.map((name) => parameters.get(name)!),
        );
        names.forEach((name, i) => void found.set(name, each[i]!));
      };
      const names = [...parameters.keys()];
      const isDiscriminator = (name: string) => networkOf(name) === DISCRIMINATOR;
      follow(part.discriminator, names.filter(isDiscriminator));
      follow(
        add(part.pull, penalty),
        names.filter((name) => !isDiscriminator(name)),
      );
      return names.map((name) => found.get(name)!);
    },
  };
}

/** The part of the network that is trained which a parameter belongs to. */
const networkOf = (parameter: string) => parameter.slice(0, parameter.indexOf("."));

/** The name of the discriminator among the parts of the network that is trained. */
export const DISCRIMINATOR = "discriminator";
