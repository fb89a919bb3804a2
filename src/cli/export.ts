import { existsSync } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { type Command, Option } from "commander";
import { UserError } from "../core/errors.ts";
import {
  copyModelFolder,
  copyPipelineFolder,
  type FloatDType,
  isPipelineFolder,
  type JsonObject,
  type LazyTensor,
  modelFolder,
  readJsonObject,
  readModelFolder,
  readPipelineFolder,
  writeDdpmPipeline,
  writeJsonObject,
} from "../io/index.ts";
import { openSingleFile, readUnconditionalFolder, writeSingleFileAsFolder } from "../pipelines/index.ts";
import type { Console } from "./console.ts";
import { withDownloads } from "./downloads.ts";
import { interruptible } from "./interrupt.ts";
import { predictionOption } from "./prediction-option.ts";

interface ExportFlags {
  readonly json?: boolean;
  readonly dtype?: FloatDType;
  readonly variant?: string;
  readonly revision?: string;
  readonly tokenizer?: string;
  readonly prediction?: "epsilon" | "v_prediction";
}

/** `allegory export`: a run, a model or a single file as a folder in diffusers' layout. */
export function exportCommand(program: Command, io: Console): void {
  program
    .command("export")
    .summary("save a run or a model as a diffusers folder, in another dtype")
    .description(
      "Save the averaged weights of a run, a model's folder or a single-file checkpoint as a folder that Python's diffusers " +
        "loads, its weights in another type where one is given.",
    )
    .argument("<model>", "run folder, diffusers folder, safetensors file of Stable Diffusion, or org/name of the hub")
    .argument("<folder>", "folder to write; it must not exist or be empty")
    .addOption(
      new Option("--dtype <type>", "type of the stored weights (default: as they are)").choices([
        "float32",
        "float16",
        "bfloat16",
      ]),
    )
    .option("--variant <name>", "take the weights of this variant, for example fp16")
    .option("--revision <name>", "branch, tag or commit of a model of the hub (default: main)")
    .option("--tokenizer <folder>", "the tokenizer's folder, for a model in a single file")
    .addOption(predictionOption())
    .option("--json", "print the files written as JSON")
    .action(async (model: string, folder: string, flags: ExportFlags) => {
      const stopping = () => io.remark("Stopping; what was downloaded is kept. Ctrl-C again ends at once.");
      const { revision, variant } = flags;
      const path = await interruptible(stopping, (signal) =>
        withDownloads({ io, signal, revision }, (hub) => modelFolder(model, { ...hub, variant })),
      );
      await exportModel(path, folder, flags, io);
    });
}

async function exportModel(model: string, folder: string, flags: ExportFlags, io: Console): Promise<void> {
  if ((await stat(model)).isFile()) return exportFile(model, folder, flags, io);
  for (const field of ["tokenizer", "prediction"] as const) {
    if (flags[field] === undefined) continue;
    throw new UserError(`--${field} was given; ${model} is a folder, which has its own.`, { field });
  }
  const { dtype, variant } = flags;
  const path = !isPipelineFolder(model) && isPipelineFolder(join(model, "model")) ? join(model, "model") : model;
  if (isPipelineFolder(path) && !(await isOfPixels(path))) {
    await mustBeFree(folder);
    const { className } = await copyPipelineFolder(path, folder, { dtype, variant });
    await written(folder, className, flags, io);
    return;
  }
  const isNetwork = existsSync(join(path, "config.json")) && !isPipelineFolder(path);
  if (isNetwork && !existsSync(join(path, "scheduler_config.json"))) {
    await mustBeFree(folder);
    await copyModelFolder(path, folder, { dtype, variant });
    await written(folder, (await readModelFolder(folder)).className ?? "model", flags, io);
    return;
  }
  await exportUnconditional(model, folder, flags, io);
}

/** Whether a pipeline is one that becomes a DDPMPipeline: ours, and what is one already. */
async function isOfPixels(path: string): Promise<boolean> {
  const { components } = await readPipelineFolder(path);
  const scheduler = components.get("scheduler")?.className;
  const patched = (await readJsonObject(join(path, "model_index.json"))).patch !== undefined;
  return components.get("unet")?.className === "UNet2DModel" && (scheduler === "DDPMScheduler" || patched);
}

async function exportFile(file: string, folder: string, flags: ExportFlags, io: Console): Promise<void> {
  const { dtype, tokenizer, prediction } = flags;
  if (!file.endsWith(".safetensors")) throw new UserError(`${file} is no safetensors file.`, { field: "model" });
  const single = await openSingleFile(file, { prediction });
  await mustBeFree(folder);
  const { className, missing } = await writeSingleFileAsFolder(folder, single, { dtype, tokenizer });
  for (const note of single.notes) io.remark(`note: ${note}`);
  await written(folder, className, flags, io);
  if (missing.length === 0 || flags.json) return;
  const hint = missing.some((name) => name.startsWith("tokenizer")) ? " --tokenizer gives one." : "";
  io.print(`It lacks ${missing.join(", ")}, which the file has not.${hint}`);
}

async function exportUnconditional(run: string, folder: string, flags: ExportFlags, io: Console): Promise<void> {
  const model = await readUnconditionalFolder(run, { variant: flags.variant });
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
  else
    io.print(
      `${folder} is ${/^[AEIO]/.test(className) ? "an" : "a"} ${className}: in Python, ${className}.from_pretrained(${JSON.stringify(folder)}).`,
    );
}

async function mustBeFree(folder: string): Promise<void> {
  const found = await stat(folder).catch(() => undefined);
  if (!found) return;
  if (!found.isDirectory()) throw new UserError(`${folder} is a file; a folder to write is needed.`);
  if ((await readdir(folder)).length > 0) {
    throw new UserError(`${folder} is not empty.`, { hint: "Name a folder that does not exist yet." });
  }
}
