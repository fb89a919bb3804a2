import { stat } from "node:fs/promises";
import type { Command } from "commander";
import { UserError } from "../core/errors.ts";
import { describeShape } from "../core/host-tensor.ts";
import type { Console } from "./console.ts";
import { bytes, duration, share, short, table, whole } from "./format.ts";
import { inspectPath, type ModelFacts, type ScheduleFacts, type TensorFacts } from "./inspection.ts";

interface InspectFlags {
  readonly tensors?: boolean;
  readonly json?: boolean;
}

/** `allegory inspect`: what a run, a checkpoint, a safetensors file or a model folder holds. */
export function inspectCommand(program: Command, io: Console): void {
  program
    .command("inspect")
    .summary("show what a run, checkpoint or model holds")
    .description("Show parameters, shapes, dtypes, sizes, noise schedule, recipe and progress. Weights are not read.")
    .argument("<path>", "run folder, checkpoint, safetensors file, model folder or pipeline folder")
    .option("--tensors", "list every tensor of a run or folder too; those of a single file always are")
    .option("--json", "print everything as JSON")
    .action(async (path: string, flags: InspectFlags) => {
      if (!(await stat(path).catch(() => undefined))) {
        throw new UserError(`There is no file or folder ${path}.`);
      }
      const facts = await inspectPath(path);
      if (flags.json) {
        io.json(facts);
        return;
      }
      io.print(`${path}: ${facts.what}`);
      for (const [name, value] of Object.entries(facts.notes)) io.print(`  ${name}: ${value}`);
      if (facts.run) {
        const { steps, step, seconds, loss, checkpoints, recipe } = facts.run;
        io.print(`  progress: step ${step} of ${steps}, ${duration(seconds)} of training`);
        if (loss !== undefined) io.print(`  last loss: ${short(loss, 4)}`);
        io.print(`  checkpoints: ${checkpoints.join(", ") || "none"}`);
        io.print("\nrecipe");
        io.print(indented(table(Object.entries(recipe).map(([key, value]) => [key, JSON.stringify(value)]))));
      }
      for (const model of facts.models) printModel(model, flags.tensors ?? false, io);
      if (facts.schedule) printSchedule(facts.schedule, io);
      if (facts.tensors) printTensors(facts.tensors, io);
    });
}

function printModel(
  { name, className, parameters, bytes: size, dtypes, groups, problem, config, tensors }: ModelFacts,
  all: boolean,
  io: Console,
) {
  io.print(
    `\n${name}: ${className ?? "of unknown class"}, ${whole(parameters)} parameters, ${bytes(size)} (${dtypes.join(", ")})`,
  );
  const shown = Object.entries(config).filter(([key, value]) => !key.startsWith("_") && value !== null);
  io.print(indented(table(shown.map(([key, value]) => [key, JSON.stringify(value)]))));
  if (groups.length > 1) {
    io.print("  parameters by part");
    io.print(indented(indented(table(groups.map((group) => [group.name, whole(group.parameters)])))));
  }
  if (problem) io.print(indented(problem));
  if (all) printTensors(tensors, io);
}

function printSchedule({ className, options, levels }: ScheduleFacts, io: Console) {
  io.print(`\nschedule: ${className}`);
  const shown = Object.entries(options).filter(([, value]) => value !== null);
  io.print(indented(table(shown.map(([key, value]) => [key, JSON.stringify(value)]))));
  if (!levels) return;
  const rows = levels.map(({ t, alphaBar, snr }) => [String(t), share(alphaBar), short(snr)]);
  io.print(indented(table([["t", "alpha-bar", "SNR"], ...rows])));
}

function printTensors(tensors: readonly TensorFacts[], io: Console) {
  const rows = tensors.map(({ name, dtype, shape, bytes: size }) => [name, dtype, describeShape(shape), bytes(size)]);
  io.print(`\n${whole(tensors.length)} tensors`);
  io.print(indented(table(rows)));
}

function indented(text: string): string {
  return text.replace(/^/gm, "  ");
}
