import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type { Command } from "commander";
import { UserError } from "../core/errors.ts";
import { type JsonObject, type LazyTensor, readJsonObject, writeDdpmPipeline, writeJsonObject } from "../io/index.ts";
import { readUnconditionalFolder } from "../pipelines/index.ts";
import type { Console } from "./console.ts";

/** `allegory export`: a run as a diffusers pipeline. */
export function exportCommand(program: Command, io: Console): void {
  program
    .command("export")
    .summary("save a run as a diffusers DDPMPipeline folder")
    .description("Save the averaged weights of a run as a DDPMPipeline folder that Python's diffusers loads.")
    .argument("<run>", "run folder")
    .argument("<folder>", "folder to write; it must not exist or be empty")
    .option("--json", "print the files written as JSON")
    .action((run: string, folder: string, flags: { json?: boolean }) => exportRun(run, folder, flags, io));
}

async function exportRun(run: string, folder: string, { json }: { json?: boolean }, io: Console): Promise<void> {
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
  await writeDdpmPipeline(folder, { config: model.config, tensors }, scheduler as JsonObject);
  if (model.classes) {
    // The way diffusers' pipeline of DiT keeps names: others carry it along unread.
    const path = join(folder, "model_index.json");
    const id2label = Object.fromEntries(model.classes.names.map((name, i) => [i, name]));
    await writeJsonObject(path, { ...(await readJsonObject(path)), id2label });
  }
  if (json) {
    io.json({ folder, files: (await readdir(folder, { recursive: true })).sort() });
    return;
  }
  io.print(`${folder} is a DDPMPipeline: in Python, DDPMPipeline.from_pretrained(${JSON.stringify(folder)}).`);
  if (model.classes) {
    io.print(
      "Its network wants class labels, which DDPMPipeline does not pass on: call pipeline.unet(x, t, labels) there.",
    );
  }
}

async function mustBeFree(folder: string): Promise<void> {
  const found = await stat(folder).catch(() => undefined);
  if (!found) return;
  if (!found.isDirectory()) throw new UserError(`${folder} is a file; a folder to write is needed.`);
  if ((await readdir(folder)).length > 0) {
    throw new UserError(`${folder} is not empty.`, { hint: "Name a folder that does not exist yet." });
  }
}
