import { join } from "node:path";
import { UserError } from "../core/errors.ts";
import { unpacked } from "../optim/index.ts";
import type { Device } from "../runtime/index.ts";
import { checkpointFiles, checkpointName, readCheckpoint, saveCheckpoint } from "./checkpoint.ts";
import {
  appendEvaluation,
  appendMetrics,
  type MetricsLine,
  newestCheckpoint,
  plotLoss,
  readMetrics,
  recordRecipe,
  runPaths,
} from "./run-folder.ts";
import type { RunOptions } from "./run-options.ts";
import type { Drawn, Preview, TrainingTask } from "./task.ts";
import { openTrainer, type StepMetrics, type Trainer } from "./trainer.ts";

/** What happens during a run, in order. */
export type TrainingEvent =
  | {
      readonly kind: "started";
      /** The run's folder. */
      readonly run: string;
      /** How many steps it is to have, and images of each. */
      readonly steps: number;
      readonly batch: number;
      readonly parameters: number;
      readonly images: number;
      readonly from: number;
      readonly device: Device;
      readonly warnings: readonly string[];
    }
  | ({ readonly kind: "step" } & MetricsLine & { readonly steps: number; readonly secondsLeft: number })
  | { readonly kind: "checkpoint"; readonly path: string; readonly step: number }
  | ({ readonly kind: "samples"; readonly step: number } & Drawn);

export interface RunControl {
  /** Ends the run after the present step, with a checkpoint. */
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: TrainingEvent) => void;
}

export interface TrainingResult {
  readonly step: number;
  /** Why it ended: all steps were done, the time was up, or the signal was given. */
  readonly ended: "steps" | "minutes" | "stopped";
  /** Seconds of training, over all sessions of the run. */
  readonly seconds: number;
  /** The folder of the averaged weights. */
  readonly model: string;
  readonly metrics: readonly MetricsLine[];
}

/** Metrics are written for the first steps and then every so many. */
const LOG_EVERY = 10;

/**
 * Trains a task in the options' run folder: checkpoints, metrics, pictures, a plot of the loss, and the averaged weights.
 * A folder that holds a checkpoint is continued, and ends as if it had never been interrupted.
 *
 * @param options also what is recorded as the run's recipe: fields beyond those of every run are kept and compared
 * @throws UserError when the loss is no longer a finite number, or the folder holds another run
 */
export async function runTask(
  options: RunOptions,
  task: TrainingTask,
  control: RunControl = {},
): Promise<TrainingResult> {
  const newest = await newestCheckpoint(options, task.readRecipe);
  const from = newest ? await readCheckpoint(runPaths(options.run).checkpoints, newest) : undefined;
  const trainer = await openTrainer(options, task, from);
  const run = new Run(options, task, trainer, control);
  try {
    await recordRecipe(options);
    return await run.toTheEnd(from?.progress.seconds ?? 0, await readMetrics(options.run, trainer.step()));
  } finally {
    await run.close();
  }
}

/** One session of a run: takes steps and does what is due after each. */
class Run {
  private preview: Preview | undefined;
  /** Where the weights were written. */
  private model: string | undefined;
  private readonly unwritten: MetricsLine[] = [];
  /** The step of the newest checkpoint. */
  private saved: number;

  constructor(
    private readonly recipe: RunOptions,
    private readonly task: TrainingTask,
    private readonly trainer: Trainer,
    private readonly control: RunControl,
  ) {
    this.saved = trainer.step();
  }

  async toTheEnd(secondsBefore: number, metrics: MetricsLine[]): Promise<TrainingResult> {
    const { recipe, trainer } = this;
    const { layout, step } = trainer;
    this.emit({
      kind: "started",
      run: recipe.run,
      steps: recipe.steps,
      batch: recipe.batch,
      parameters: layout.size,
      images: this.task.data.count,
      from: step(),
      device: trainer.device,
      warnings: this.task.data.warnings,
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
    return { step: step(), ended, seconds, model: this.model ?? runPaths(recipe.run).model, metrics };
  }

  /** Why the run ends here, if it does. */
  private ending(seconds: number): TrainingResult["ended"] | undefined {
    const { steps, minutes } = this.recipe;
    if (this.trainer.step() >= steps) return "steps";
    if (minutes !== undefined && seconds >= minutes * 60) return "minutes";
    return this.control.signal?.aborted ? "stopped" : undefined;
  }

  async close(): Promise<void> {
    await this.preview?.close();
    await this.trainer.close();
  }

  private emit(event: TrainingEvent): void {
    this.control.onEvent?.(event);
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
    this.model = await this.task.write(new Map([...weights, ...trainer.frozen]));
    await plotLoss(recipe.run, metrics);
  }

  private async draw(): Promise<void> {
    const { recipe, task, trainer } = this;
    this.preview ??= await task.preview(trainer);
    const drawn = await this.preview.draw(trainer.step(), await trainer.average());
    if (drawn.measures) await appendEvaluation(recipe.run, { step: trainer.step(), ...drawn.measures });
    this.emit({ kind: "samples", step: trainer.step(), ...drawn });
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
