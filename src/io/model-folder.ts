import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { UserError } from "../core/errors.ts";
import { bytesPerElement, type HostTensor, sizeOf } from "../core/host-tensor.ts";
import { convertFloat, type FloatDType, isFloat } from "./half-precision.ts";
import { type JsonObject, readJsonObject, writeJsonObject } from "./json-file.ts";
import { type ModelWeights, openWeights, WEIGHT_NAMES } from "./model-weights.ts";
import { type LazyTensor, writeSafetensors } from "./safetensors.ts";

// The on-disk layout of diffusers: a model is a folder with config.json and weights, a pipeline a folder with
// model_index.json and one folder per component.

/** The diffusers release whose layout is written, as `_diffusers_version` says it in every file. */
const LAYOUT_VERSION = "0.40.0";

/** From this size on weights are split over several files, as diffusers and transformers do. */
const MAX_SHARD_BYTES = 5_000_000_000;

/** A model folder: its configuration and its weights, not read yet. */
export interface ModelFolder {
  readonly path: string;
  /** The class that `config.json` names (`_class_name`, or the first of `architectures`), if it does. */
  readonly className: string | undefined;
  readonly config: JsonObject;
  readonly weights: ModelWeights;
}

/** Opens a model folder of diffusers or transformers. UserErrors as of {@link openWeights} and for `config.json`. */
export async function readModelFolder(path: string, options: { readonly variant?: string } = {}): Promise<ModelFolder> {
  const config = await readJsonObject(join(path, "config.json"));
  const { _class_name: name, architectures } = config;
  const className =
    typeof name === "string" ? name : Array.isArray(architectures) ? String(architectures[0]) : undefined;
  return { path, className, config, weights: await openWeights(path, options) };
}

/** A part of a pipeline as `model_index.json` lists it. */
export interface PipelineComponent {
  /** `diffusers`, `transformers` or a module of the pipeline. */
  readonly library: string;
  readonly className: string;
  readonly path: string;
}

/** What `model_index.json` says. */
export interface PipelineFolder {
  readonly path: string;
  readonly className: string;
  /** By name (`unet`, `scheduler`, `vae` …); parts that are switched off (null) are left out. */
  readonly components: ReadonlyMap<string, PipelineComponent>;
  /** Everything else in the file, for example `requires_safety_checker`. */
  readonly options: JsonObject;
}

/** Whether a folder holds a pipeline (has a `model_index.json`). */
export function isPipelineFolder(path: string): boolean {
  return existsSync(join(path, "model_index.json"));
}

/**
 * Reads `model_index.json` of a pipeline folder.
 *
 * @param options.needs names of components that must be listed and have a folder; others may be missing (a safety
 *   checker that was not downloaded)
 * @throws UserError when there is no such file, or a needed component is missing
 */
export async function readPipelineFolder(
  path: string,
  options: { readonly needs?: readonly string[] } = {},
): Promise<PipelineFolder> {
  const file = join(path, "model_index.json");
  const { _class_name: className, _diffusers_version: _, ...rest } = await readJsonObject(file);
  if (typeof className !== "string") throw new UserError(`${file} names no pipeline (_class_name).`);
  const components = new Map<string, PipelineComponent>();
  const others: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(rest)) {
    const pair = Array.isArray(value) && value.length === 2;
    if (!pair || name.startsWith("_")) others[name] = value;
    else if (typeof value[0] === "string" && typeof value[1] === "string") {
      if (!/^[\w-]+$/.test(name))
        throw new UserError(`${file} names a component ${JSON.stringify(name)}; a folder name is needed.`);
      components.set(name, { library: value[0], className: value[1], path: join(path, name) });
    } else if (value[0] !== null || value[1] !== null) {
      throw new UserError(
        `${file} gives ${JSON.stringify(value)} for ${name}; [library, class] or [null, null] is needed.`,
      );
    }
  }
  for (const name of options.needs ?? []) {
    const component = components.get(name);
    if (!component) {
      throw new UserError(`${file} lists no ${name}; it lists ${[...components.keys()].join(", ") || "no component"}.`);
    }
    if (!existsSync(component.path)) throw new UserError(`${path} is not complete: ${component.path} is missing.`);
  }
  return { path, className, components, options: others };
}

/** Reads `scheduler_config.json` of a scheduler's folder. */
export async function readSchedulerConfig(folder: string): Promise<JsonObject> {
  return readJsonObject(join(folder, "scheduler_config.json"));
}

/** What is written as a model folder. */
export interface ModelToWrite {
  /** The fields of `config.json`; `_class_name` and `_diffusers_version` are added. */
  readonly config: JsonObject;
  /** Python's name of the class, for example `UNet2DModel`. */
  readonly className: string;
  readonly tensors: ReadonlyMap<string, HostTensor | LazyTensor>;
}

export interface WriteModelOptions {
  /** The dtype floating-point weights are stored in; by default each keeps its own. */
  readonly dtype?: FloatDType;
  readonly variant?: string;
  /** `diffusers` names the file diffusion_pytorch_model, `transformers` names it model. */
  readonly library?: "diffusers" | "transformers";
  readonly maxShardBytes?: number;
}

/**
 * Writes `config.json` and the weights of a model, split over several files beyond `maxShardBytes`. Files of the weights that
 * were there before, of this variant, are removed once the new ones are in their place.
 */
