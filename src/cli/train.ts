import type { Command } from "commander";
import { readRecipe, recipeSchema, type TrainingEvent, type TrainingResult, train } from "../train/index.ts";
import type { Console } from "./console.ts";
import { bytes, duration, short, whole } from "./format.ts";
import { Interrupted, interruptible } from "./interrupt.ts";
import { progressLine } from "./progress-line.ts";
import { readRecipeFile } from "./recipe-file.ts";
import { addSchemaOptions, givenOptions } from "./schema-options.ts";
import { planOf } from "./training-plan.ts";

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
        "A run folder that holds a checkpoint is continued.",
    )
    .argument("[recipe]", "recipe file, or the folder of a run to continue");
  addSchemaOptions(command, recipeSchema);
  command
    .option("--dry-run", "say how large the network is and how long it would take, and write nothing")
    .option("--json", "print every event as a line of JSON");
  command.action(async (file: string | undefined, flags: TrainFlags) => {
    const recipe = {
      ...(file === undefined ? {} : await readRecipeFile(file)),
      ...givenOptions(command, recipeSchema),
    };
    if (flags.dryRun) return dryRun(recipe, flags, io);
    const announce = () => io.remark("Stopping after this step. Ctrl-C again ends at once, without a checkpoint.");
    const { result, run } = await interruptible(announce, (signal) => trainWithProgress(recipe, flags, io, signal));
    if (flags.json) io.json({ event: "ended", ...summary(result) });
    else for (const line of closing(result, run)) io.print(line);
    if (result.ended === "stopped") throw new Interrupted("stopped");
  });
}

/** Trains and shows how far it is: one line in a terminal, a line now and then in a file, or events as JSON. */
export async function trainWithProgress(
  input: Record<string, unknown>,
  { json }: TrainFlags,
  io: Console,
  signal: AbortSignal,
): Promise<{ result: TrainingResult; run: string }> {
  const recipe = readRecipe(input);
  const progress = progressLine(io.out);
  const loss = smoothed(0.98);
  const onEvent = (event: TrainingEvent) => {
    if (json) {
      const { kind, ...rest } = event;
      io.json({ event: kind, ...rest });
      return;
    }
    switch (event.kind) {
      case "started": {
        for (const warning of event.warnings) progress.note(`note: ${warning}`);
        const size = `${whole(event.parameters)} parameters, ${whole(event.images)} images`;
        const from = event.from > 0 ? `, continued after step ${event.from}` : "";
        progress.note(`${recipe.run}: ${size}, ${recipe.steps} steps of ${recipe.batch}${from}`);
        return;
      }
      case "step":
        progress.update(
          `step ${event.step}/${event.steps}  loss ${loss(event.loss).toFixed(4)}  ` +
            `${short(event.imagesPerSecond)} images/s  ETA ${duration(event.secondsLeft)}`,
        );
        return;
      case "checkpoint":
      case "samples":
        progress.note(event.path);
    }
  };
  try {
    return { result: await train(recipe, { signal, onEvent }), run: recipe.run };
  } finally {
    if (!json) progress.end();
  }
}

async function dryRun(input: Record<string, unknown>, { json }: TrainFlags, io: Console): Promise<void> {
  const recipe = readRecipe(input);
  const plan = await planOf(recipe);
  if (json) {
    io.json(plan);
    return;
  }
  const { images, width, height, channels, classes, parameters, memoryBytes, secondsPerStep, seconds } = plan;
  io.print(
    `data        ${whole(images)} images of ${width}×${height}×${channels}${classes ? `, ${classes} classes` : ""}`,
  );
  for (const warning of plan.warnings) io.print(`            note: ${warning}`);
  io.print(`network     ${whole(parameters)} parameters (${bytes(parameters * 4)})`);
  io.print(`memory      ${bytes(memoryBytes)} at most, measured`);
  io.print(`time        ${duration(seconds)}: ${recipe.steps} steps of ${short(secondsPerStep)} s, measured`);
  io.print(`speed       ${short(recipe.batch / secondsPerStep)} images/s`);
  io.print("Nothing was written.");
}

function summary({ step, ended, seconds, model }: TrainingResult): Record<string, unknown> {
  return { step, ended, seconds, model };
}

function closing({ step, ended, seconds, model }: TrainingResult, run: string): string[] {
  const quoted = /^[\w./-]+$/.test(run) ? run : JSON.stringify(run);
  if (ended === "stopped" && step === 0) return ["Stopped before the first step."];
  if (ended === "stopped") {
    return [`Stopped after step ${step}, with a checkpoint. Continue with: allegory train ${quoted}`];
  }
  return [
    `${ended === "minutes" ? "The time is up" : "Done"}: ${step} steps in ${duration(seconds)} of training.`,
    `The model is ${model}. Draw with: allegory sample ${quoted}`,
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
