import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { type Command, Option } from "commander";
import { UserError } from "../core/errors.ts";
import {
  copyPipelineFolder,
  type FloatDType,
  isPipelineFolder,
  type JsonObject,
  type LazyTensor,
  readJsonObject,
  readPipelineFolder,
  writeDdpmPipeline,
  writeJsonObject,
} from "../io/index.ts";
import { readUnconditionalFolder } from "../pipelines/index.ts";
import type { Console } from "./console.ts";

interface ExportFlags {
  readonly json?: boolean;
  readonly dtype?: FloatDType;
}

/** `allegory export`: a run as a diffusers pipeline. */
export function exportCommand(program: Command, io: Console): void {
  program
    .command("export")
    .summary("save a run as a diffusers pipeline folder")
    .description(
      "Save the averaged weights of a run as a pipeline folder that Python's diffusers loads: a DDPMPipeline, or of a " +
        "text-to-image run a StableDiffusionPipeline.",
    )
    .argument("<run>", "run folder")
    .argument("<folder>", "folder to write; it must not exist or be empty")
    .addOption(
      new Option("--dtype <type>", "type of the stored weights (default: as they are)").choices([
        "float32",
        "float16",
        "bfloat16",
      ]),
    )
    .option("--json", "print the files written as JSON")
    .action((run: string, folder: string, flags: ExportFlags) => exportRun(run, folder, flags, io));
}

async function exportRun(run: string, folder: string, flags: ExportFlags, io: Console): Promise<void> {
  const model = join(run, "model");
  if (isPipelineFolder(model) && (await readPipelineFolder(model)).components.has("text_encoder")) {
    await mustBeFree(folder);
    const { className } = await copyPipelineFolder(model, folder, flags);
    await written(folder, className, flags, io);
    return;
  }
  await exportUnconditional(run, folder, flags, io);
}

async function exportUnconditional(run: string, folder: string, flags: ExportFlags, io: Console): Promise<void> {
  const model = await readUnconditionalFolder(run);
  if (model.patch > 1) {
    const squares = `${model.patch}×${model.patch}`;
    throw new UserError(
      `${run} was trained with patch ${model.patch}: its network takes squares of ${squares} pixels as channels, and no pipeline of diffusers cuts pictures into such squares.`,
      { hint: `Sample it with \`allegory sample\`, or train with --patch 1 to export.` },
    );
  }
  if (model.scheduler._class_name !== "DDPMScheduler") {
    throw new UserError(`${run} has a ${model.scheduler._class_name}; a DDPMPipeline needs a DDPMScheduler.`);
  }
  await mustBeFree(folder);
  const tensors = new Map<string, LazyTensor>();
  for (const [name, { dtype, shape }] of model.weights.tensors) {
    tensors.set(name, { dtype, shape, read: () => model.weights.read(name) });
  }
  const { _class_name, ...scheduler } = model.scheduler;
  await writeDdpmPipeline(folder, { config: model.config, tensors }, scheduler as JsonObject, { dtype: flags.dtype });
  if (model.classes) {
    // The way diffusers' pipeline of DiT keeps names: others carry it along unread.
    const path = join(folder, "model_index.json");
    const id2label = Object.fromEntries(model.classes.names.map((name, i) => [i, name]));
    await writeJsonObject(path, { ...(await readJsonObject(path)), id2label });
  }
  await written(folder, "DDPMPipeline", flags, io);
  if (model.classes && !flags.json) {
    io.print(
      "Its network wants class labels, which DDPMPipeline does not pass on: call pipeline.unet(x, t, labels) there.",
    );
  }
}

async function written(folder: string, className: string, { json }: ExportFlags, io: Console): Promise<void> {
  if (json) io.json({ folder, files: (await readdir(folder, { recursive: true })).sort() });
  else io.print(`${folder} is a ${className}: in Python, ${className}.from_pretrained(${JSON.stringify(folder)}).`);
}

async function mustBeFree(folder: string): Promise<void> {
  const found = await stat(folder).catch(() => undefined);
  if (!found) return;
  if (!found.isDirectory()) throw new UserError(`${folder} is a file; a folder to write is needed.`);
  if ((await readdir(folder)).length > 0) {
    throw new UserError(`${folder} is not empty.`, { hint: "Name a folder that does not exist yet." });
  }
}
