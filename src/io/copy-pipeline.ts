import { copyFile, mkdir, readdir } from "node:fs/promises";
import { extname, join } from "node:path";
import type { FloatDType } from "./half-precision.ts";
import type { JsonObject } from "./json-file.ts";
import { type PipelineFolder, readModelFolder, readPipelineFolder, writeModelFolder } from "./model-folder.ts";
import type { LazyTensor } from "./safetensors.ts";

/**
 * Copies a pipeline folder, its weights stored in another type where one is given. `model_index.json` goes last, so that
 * a folder that has one is complete.
 *
 * @throws UserError for a folder that is no pipeline, and for weights that cannot be read
 */
export async function copyPipelineFolder(
  from: string,
  to: string,
  { dtype }: { readonly dtype?: FloatDType } = {},
): Promise<PipelineFolder> {
  const pipeline = await readPipelineFolder(from);
  for (const [name, { path, library }] of pipeline.components) {
    const target = join(to, name);
    await mkdir(target, { recursive: true });
    const files = await readdir(path);
    if (files.some((file) => extname(file) === ".safetensors")) {
      await copyModel(path, target, { dtype, library: library === "transformers" ? "transformers" : "diffusers" });
    } else {
      for (const file of files) await copyFile(join(path, file), join(target, file));
    }
  }
  await copyFile(join(from, "model_index.json"), join(to, "model_index.json"));
  return pipeline;
}

async function copyModel(
  from: string,
  to: string,
  options: { readonly dtype?: FloatDType; readonly library: "diffusers" | "transformers" },
): Promise<void> {
  const { className, config, weights } = await readModelFolder(from);
  const { _class_name: _, _diffusers_version: __, architectures: ___, ...own } = config;
  const tensors = new Map<string, LazyTensor>();
  for (const [name, { dtype, shape }] of weights.tensors) {
    tensors.set(name, { dtype, shape, read: () => weights.read(name) });
  }
  await writeModelFolder(to, { className: className ?? "", config: own as JsonObject, tensors }, options);
}