export async function writeModelFolder(
  path: string,
  model: ModelToWrite,
  options: WriteModelOptions = {},
): Promise<void> {
  const { dtype, variant, library = "diffusers", maxShardBytes = MAX_SHARD_BYTES } = options;
  const stem = library === "diffusers" ? WEIGHT_NAMES[0] : WEIGHT_NAMES[1];
  const infix = variant ? `.${variant}` : "";
  const tensors = new Map([...model.tensors].map(([name, tensor]) => [name, dtype ? stored(tensor, dtype) : tensor]));
  const shards = splitIntoShards(tensors, maxShardBytes);
  const metadata = { format: "pt" };
  const single = join(path, `${stem}${infix}.safetensors`);
  const index = join(path, `${stem}.safetensors.index${infix}.json`);
  const before = await shardsOf(index);
  const weightMap: Record<string, string> = {};
  if (shards.length === 1) {
    await writeSafetensors(single, tensors, metadata);
    await rm(index, { force: true });
  } else {
    for (const [i, shard] of shards.entries()) {
      const number = (n: number) => String(n).padStart(5, "0");
      const name = `${stem}${infix}-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
      await writeSafetensors(join(path, name), shard, metadata);
      for (const tensor of shard.keys()) weightMap[tensor] = name;
    }
    const total = [...tensors.values()].reduce((sum, tensor) => sum + byteSize(tensor), 0);
    await writeJsonObject(index, { metadata: { total_size: total }, weight_map: weightMap });
    // A reader prefers the single file: one left from before would hide the shards.
    await rm(single, { force: true });
  }
  const now = new Set(Object.values(weightMap));
  for (const name of before) if (!now.has(name)) await rm(join(path, name), { force: true });
  const named =
    library === "diffusers"
      ? { _class_name: model.className, _diffusers_version: LAYOUT_VERSION }
      : { architectures: [model.className] };
  await writeJsonObject(join(path, "config.json"), { ...model.config, ...named });
}

/** The files of shards that an index names, if there is one; what else a damaged one names is left alone. */
async function shardsOf(index: string): Promise<string[]> {
  if (!existsSync(index)) return [];
  const { weight_map: map } = await readJsonObject(index).catch((): JsonObject => ({}));
  return [...new Set(Object.values(map ?? {}))].filter(
    (name) => typeof name === "string" && basename(name) === name && /-\d{5}-of-\d{5}.*\.safetensors$/.test(name),
  );
}

/** One component of a pipeline to write: a model, a configuration alone (a scheduler), or what writes its own files. */
export type ComponentToWrite =
  | (ModelToWrite & { readonly library?: "diffusers" | "transformers" })
  | { readonly className: string; readonly schedulerConfig: JsonObject }
  | {
      readonly className: string;
      readonly library: "diffusers" | "transformers";
      /** Writes the files into a folder, which it makes. */
      readonly write: (folder: string) => Promise<void>;
    };

/** Writes a pipeline folder: `model_index.json` last, so that a folder that has one is complete. */
export async function writePipelineFolder(
  path: string,
  className: string,
  components: Readonly<Record<string, ComponentToWrite>>,
  options: Omit<WriteModelOptions, "library"> = {},
): Promise<void> {
  const index: Record<string, unknown> = { _class_name: className, _diffusers_version: LAYOUT_VERSION };
  for (const [name, component] of Object.entries(components)) {
    const folder = join(path, name);
    if ("schedulerConfig" in component) {
      const config = {
        ...component.schedulerConfig,
        _class_name: component.className,
        _diffusers_version: LAYOUT_VERSION,
      };
      await writeJsonObject(join(folder, "scheduler_config.json"), config);
      index[name] = ["diffusers", component.className];
    } else if ("write" in component) {
      await component.write(folder);
      index[name] = [component.library, component.className];
    } else {
      const { library = "diffusers" } = component;
      await writeModelFolder(folder, component, { ...options, library });
      index[name] = [library, component.className];
    }
  }
  await writeJsonObject(join(path, "model_index.json"), index);
}

/**
 * Writes an unconditional pixel-space model as a diffusers `DDPMPipeline`: `model_index.json`, `unet/config.json`,
 * `unet/diffusion_pytorch_model.safetensors`, `scheduler/scheduler_config.json`.
 *
 * @param unet the fields of `UNet2DModel`'s config and its parameters
 * @param scheduler the fields of `DDPMScheduler`'s config
 */
export async function writeDdpmPipeline(
  path: string,
  unet: Omit<ModelToWrite, "className">,
  scheduler: JsonObject,
  options: Omit<WriteModelOptions, "library"> = {},
): Promise<void> {
  const components = {
    scheduler: { className: "DDPMScheduler", schedulerConfig: scheduler },
    unet: { ...unet, className: "UNet2DModel" },
  };
  await writePipelineFolder(path, "DDPMPipeline", components, options);
}

function stored(tensor: HostTensor | LazyTensor, dtype: FloatDType): HostTensor | LazyTensor {
  if (!isFloat(tensor.dtype) || tensor.dtype === dtype) return tensor;
  const load = async () => ("read" in tensor ? tensor.read() : tensor);
  return { dtype, shape: tensor.shape, read: async () => convertFloat(await load(), dtype) };
}

function byteSize(tensor: HostTensor | LazyTensor): number {
  return sizeOf(tensor.shape) * bytesPerElement(tensor.dtype);
}

/** Fills one file after the other in the order of the tensors; a tensor above the limit gets a file of its own. */
function splitIntoShards<T extends HostTensor | LazyTensor>(
  tensors: ReadonlyMap<string, T>,
  maxBytes: number,
): Map<string, T>[] {
  const shards = [new Map<string, T>()];
  let size = 0;
  for (const [name, tensor] of tensors) {
    const bytes = byteSize(tensor);
    if (size > 0 && size + bytes > maxBytes) {
      shards.push(new Map());
      size = 0;
    }
    shards.at(-1)!.set(name, tensor);
    size += bytes;
  }
  return shards;
}
