import { existsSync } from "node:fs";
import { copyFile, mkdir, readdir, stat } from "node:fs/promises";
import { extname, join } from "node:path";
import { UserError } from "../core/errors.ts";
import { chosenVariants } from "./chosen-variants.ts";
import { UNUSED_COMPONENTS } from "./hub-files.ts";
import { type JsonObject, readJsonObject, writeJsonObject } from "./json-file.ts";
import {
  type PipelineFolder,
  readModelFolder,
  readPipelineFolder,
  type WriteModelOptions,
  writeModelFolder,
} from "./model-folder.ts";
import { WEIGHT_NAMES } from "./model-weights.ts";
import type { LazyTensor } from "./safetensors.ts";

export interface CopyOptions extends Pick<WriteModelOptions, "dtype" | "maxShardBytes"> {
  /** The variant of the weights to take, such as `fp16`. They are written without one. */
  readonly variant?: string;
}

/**
 * Copies a pipeline folder, its weights stored in another type where one is given. `model_index.json` goes last, so that
 * a folder that has one is complete. A safety checker that is listed and not there is no longer listed.
 *
 * Of components that lack a variant the weights without one are taken, as long as another has it.
 * @throws UserError for a folder that is no pipeline or lacks a component, and for weights that cannot be read
 */
export async function copyPipelineFolder(from: string, to: string, options: CopyOptions = {}): Promise<PipelineFolder> {
  const pipeline = await readPipelineFolder(from);
  // A list of two names of classes looks like one.
  const entries = [...pipeline.components].filter(([name]) => name !== "classes");
  const absent = entries.filter(([, { path }]) => !existsSync(path)).map(([name]) => name);
  for (const name of absent) {
    if (!UNUSED_COMPONENTS.includes(name))
      throw new UserError(`${from} is not complete: ${join(from, name)} is missing.`);
  }
  const there = entries.filter(([name]) => !absent.includes(name));
  const variants = await chosenVariants(
    there.map(([, { path }]) => path),
    options.variant,
  );
  for (const [name, { path }] of there) {
    await copyModelFolder(path, join(to, name), { ...options, variant: variants.of(path) });
  }
  const index = { ...(await readJsonObject(join(from, "model_index.json"))) };
  for (const name of absent) index[name] = [null, null];
  if (absent.includes("safety_checker") && "requires_safety_checker" in index) index.requires_safety_checker = false;
  await writeJsonObject(join(to, "model_index.json"), index);
  return pipeline;
}

/**
 * Copies the folder of a model, its weights stored in another type where one is given; a folder without weights in
 * safetensors, such as a tokenizer's, file by file.
 *
 * @throws UserError for weights that cannot be read
 */
export async function copyModelFolder(
  from: string,
  to: string,
  { variant, ...options }: CopyOptions = {},
): Promise<void> {
  await mkdir(to, { recursive: true });
  const files = await readdir(from);
  if (!files.some((file) => extname(file) === ".safetensors")) {
    for (const file of files) {
      if ((await stat(join(from, file))).isFile()) await copyFile(join(from, file), join(to, file));
    }
    return;
  }
  const { className, config, weights } = await readModelFolder(from, { variant });
  const { _class_name: _, _diffusers_version: __, architectures: ___, ...own } = config;
  const tensors = new Map<string, LazyTensor>();
  for (const [name, { dtype, shape }] of weights.tensors) {
    tensors.set(name, { dtype, shape, read: () => weights.read(name) });
  }
  const library = files.some((file) => file.startsWith(WEIGHT_NAMES[0])) ? "diffusers" : "transformers";
  const model = { className: className ?? "", config: ofType(own, options.dtype), tensors };
  await writeModelFolder(to, model, { ...options, library });
}

/** transformers takes weights as the type that the configuration names. */
function ofType(config: JsonObject, dtype: string | undefined): JsonObject {
  const named = ["dtype", "torch_dtype"].filter((field) => typeof config[field] === "string");
  return dtype === undefined ? config : { ...config, ...Object.fromEntries(named.map((field) => [field, dtype])) };
}
