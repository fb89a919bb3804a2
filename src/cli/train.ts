import type { Command } from "commander";
import { UserError } from "../core/errors.ts";
import { planTraining, readRecipe, type TrainingResult } from "../train/index.ts";
import type { Console } from "./console.ts";
import { bytes, duration, short, table, whole } from "./format.ts";
import { Interrupted, interruptible } from "./interrupt.ts";
import { progressLine } from "./progress-line.ts";
import { readRecipeFile } from "./recipe-file.ts";
import { addSchemaOptions, flagOf, givenOptions } from "./schema-options.ts";
import { mainTask, type TaskEvent, type TrainingTaskKind, taskOf } from "./training-tasks.ts";

interface TrainFlags {
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

/** `allegory train`: trains as a recipe file and options say. */
export function trainCommand(program: Command, io: Console): void {
  const command = program
    .command("train")
    .summary("train a model, or continue a run")
    .description(
      "Train a diffusion model. Every option may also stand in a recipe file (JSON); options go before the file. " +
        'A recipe file may name another "task" and has its fields then: autoencoder, text-to-image, fine-tune. ' +
        "A run folder that holds a checkpoint is continued.",
    )
    .argument("[recipe]", "recipe file, or the folder of a run to continue");
  addSchemaOptions(command, mainTask.schema);
  command
    .option("--dry-run", "say how large the network is and how long it would take, and write nothing")
    .option("--json", "print every event as a line of JSON");
  command.action(async (file: string | undefined, flags: TrainFlags) => {
    const fields = file === undefined ? {} : await readRecipeFile(file);
    const task = taskOf(fields);
    const recipe = { ...fields, ...optionsFor(task, givenOptions(command, mainTask.schema)) };
    if (flags.dryRun) {
      if (!task.planned) throw new UserError(`A dry run cannot say yet what it takes to train ${task.title}.`);
      await interruptible(
        () => io.remark("Stopping."),
        (signal) => dryRun(recipe, flags, io, signal),
      );
      return;
    }
    const announce = () => io.remark("Stopping after this step. Ctrl-C again ends at once, without a checkpoint.");
    const { result, run } = await interruptible(announce, (signal) => trainWithProgress(recipe, flags, io, signal));
    if (flags.json) io.json({ event: "ended", ...summary(result) });
    else for (const line of closing(result, run, task)) io.print(line);
    if (result.ended === "stopped") throw new Interrupted("stopped");
  });
}

/** Options that go before a recipe of a task; UserError for those that its recipes have no field for. */
function optionsFor({ title, schema }: TrainingTaskKind, given: Record<string, unknown>): Record<string, unknown> {
  const foreign = Object.keys(given).filter((key) => !Object.hasOwn(schema.shape, key));
  if (foreign.length === 0) return given;
  throw new UserError(
    `The recipe is of ${title}, to which ${foreign.map((key) => `--${flagOf(key)}`).join(", ")} says nothing.`,
    {
      hint: `Options that go before its fields: ${Object.keys(mainTask.schema.shape)
        .filter((key) => Object.hasOwn(schema.shape, key))
        .map((key) => `--${flagOf(key)}`)
        .join(", ")}.`,
      field: foreign[0],
    },
  );
}

/** Trains and shows how far it is: one line in a terminal, a line now and then in a file, or events as JSON. */
export async function trainWithProgress(
  input: Record<string, unknown>,
  { json }: TrainFlags,
  io: Console,
  signal: AbortSignal,
): Promise<{ result: TrainingResult; run: string }> {
  const progress = progressLine(io.out);
  const loss = smoothed(0.98);
  const measures = new Map<string, (value: number) => number>();
  const seconds = smoothed(0.9);
  let batch = 0;
  const onEvent = (event: TaskEvent) => {
    if (json) {
      const { kind, ...rest } = event;
      io.json({ event: kind, ...rest });
      return;
    }
    switch (event.kind) {
      case "started": {
        batch = event.batch;
        for (const warning of event.warnings) progress.note(`note: ${warning}`);
        const size = `${whole(event.parameters)} parameters, ${whole(event.images)} images`;
        if ((input.device ?? "cpu") !== "cpu") {
          progress.note(`computing on ${event.device.name} (${event.device.reason})`);
        }
        const from = event.from > 0 ? `, continued after step ${event.from}` : "";
        progress.note(`${event.run}: ${size}, ${event.steps} steps of ${batch}${from}`);
        return;
      }
      case "encoded":
        progress.update(
          `${event.stage === "captions" ? "captions" : "pictures"} encoded: ${event.done}/${event.total}`,
        );
        return;
      case "step": {
        const measured = Object.entries(event.measures ?? {}).map(([name, value]) => {
          if (!measures.has(name)) measures.set(name, smoothed(0.98));
          return [name, measures.get(name)!(value)] as const;
        });
        progress.update(
          `step ${event.step}/${event.steps}  loss ${loss(event.loss).toFixed(4)}  ` +
            `${short(batch / seconds(event.seconds))} images/s  ETA ${duration(event.secondsLeft)}${named(measured)}`,
        );
        return;
      }
      case "checkpoint":
        progress.note(event.path);
        return;
      case "samples":
        progress.note(`${event.path}${named(Object.entries(event.measures ?? {}))}`);
    }
  };
  try {
    return { result: await taskOf(input).train(input, { signal, onEvent }), run: String(input.run) };
  } finally {
    if (!json) progress.end();
  }
}

/** `  psnr 24.1  ssim 0.87` */
function named(measures: readonly (readonly [string, number])[]): string {
  return measures.map(([name, value]) => `  ${name} ${short(value)}`).join("");
}

async function dryRun(
  input: Record<string, unknown>,
  { json }: TrainFlags,
  io: Console,
  signal: AbortSignal,
): Promise<void> {
  const plan = await planTraining(readRecipe(input), { signal });
  if (json) {
    io.json(plan);
    return;
  }
  const { recipe, parameters, images, memory, time, done, steps, epochs, warnings } = plan;
  const { count, width, height, channels, classes } = images;
  const left = done > 0 ? `${whole(steps)} steps after the ${whole(done)} that are done` : `${whole(steps)} steps`;
  const parts = `${bytes(memory.fixed)} fixed, ${bytes(memory.images)} images, ${bytes(memory.state)} state, ${bytes(memory.activations)} activations`;
  const rows = [
    ["data", `${whole(count)} images of ${width}×${height}×${channels}${classes > 0 ? `, ${classes} classes` : ""}`],
    [
      "network",
      `${whole(parameters)} parameters (${bytes(parameters * 4)}), seeing ${plan.sample.join("×")} of an image`,
    ],
    ["memory", `about ${bytes(memory.peak)} at most: ${parts}`],
    ["time", `about ${duration(time.total)}: ${left} of ${short(time.perStep)} s, every image ${short(epochs)} times`],
    [
      "speed",
      `${short(time.imagesPerSecond)} images/s, from ${time.measured.steps} measured steps of ${time.measured.images} images`,
    ],
    ["device", recipe.device],
  ];
  io.print(table(rows));
  for (const warning of warnings) io.print(`note: ${warning}`);
  io.print("Nothing was trained or written.");
}

function summary({ step, ended, seconds, model }: TrainingResult): Record<string, unknown> {
  return { step, ended, seconds, model };
}

function closing({ step, ended, seconds, model }: TrainingResult, run: string, { next }: TrainingTaskKind): string[] {
  const quoted = /^[\w./-]+$/.test(run) ? run : JSON.stringify(run);
  if (ended === "stopped" && step === 0) return ["Stopped before the first step."];
  if (ended === "stopped") {
    return [`Stopped after step ${step}, with a checkpoint. Continue with: allegory train ${quoted}`];
  }
  return [
    `${ended === "minutes" ? "The time is up" : "Done"}: ${step} steps in ${duration(seconds)} of training.`,
    `The model is ${model}. ${next(quoted)}`,
  ];
}

/** A running mean that forgets: right from the first value on (Kingma & Ba 2015, section 3). */
function smoothed(decay: number): (value: number) => number {
  let sum = 0;
  let weight = 0;
  return (value) => {
    sum = decay * sum + (1 - decay) * value;
    weight = decay * weight + (1 - decay);
    return sum / weight;
  };
}
