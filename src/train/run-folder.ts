import { appendFile, mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../core/errors.ts";
import type { HostTensor } from "../core/host-tensor.ts";
import { readJsonObject, savePlot, writeDdpmPipeline, writeFileAtomically, writeJsonObject } from "../io/index.ts";
import { checkpointFiles } from "./checkpoint.ts";
import type { TrainedNetwork } from "./network.ts";
import type { Recipe } from "./recipe.ts";
import type { StepMetrics } from "./trainer.ts";

/** Where the files of a run lie. */
export function runPaths(run: string) {
  return {
    recipe: join(run, "recipe.json"),
    metrics: join(run, "metrics.jsonl"),
    plot: join(run, "loss.svg"),
    checkpoints: join(run, "checkpoints"),
    samples: join(run, "samples"),
    /** The averaged weights as a diffusers pipeline folder. */
    model: join(run, "model"),
  };
}

/**
 * Fields of a recipe that may change from one session of a run to the next; any other change would make it another run.
 */
const MAY_CHANGE: ReadonlySet<keyof Recipe> = new Set([
  "run",
  "data",
  "steps",
  "minutes",
  "checkpointEvery",
  "keep",
  "sampleEvery",
  "sampleCount",
  "sampleSteps",
  "device",
  "threads",
  "accumulate",
]);

/**
 * Finds where a run stands, and checks that it was started with the same recipe. Writes nothing.
 * @returns the name of the newest checkpoint, if there is one
 */
export async function newestCheckpoint(recipe: Recipe): Promise<string | undefined> {
  const paths = runPaths(recipe.run);
  const newest = (await checkpointFiles(paths.checkpoints)).at(-1);
  if (newest) {
    const before = (await readJsonObject(paths.recipe)) as Partial<Recipe>;
    const changed = (Object.keys(recipe) as (keyof Recipe)[]).filter(
      (key) => !MAY_CHANGE.has(key) && JSON.stringify(before[key]) !== JSON.stringify(recipe[key]),
    );
    if (changed.length > 0) {
      const lines = changed.map(
        (key) => `  ${key}: ${JSON.stringify(before[key])} before, ${JSON.stringify(recipe[key])} now`,
      );
      throw new UserError(`${recipe.run} holds a run with another recipe.\n${lines.join("\n")}`, {
        hint: "Give the same options to continue it, or another run folder to start anew.",
        field: String(changed[0]),
      });
    }
  }
  return newest;
}

/** Records the recipe in the run's folder, which is made where it is missing. */
export async function recordRecipe(recipe: Recipe): Promise<void> {
  await mkdir(recipe.run, { recursive: true });
  await writeJsonObject(runPaths(recipe.run).recipe, { ...recipe });
}

/** One line of metrics.jsonl. */
export interface MetricsLine extends StepMetrics {
  readonly imagesPerSecond: number;
}

/** Appends lines to metrics.jsonl. */
export async function appendMetrics(run: string, lines: readonly MetricsLine[]): Promise<void> {
  if (lines.length === 0) return;
  await appendFile(runPaths(run).metrics, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
}

/** The metrics of a run up to `step`; lines after it (of steps that a crash undid) are cut off the file. */
export async function readMetrics(run: string, step = Number.POSITIVE_INFINITY): Promise<MetricsLine[]> {
  const { metrics } = runPaths(run);
  const text = await readFile(metrics, "utf8").catch(() => "");
  const lines = text.split("\n").filter(Boolean);
  const kept: MetricsLine[] = [];
  for (const line of lines) {
    try {
      const read = JSON.parse(line) as MetricsLine;
      if (read.step <= step) kept.push(read);
    } catch {
      // The last line of a killed run may be cut short; its step is not in any checkpoint.
    }
  }
  if (kept.length < lines.length) {
    await writeFileAtomically(metrics, kept.map((line) => `${JSON.stringify(line)}\n`).join(""));
  }
  return kept;
}

/** Draws the loss so far. */
export async function plotLoss(run: string, metrics: readonly MetricsLine[]): Promise<void> {
  if (metrics.length < 2) return;
  const x = metrics.map(({ step }) => step);
  await savePlot(
    runPaths(run).plot,
    [{ name: "loss", x, y: metrics.map(({ loss }) => loss), smooth: Math.max(10, Math.round(metrics.length / 20)) }],
    { title: "Training loss", xLabel: "step", yLabel: "mean squared error", yScale: "log" },
  );
}

/** The scheduler configuration that belongs to what a recipe trains: DDPM's, as diffusers writes it. */
export function schedulerConfigOf(recipe: Recipe): Record<string, unknown> {
  const predictions = { noise: "epsilon", x0: "sample", v: "v_prediction" } as const;
  const { schedule, timesteps, betaStart, betaEnd, zeroTerminalSnr, predict } = recipe;
  const scaled = schedule === "scaled_linear";
  return {
    num_train_timesteps: timesteps,
    beta_schedule: schedule,
    beta_start: betaStart ?? (scaled ? 0.00085 : 1e-4),
    beta_end: betaEnd ?? (scaled ? 0.012 : 0.02),
    trained_betas: null,
    variance_type: "fixed_small",
    clip_sample: true,
    clip_sample_range: 1,
    prediction_type: predictions[predict],
    thresholding: false,
    timestep_spacing: "trailing",
    steps_offset: 0,
    rescale_betas_zero_snr: zeroTerminalSnr,
  };
}

/** Writes the weights as a diffusers pipeline folder; with patches, as one that says it needs them. */
export async function writeModel(
  folder: string,
  recipe: Recipe,
  { config, classes, nullClass }: TrainedNetwork,
  weights: ReadonlyMap<string, HostTensor>,
  classNames: readonly string[] | undefined,
): Promise<void> {
  await writeDdpmPipeline(folder, { config, tensors: weights }, schedulerConfigOf(recipe));
  if (recipe.patch === 1 && classes === 0) return;
  const names = classNames ?? Array.from({ length: classes }, (_, i) => String(i));
  const path = join(folder, "model_index.json");
  const index = await readJsonObject(path);
  await writeJsonObject(path, {
    ...index,
    ...(recipe.patch > 1 ? { _class_name: "AllegoryPatchedPipeline", patch: recipe.patch } : {}),
    ...(classes > 0 ? { classes: names, null_class: nullClass !== undefined } : {}),
  });
}
