import { createHash } from "node:crypto";
import { UserError } from "../core/errors.ts";
import { float32, type HostTensor } from "../core/host-tensor.ts";
import { type Batches, batches, type Dataset, fingerprint } from "../data/index.ts";
import { input } from "../graph/index.ts";
import { writeModelFolder } from "../io/index.ts";
import { initialize, type PatchDiscriminator, patchDiscriminator, smallestSide } from "../models/index.ts";
import { group } from "../nn/module.ts";
import { coderOf } from "./autoencoder-coder.ts";
import { autoencoderLoss, DISCRIMINATOR } from "./autoencoder-loss.ts";
import { type AutoencoderRecipe, type AutoencoderRecipeInput, readAutoencoderRecipe } from "./autoencoder-recipe.ts";
import { splitDataset } from "./dataset.ts";
import { normalizedPixels } from "./objective.ts";
import { openPerceptualJudge, type PerceptualJudge, requirePerceivable } from "./perceptual-weights.ts";
import { openReconstructions } from "./reconstructions.ts";
import { type RunControl, runTask, type TrainingResult } from "./run.ts";
import { runPaths } from "./run-folder.ts";
import type { TaskData, TrainingTask } from "./task.ts";

/** Images to train an autoencoder on, and images it never sees, to judge it by. */
export interface SplitData {
  readonly training: Dataset;
  readonly heldOut: Dataset;
}

/**
 * Trains an autoencoder as a recipe says. Its folder is diffusers' `AutoencoderKL` or `VQModel`; the run's
 * `evaluations.jsonl` holds how well held-out images are reconstructed.
 *
 * @throws UserError for a recipe, data or weights that cannot be used, and when the loss is no longer a finite number
 */
export async function trainAutoencoder(
  input: AutoencoderRecipeInput,
  { data, ...control }: RunControl & { readonly data?: SplitData } = {},
): Promise<TrainingResult> {
  const recipe = readAutoencoderRecipe(input);
  const { holdOut: share, seed } = recipe;
  const split = data ?? (await splitDataset(recipe, { share, seed, signal: control.signal }));
  return runTask(recipe, await autoencoderTask(recipe, split), control);
}

/**
 * An autoencoder as a task: of either kind, with a perceptual and an adversarial loss where the recipe asks for them. The
 * discriminator is then trained in the same steps, and its parameters are called `discriminator.…`.
 *
 * @throws UserError for weights of a perceptual loss that cannot be used, and for images too small for what judges them
 */
export async function autoencoderTask(
  recipe: AutoencoderRecipe,
  { training, heldOut }: SplitData,
): Promise<TrainingTask> {
  const perceptual = await perceptualJudge(recipe, training);
  const coder = coderOf(recipe, training);
  const discriminator = discriminatorOf(recipe, training);
  const network = group({ autoencoder: coder.network, ...(discriminator ? { [DISCRIMINATOR]: discriminator } : {}) });
  const { channels, height, width } = training;
  const lastLayer = coder.network.parts.decoder.parts.conv_out.parts.weight.tensor;
  return {
    data: taskData(recipe, training, perceptual),
    readRecipe: readAutoencoderRecipe,
    network,
    start: (random) => initialize(network, random),
    lossOf(images) {
      const x = normalizedPixels(input("images", [images, channels, height, width], "uint8"));
      const noise = coder.noise && input("noise", [images, ...coder.noise]);
      return autoencoderLoss(x, coder.coded(x, noise), recipe, lastLayer, {
        ...(recipe.perceptual !== undefined ? { perceptual: { ...perceptual!, weight: recipe.perceptualWeight } } : {}),
        ...(recipe.adversarialFrom !== undefined
          ? {
              adversarial: {
                discriminator: discriminator!,
                weight: recipe.adversarialWeight,
                active: input("adversarial", []),
              },
            }
          : {}),
      });
    },
    feeds(random, from) {
      const data: Batches = batches(training, { batch: recipe.batch, seed: recipe.seed, from });
      return {
        next(step) {
          const feeds: Record<string, HostTensor> = { images: data.next().images };
          if (coder.noise) feeds.noise = random.normal([recipe.batch, ...coder.noise]);
          if (recipe.adversarialFrom !== undefined) {
            feeds.adversarial = float32([], [step >= recipe.adversarialFrom ? 1 : 0]);
          }
          return feeds;
        },
        position: data.position,
      };
    },
    preview: (weights) => openReconstructions(recipe, network, coder, heldOut, weights),
    async write(weights) {
      const { model } = runPaths(recipe.run);
      const tensors = partOf(weights, "autoencoder");
      await writeModelFolder(model, { className: coder.className, config: coder.network.config, tensors });
      return model;
    },
  };
}

/** The weights below a part's name, without it. */
export function partOf(weights: ReadonlyMap<string, HostTensor>, part: string): Map<string, HostTensor> {
  const own = [...weights].filter(([name]) => name.startsWith(`${part}.`));
  return new Map(own.map(([name, tensor]) => [name.slice(part.length + 1), tensor]));
}

/** What a run says of its data; the weights of a perceptual loss are as much a part of the loss as the pictures. */
function taskData({ perceptual: file }: AutoencoderRecipe, training: Dataset, judge?: PerceptualJudge): TaskData {
  const { name, count, warnings } = training;
  const ofData = () => fingerprint(training);
  if (!judge) return { name, count, warnings, fingerprint: ofData };
  const both = () => createHash("sha256").update(`${ofData()} ${judge.fingerprint}`).digest("hex");
  return { name: `${name}, compared by ${file}`, count, warnings, fingerprint: both };
}

async function perceptualJudge(recipe: AutoencoderRecipe, images: Dataset): Promise<PerceptualJudge | undefined> {
  if (recipe.perceptual === undefined) return undefined;
  requirePerceivable(images);
  return openPerceptualJudge(recipe.perceptual, recipe.perceptualLinear);
}

function discriminatorOf(recipe: AutoencoderRecipe, images: Dataset): PatchDiscriminator | undefined {
  if (recipe.adversarialFrom === undefined) return undefined;
  const { discriminatorChannels: width, discriminatorLevels: levels } = recipe;
  const side = Math.min(images.height, images.width);
  if (side < smallestSide(levels)) {
    const most = Math.floor(Math.log2(side / smallestSide(0)));
    const needed = `A discriminator with ${levels} levels needs pictures of at least ${smallestSide(levels)} pixels`;
    throw new UserError(`${needed}; those of ${images.name} have ${images.width}×${images.height}.`, {
      hint: `${most > 0 ? `Set discriminatorLevels to ${most}, or take` : "Take"} larger pictures (size).`,
      field: "discriminatorLevels",
    });
  }
  return patchDiscriminator({ channels: images.channels, width, levels });
}
