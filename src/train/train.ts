import { join } from "node:path";
import { UserError } from "../core/errors.ts";
import type { Dataset } from "../data/index.ts";
import { unpacked } from "../optim/index.ts";
import type { Device } from "../runtime/index.ts";
import { checkpointFiles, checkpointName, readCheckpoint, saveCheckpoint } from "./checkpoint.ts";
import { datasetOf } from "./dataset.ts";
import { networkFor, type TrainedNetwork } from "./network.ts";
import { openPreview, type Preview } from "./preview.ts";
import { type Recipe, type RecipeInput, readRecipe } from "./recipe.ts";
import {
  appendMetrics,
  type MetricsLine,
  newestCheckpoint,
  plotLoss,
  readMetrics,
  recordRecipe,
  runPaths,
  writeModel,
} from "./run-folder.ts";
import { openTrainer, type StepMetrics, type Trainer } from "./trainer.ts";

/** What happens during a run, in order. */
export type TrainingEvent =
  | {
      readonly kind: "started";
      readonly parameters: number;
      readonly images: number;
      readonly from: number;
      readonly device: Device;
      readonly warnings: readonly string[];
    }
  | ({ readonly kind: "step" } & MetricsLine & { readonly steps: number; readonly secondsLeft: number })
  | { readonly kind: "checkpoint"; readonly path: string; readonly step: number }
  | { readonly kind: "samples"; readonly path: string; readonly step: number };

export interface TrainOptions {
  /** Ends the run after the present step, with a checkpoint. */
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: TrainingEvent) => void;
  /** Data that is already open; otherwise the recipe's is. */
  readonly dataset?: Dataset;
}

export interface TrainingResult {
  readonly step: number;
  /** Why it ended: all steps were done, the time was up, or the signal was given. */
  readonly ended: "steps" | "minutes" | "stopped";
  /** Seconds of training, over all sessions of the run. */
  readonly seconds: number;
  /** The averaged weights as a diffusers pipeline folder. */
  readonly model: string;
  readonly metrics: readonly MetricsLine[];
}

/** Metrics are written for the first steps and then every so many. */
const LOG_EVERY = 10;

/**
 * Trains a diffusion model as a recipe says, in the recipe's run folder: checkpoints, metrics, sample grids, a plot of
 * the loss, and the averaged weights as a diffusers pipeline folder. A folder that holds a checkpoint is continued, and
 * ends as if it had never been interrupted.
 *
 * @throws UserError for a recipe or data that cannot be used, and when the loss is no longer a finite number
 */
export async function train(input: RecipeInput, options: TrainOptions = {}): Promise<TrainingResult> {
  const recipe = readRecipe(input);
  const dataset = options.dataset ?? (await datasetOf(recipe, options));
  const trained = networkFor(recipe, dataset);
  const newest = await newestCheckpoint(recipe);
  const paths = runPaths(recipe.run);
  const from = newest ? await readCheckpoint(paths.checkpoints, newest) : undefined;
  const trainer = await openTrainer(recipe, dataset, trained, from);
  const run = new Run(recipe, dataset, trained, trainer, options);
  try {
    await recordRecipe(recipe);
    return await run.toTheEnd(from?.progress.seconds ?? 0, await readMetrics(recipe.run, trainer.step()));
  } finally {
    await run.close();
  }
}

/** One session of a run: takes steps and does what is due after each. */
class Run {
  private preview: Preview | undefined;
  private readonly unwritten: MetricsLine[] = [];
  /** The step of the newest checkpoint. */
  private saved: number;

  constructor(
    private readonly recipe: Recipe,
    private readonly dataset: Dataset,
    private readonly trained: TrainedNetwork,
    private readonly trainer: Trainer,
    private readonly options: TrainOptions,
  ) {
    this.saved = trainer.step();
  }

