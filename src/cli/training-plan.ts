import { datasetOf, networkFor, openTrainer, type Recipe } from "../train/index.ts";

/** What a run would take. */
export interface TrainingPlan {
  readonly images: number;
  readonly width: number;
  readonly height: number;
  readonly channels: number;
  /** Classes the network would know; 0 for none. */
  readonly classes: number;
  readonly parameters: number;
  /** The most memory the process took while the plan was made. */
  readonly memoryBytes: number;
  readonly secondsPerStep: number;
  /** Of the whole run. */
  readonly seconds: number;
  readonly warnings: readonly string[];
}

/** Steps that are timed, after one that is not: the first has memory to find. */
const TIMED = 2;

/** Opens the data, builds the training step and measures a few runs of it; writes nothing. */
export async function planOf(recipe: Recipe): Promise<TrainingPlan> {
  const dataset = await datasetOf(recipe);
  const trained = networkFor(recipe, dataset);
  const trainer = await openTrainer(recipe, dataset, trained);
  try {
    await trainer.next();
    let timed = 0;
    for (let i = 0; i < TIMED; i++) timed += (await trainer.next()).seconds;
    const secondsPerStep = timed / TIMED;
    const seconds = Math.min(recipe.steps * secondsPerStep, (recipe.minutes ?? Number.POSITIVE_INFINITY) * 60);
    return {
      images: dataset.count,
      width: dataset.width,
      height: dataset.height,
      channels: dataset.channels,
      classes: trained.classes,
      parameters: trainer.layout.size,
      memoryBytes: process.resourceUsage().maxRSS * 1024,
      secondsPerStep,
      seconds,
      warnings: dataset.warnings,
    };
  } finally {
    await trainer.close();
  }
}
