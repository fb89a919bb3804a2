import { existsSync } from "node:fs";
import { copyFile, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../core/errors.ts";
import {
  type ComponentToWrite,
  type JsonObject,
  readJsonObject,
  type WriteModelOptions,
  writeJsonObject,
  writeModelFolder,
  writePipelineFolder,
} from "../io/index.ts";
import type { OriginalPart } from "../models/index.ts";
import { OPEN_CLIP_PADDING, type SingleFile } from "./single-file.ts";

export interface WriteSingleFileOptions extends Omit<WriteModelOptions, "library" | "variant"> {
  /** The tokenizer's folder, which such files have not: that of any Stable Diffusion (vocab.json, merges.txt). */
  readonly tokenizer?: string;
}

/**
 * Writes a single-file checkpoint as a folder in diffusers' layout; one that holds a single network, such as an autoencoder,
 * as the folder of a model. Without `tokenizer` a pipeline's folder has none and cannot draw yet.
 *
 * @returns the class that was written, and which components a pipeline of it still lacks
 * @throws UserError for a tokenizer that is not there or has no use
 */
export async function writeSingleFileAsFolder(
  path: string,
  checkpoint: SingleFile,
  { tokenizer, ...options }: WriteSingleFileOptions = {},
): Promise<{ readonly className: string; readonly missing: readonly string[] }> {
  const { parts, family, scheduler } = checkpoint;
  const components: Record<string, ComponentToWrite> = {};
  const missing: string[] = [];
  const [only, ...others] = Object.values(parts);
  if (only && others.length === 0) {
    if (tokenizer !== undefined) {
      throw new UserError(`A ${only.className} alone has no use for a tokenizer.`, { field: "tokenizer" });
    }
    const { className, config } = only;
    const model = { className, config: ownFields(config), tensors: checkpoint.tensors(only) };
    await writeModelFolder(path, model, { ...options, library: libraryOf(className) });
    return { className, missing };
  }
  if (tokenizer !== undefined) requireClipTokenizer(tokenizer);
  for (const [name, component] of Object.entries(parts)) {
    const { className, config } = component;
    const library = libraryOf(className);
    components[name] = { className, config: ownFields(config), library, tensors: checkpoint.tensors(component) };
    if (library !== "transformers") continue;
    const own = name.replace("text_encoder", "tokenizer");
    // The second encoder of XL and the only one of 2.x are OpenCLIP's.
    const padding = name === "text_encoder_2" || family === "2.x" ? OPEN_CLIP_PADDING : undefined;
    if (tokenizer === undefined) missing.push(own);
    else {
      const write = (folder: string) => copyTokenizer(tokenizer, folder, padding);
      components[own] = { className: "CLIPTokenizer", library: "transformers", write };
    }
  }
  missing.push(...needsOf(family).filter((name) => !parts[name]));
  if (scheduler) {
    const { _class_name: className, ...schedulerConfig } = scheduler;
    components.scheduler = { className: String(className), schedulerConfig };
  }
  const { className, ...fields } = pipelineOf(checkpoint);
  await writePipelineFolder(path, className, components, options);
  const index = join(path, "model_index.json");
  await writeJsonObject(index, { ...(await readJsonObject(index)), ...fields });
  return { className, missing };
}

const libraryOf = (className: string) => (className.startsWith("CLIP") ? "transformers" : "diffusers");

function needsOf(family: SingleFile["family"]): readonly OriginalPart[] {
  if (family === "XL refiner") return ["unet", "vae", "text_encoder_2"];
  return ["unet", "vae", "text_encoder", ...(family === "XL" ? (["text_encoder_2"] as const) : [])];
}

/** The fields of a configuration without the class, which is written by its own names. */
function ownFields(config: JsonObject): JsonObject {
  const { _class_name: _, architectures: __, ...own } = config;
  return own;
}

/** Python's class for what a checkpoint holds, and what its model_index.json says besides the components. */
function pipelineOf({ family, parts }: SingleFile): { readonly className: string } & JsonObject {
  const { in_channels: inputs, time_cond_proj_dim: told } = parts.unet?.config ?? {};
  const inpaints = inputs === 9;
  if (family === "XL refiner") {
    return {
      ...{ className: "StableDiffusionXLImg2ImgPipeline", text_encoder: [null, null], tokenizer: [null, null] },
      ...{ force_zeros_for_empty_prompt: true, requires_aesthetics_score: true },
    };
  }
  if (family === "XL") {
    const className = inpaints ? "StableDiffusionXLInpaintPipeline" : "StableDiffusionXLPipeline";
    return { className, force_zeros_for_empty_prompt: true };
  }
  return {
    className:
      typeof told === "number"
        ? "LatentConsistencyModelPipeline"
        : inpaints
          ? "StableDiffusionInpaintPipeline"
          : "StableDiffusionPipeline",
    ...{ safety_checker: [null, null], feature_extractor: [null, null], requires_safety_checker: false },
  };
}

function requireClipTokenizer(folder: string): void {
  if (existsSync(join(folder, "vocab.json")) && existsSync(join(folder, "merges.txt"))) return;
  throw new UserError(`${folder} is no folder of a CLIP tokenizer (it lacks vocab.json or merges.txt).`, {
    hint: "Give the folder tokenizer/ of any Stable Diffusion in diffusers' layout.",
    field: "tokenizer",
  });
}

/** Copies a CLIP tokenizer, padded with another token where one is given. */
async function copyTokenizer(from: string, to: string, padding: string | undefined): Promise<void> {
  await mkdir(to, { recursive: true });
  const has = (name: string) => existsSync(join(from, name));
  for (const name of ["vocab.json", "merges.txt"]) await copyFile(join(from, name), join(to, name));
  // tokenizer.json repeats the vocabulary together with the special tokens: with others it is built anew by who reads it.
  if (padding === undefined && has("tokenizer.json")) {
    await copyFile(join(from, "tokenizer.json"), join(to, "tokenizer.json"));
  }
  for (const name of ["tokenizer_config.json", "special_tokens_map.json"]) {
    const given = has(name) ? await readJsonObject(join(from, name)) : {};
    const padded = padding === undefined ? given : { ...given, pad_token: padding };
    if (Object.keys(padded).length > 0) await writeJsonObject(join(to, name), padded);
  }
}
