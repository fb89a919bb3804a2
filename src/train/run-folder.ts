import { appendFile, mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { UserError } from "../core/errors.ts";
import { type JsonObject, readJsonObject, savePlot, writeFileAtomically, writeJsonObject } from "../io/index.ts";
import { checkpointFiles } from "./checkpoint.ts";
import type { RunOptions } from "./run-options.ts";
import type { StepMetrics } from "./trainer.ts";

/** Where the files of a run lie. */
export function runPaths(run: string) {
  return {
    recipe: join(run, "recipe.json"),
    metrics: join(run, "metrics.jsonl"),
    /** What was measured with each picture, where something is. */
    evaluations: join(run, "evaluations.jsonl"),
    plot: join(run, "loss.svg"),
    checkpoints: join(run, "checkpoints"),
    samples: join(run, "samples"),
    /** The averaged weights, in diffusers' layout. */
    model: join(run, "model"),
  };
}

/**
 * Fields of a recipe that may change from one session of a run to the next; any other change would make it another run.
 * Data and weights that are read may lie elsewhere, but must be the same: their fingerprint is compared.
 */
const MAY_CHANGE: ReadonlySet<string> = new Set([
  "run",
  "data",
  "perceptual",
  "perceptualLinear",
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
 * @param read gives what was recorded the defaults of fields that are newer than the run
 * @returns the name of the newest checkpoint, if there is one
 */
export async function newestCheckpoint(
  recipe: RunOptions,
  read: (recorded: JsonObject) => object = (recorded) => recorded,
): Promise<string | undefined> {
  const paths = runPaths(recipe.run);
  const newest = (await checkpointFiles(paths.checkpoints)).at(-1);
  if (newest) {
    const before = { ...read(await readJsonObject(paths.recipe)) } as JsonObject;
    const now: JsonObject = { ...recipe };
    const fields = new Set([...Object.keys(now), ...Object.keys(before)]);
    const said = (value: unknown) => JSON.stringify(value) ?? "nothing";
    const changed = [...fields].filter(
      (key) => !MAY_CHANGE.has(key) && !isDeepStrictEqual(asRead(before[key]), asRead(now[key])),
    );
    if (changed.length > 0) {
      const lines = changed.map((key) => `  ${key}: ${said(before[key])} before, ${said(now[key])} now`);
      throw new UserError(`${recipe.run} holds a run with another recipe.\n${lines.join("\n")}`, {
        hint: "Give the same options to continue it, or another run folder to start anew.",
        field: changed[0],
      });
    }
  }
  return newest;
}

/** A value as it is once it has been written and read. The order of an object's fields says nothing. */
function asRead(value: unknown): unknown {
  return value === undefined ? undefined : JSON.parse(JSON.stringify(value));
}

/** Records the recipe in the run's folder, which is made where it is missing. */
export async function recordRecipe(recipe: Pick<RunOptions, "run">): Promise<void> {
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

/** Appends what was measured at a step to evaluations.jsonl. */
export async function appendEvaluation(run: string, measured: Readonly<Record<string, number>>): Promise<void> {
  await appendFile(runPaths(run).evaluations, `${JSON.stringify(measured)}\n`);
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