  async toTheEnd(secondsBefore: number, metrics: MetricsLine[]): Promise<TrainingResult> {
    const { recipe, trainer } = this;
    const { layout, step } = trainer;
    this.emit({
      kind: "started",
      parameters: layout.size,
      images: this.dataset.count,
      from: step(),
      device: trainer.device,
      warnings: this.dataset.warnings,
    });
    let seconds = secondsBefore;
    let ended: TrainingResult["ended"] | undefined;
    while (!(ended = this.ending(seconds))) {
      const taken = await trainer.next();
      seconds += taken.seconds;
      await this.mustBeFinite(taken);
      const line = { ...taken, imagesPerSecond: recipe.batch / taken.seconds };
      const due = (every: number) => every > 0 && step() % every === 0;
      if (due(LOG_EVERY) || step() <= LOG_EVERY || step() === recipe.steps) {
        metrics.push(line);
        this.unwritten.push(line);
      }
      this.emit({
        kind: "step",
        ...line,
        steps: recipe.steps,
        secondsLeft: this.secondsLeft(seconds, secondsBefore, taken),
      });
      if (this.ending(seconds)) continue;
      if (due(recipe.checkpointEvery)) await this.save(metrics);
      if (due(recipe.sampleEvery)) await this.draw();
    }
    // Also where nothing is left to do: an earlier session may have been killed before it had written everything.
    if (step() > 0) await this.save(metrics);
    if (step() > 0 && ended !== "stopped" && recipe.sampleEvery > 0) await this.draw();
    return { step: step(), ended, seconds, model: runPaths(recipe.run).model, metrics };
  }

  /** Why the run ends here, if it does. */
  private ending(seconds: number): TrainingResult["ended"] | undefined {
    const { steps, minutes } = this.recipe;
    if (this.trainer.step() >= steps) return "steps";
    if (minutes !== undefined && seconds >= minutes * 60) return "minutes";
    return this.options.signal?.aborted ? "stopped" : undefined;
  }

  async close(): Promise<void> {
    await this.preview?.close();
    await this.trainer.close();
  }

  private emit(event: TrainingEvent): void {
    this.options.onEvent?.(event);
  }

  private async save(metrics: readonly MetricsLine[]): Promise<void> {
    const { recipe, trainer } = this;
    const paths = runPaths(recipe.run);
    await appendMetrics(recipe.run, this.unwritten.splice(0));
    if (this.saved !== trainer.step()) {
      const path = await saveCheckpoint(paths.checkpoints, await trainer.checkpoint(), recipe.keep);
      this.saved = trainer.step();
      this.emit({ kind: "checkpoint", path, step: trainer.step() });
    }
    const weights = unpacked(await trainer.average(), trainer.layout);
    const all = new Map([...weights, ...trainer.frozen]);
    await writeModel(paths.model, recipe, this.trained, all, this.dataset.classNames);
    await plotLoss(recipe.run, metrics);
  }

  private async draw(): Promise<void> {
    const { recipe, dataset, trained, trainer } = this;
    this.preview ??= await openPreview(recipe, dataset, trained, trainer.layout, trainer.frozen);
    const path = await this.preview.draw(trainer.step(), await trainer.average());
    this.emit({ kind: "samples", path, step: trainer.step() });
  }

  private async mustBeFinite({ step, loss, gradientNorm, learningRate }: StepMetrics): Promise<void> {
    if (Number.isFinite(loss) && Number.isFinite(gradientNorm)) return;
    const { checkpoints } = runPaths(this.recipe.run);
    // A checkpoint of the very step before holds the weights that gave this loss.
    const bad = checkpointName(step - 1);
    const files = await checkpointFiles(checkpoints);
    const good = files.filter((name) => name < bad).at(-1);
    const state = good ? `The last good checkpoint is ${join(checkpoints, good)}` : "There is no good checkpoint";
    const delta = files.includes(bad) ? `; ${bad} holds the weights that led here` : "";
    throw new UserError(
      `The loss is ${loss} and the gradient's norm ${gradientNorm} at step ${step} (learning rate ${learningRate.toPrecision(3)}); the run stopped. ${state}${delta}.`,
      {
        hint: "Start another run with a lower learning rate (lr), a longer warm-up or a smaller largest gradient (clip).",
        field: "lr",
      },
    );
  }

  private secondsLeft(seconds: number, before: number, { step }: StepMetrics): number {
    const { recipe } = this;
    this.firstStep ??= step - 1;
    const perStep = (seconds - before) / (step - this.firstStep);
    const bySteps = (recipe.steps - step) * perStep;
    return recipe.minutes === undefined ? bySteps : Math.min(bySteps, Math.max(0, recipe.minutes * 60 - seconds));
  }

  private firstStep: number | undefined;
}
