import { UserError } from "../core/errors.ts";
import type { Dataset } from "../data/index.ts";
import type { NoiseSchedule } from "../diffusion/index.ts";
import { input, type Tensor } from "../graph/index.ts";
import { type Config, type UNet2D, unet2d, unet2dConfig } from "../models/index.ts";
import { toPatches } from "../nn/patches.ts";
import { scheduleOf, weightingOf } from "./noise-fields.ts";
import { diffusionLoss, normalizedPixels } from "./objective.ts";
import type { Recipe } from "./recipe.ts";

/** What a recipe and its data make: the network and how it is to be used. */
export interface TrainedNetwork {
  readonly network: UNet2D;
  /** diffusers' configuration of the network. */
  readonly config: Config;
  readonly schedule: NoiseSchedule;
  /** Classes the network can be asked for; 0 where it knows none. */
  readonly classes: number;
  /** The label that means "no class", where labels are dropped in training. */
  readonly nullClass?: number;
  /** What the network sees of one image: [channels, height, width]. */
  readonly sample: readonly [number, number, number];
}

/**
 * Builds the U-Net that a recipe asks for, for images of a data set.
 * @throws UserError where the two do not fit
 */
export function networkFor(recipe: Recipe, dataset: Dataset): TrainedNetwork {
  const { patch } = recipe;
  const { channels, height, width } = dataset;
  if (recipe.classes && !dataset.classNames && !dataset.labels) {
    throw new UserError(`The recipe asks for classes, but ${dataset.name} has no labels.`, {
      hint: "Sort the pictures into one sub-folder a class and set labels to folders, or leave classes out.",
      field: "classes",
    });
  }
  const stride = patch * 2 ** (recipe.channels.length - 1);
  if (height % stride !== 0 || width % stride !== 0) {
    const nearest = Math.max(stride, Math.round(height / stride) * stride);
    throw new UserError(
      `Images of ${height}×${width} do not fit the network: with ${recipe.channels.length} levels and patches of ${patch} their sides must be multiples of ${stride}.`,
      { hint: `Set size to ${nearest}, or use fewer levels (channels) or smaller patches.`, field: "size" },
    );
  }
  const classes = recipe.classes ? classCount(dataset) : 0;
  const nullClass = classes > 0 && recipe.classDropout > 0 ? classes : undefined;
  const sample = [channels * patch * patch, height / patch, width / patch] as const;
  const config = unet2dConfig({
    size: sample[1] === sample[2] ? sample[1] : [sample[1], sample[2]],
    imageChannels: sample[0],
    channels: recipe.channels,
    layers: recipe.layers,
    attentionAt: recipe.attentionAt,
    attentionInMiddle: recipe.middleAttention,
    headWidth: recipe.headWidth,
    scaleShift: recipe.scaleShift,
    classes: classes > 0 ? classes + (nullClass === undefined ? 0 : 1) : undefined,
  });
  return { network: unet2d(config), config, schedule: scheduleOf(recipe), classes, nullClass, sample };
}

/** The loss of a batch of `count` images: inputs `images` (uint8), `noise`, `timesteps` and, with classes, `labels`. */
export function lossFor(recipe: Recipe, dataset: Dataset, trained: TrainedNetwork, count: number): Tensor {
  const images = input("images", [count, dataset.channels, dataset.height, dataset.width], "uint8");
  const labels = trained.classes > 0 ? input("labels", [count], "int64") : undefined;
  return diffusionLoss(
    (x, t) => trained.network(x, t, labels),
    {
      schedule: trained.schedule,
      predict: recipe.predict,
      weighting: weightingOf(recipe),
    },
    {
      x0: toPatches(normalizedPixels(images), recipe.patch),
      noise: input("noise", [count, ...trained.sample]),
      timesteps: input("timesteps", [count], "int64"),
    },
  );
}

function classCount(dataset: Dataset): number {
  if (dataset.classNames) return dataset.classNames.length;
  return dataset.labels!.reduce((most, label) => Math.max(most, label), 0) + 1;
}
