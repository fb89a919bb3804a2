import { stat } from "node:fs/promises";
import type { Command } from "commander";
import { UserError } from "../core/errors.ts";
import { describeShape } from "../core/host-tensor.ts";
import { pythonJson } from "../core/python-json.ts";
import { modelFolder } from "../io/index.ts";
import type { Console } from "./console.ts";
import { withDownloads } from "./downloads.ts";
import { bytes, duration, share, short, table, whole } from "./format.ts";
import { type Inspection, inspectPath } from "./inspection.ts";
import { interruptible } from "./interrupt.ts";
import type { ModelFacts, TensorFacts } from "./model-facts.ts";
import type { ScheduleFacts } from "./schedule-facts.ts";

interface InspectFlags {
  readonly tensors?: boolean;
  readonly json?: boolean;
  readonly variant?: string;
  readonly revision?: string;
}

/** `allegory inspect`: what a run, a checkpoint, a safetensors file, a model, a pipeline, a LoRA or a learned word holds. */
export function inspectCommand(program: Command, io: Console): void {
  program
    .command("inspect")
    .summary("show what a run, checkpoint or model holds")
    .description(
      "Show parameters, shapes, dtypes, sizes, noise schedule, recipe and progress. Weights are not read; those of a model " +
        "of the hub are downloaded. The exit status is 2 where parts are missing or weights do not fit.",
    )
    .argument(
      "<path>",
      "run folder, checkpoint, safetensors file, folder of a model, pipeline, LoRA or learned word, or org/name of the hub",
    )
    .option("--tensors", "list every tensor of a run or folder too; those of a single file always are")
    .option("--variant <name>", "take the weights of this variant, for example fp16 (default: the only ones there are)")
    .option("--revision <name>", "branch, tag or commit of a model of the hub (default: main)")
    .option("--json", "print everything as JSON")
    .action(async (path: string, flags: InspectFlags) => {
      const stopping = () => io.remark("Stopping. Ctrl-C again ends at once.");
      const facts = await interruptible(stopping, (signal) => inspected(path, flags, { io, signal }));
      if (flags.json) io.json(facts);
      else print(path, facts, flags, io);
      const { problems } = facts;
      if (problems.length > 0) {
        throw new UserError(`${path} cannot be used as it is:\n${indented(problems.join("\n"))}`);
      }
    });
}

async function inspected(
  path: string,
  { variant, revision }: InspectFlags,
  { io, signal }: { readonly io: Console; readonly signal: AbortSignal },
): Promise<Inspection> {
  const found = await stat(path).catch(() => undefined);
  // Without an owner it can be nothing of the hub.
  if (!found && !path.includes("/")) throw new UserError(`There is no file or folder ${path}.`);
  const folder = await withDownloads({ io, signal, revision }, (hub) => modelFolder(path, { ...hub, variant }));
  return inspectPath(folder, { variant });
}

function print(path: string, facts: Inspection, flags: InspectFlags, io: Console): void {
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
}

function printModel(
  { name, className, variant, parameters, bytes: size, dtypes, groups, problem, config, tensors }: ModelFacts,
  all: boolean,
  io: Console,
) {
  const which = variant === undefined ? "" : `, variant ${variant}`;
  io.print(
    `\n${name}: ${className ?? "of unknown class"}, ${whole(parameters)} parameters, ${bytes(size)} (${dtypes.join(", ")})${which}`,
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

function printSchedule({ className, options, levels, notes }: ScheduleFacts, io: Console) {
  io.print(`\nschedule: ${className}`);
  const shown = Object.entries(options).filter(([, value]) => value !== null);
  io.print(indented(table(shown.map(([key, value]) => [key, pythonJson(value)]))));
  for (const note of notes) io.print(indented(`note: ${note}`));
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
