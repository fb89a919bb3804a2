import type { Dataset } from "../data/index.ts";
import { datasetOf } from "./dataset.ts";
import { imageDenoisingTask } from "./image-denoising.ts";
import { networkFor } from "./network.ts";
import { type RecipeInput, readRecipe } from "./recipe.ts";
import { type RunControl, runTask, type TrainingResult } from "./run.ts";

export interface TrainOptions extends RunControl {
  /** Data that is already open; otherwise the recipe's is. */
  readonly dataset?: Dataset;
}

/**
 * Trains a diffusion model of pictures as a recipe says, in the recipe's run folder: checkpoints, metrics, sample grids, a
 * plot of the loss, and the averaged weights as a diffusers pipeline folder. A folder that holds a checkpoint is continued,
 * and ends as if it had never been interrupted.
 *
 * @throws UserError for a recipe or data that cannot be used, and when the loss is no longer a finite number
 */
export async function train(input: RecipeInput, options: TrainOptions = {}): Promise<TrainingResult> {
  const recipe = readRecipe(input);
  const dataset = options.dataset ?? (await datasetOf(recipe, options));
  return runTask(recipe, imageDenoisingTask(recipe, dataset, networkFor(recipe, dataset)), options);
}
