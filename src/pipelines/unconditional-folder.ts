import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { UserError } from "../core/errors.ts";
import { notesOnConfig, type SchedulerConfig } from "../diffusion/index.ts";
import {
  isPipelineFolder,
  type JsonObject,
  type ModelWeights,
  readJsonObject,
  readModelFolder,
  readPipelineFolder,
  readSchedulerConfig,
} from "../io/index.ts";

/** The class name of a pipeline whose network sees squares of pixels; no Python pipeline does this. */
export const PATCHED_PIPELINE = "AllegoryPatchedPipeline";

/** An unconditional or class-conditional model of pixels on disk, its weights not read yet. */
export interface UnconditionalFolder {
  /** The folder that was given. */
  readonly path: string;
  /** The folder of the network: config.json and weights. */
  readonly network: string;
  /** `UNet2DModel`'s configuration. */
  readonly config: JsonObject;
  readonly weights: ModelWeights;
  readonly scheduler: SchedulerConfig;
  /** The side of the square of pixels that is one pixel to the network. */
  readonly patch: number;
  readonly classes: Classes | undefined;
  /** What was assumed. */
  readonly warnings: readonly string[];
}

/** The classes that a network can be asked for. */
export interface Classes {
  readonly names: readonly string[];
  /** The label that stands for "no class", where the network was trained with one. */
  readonly none: number | undefined;
}

/**
 * Opens a run folder (its `model/`), a diffusers pipeline folder of a `UNet2DModel` and a scheduler, or the folder of
 * such a network alone.
 *
 * @param options.variant takes `NAME.VARIANT.safetensors`, for example "fp16"
 * @throws UserError that says what the folder is when it is none of these, and what is missing
 */
export async function readUnconditionalFolder(
  path: string,
  { variant }: { readonly variant?: string } = {},
): Promise<UnconditionalFolder> {
  const kind = await stat(path).catch(() => undefined);
  if (!kind) throw new UserError(`There is no folder ${path}.`);
  if (!kind.isDirectory()) {
    throw new UserError(`${path} is a file; a run folder or a diffusers folder is needed.`, {
      hint: "Give the folder it lies in; `allegory inspect` shows what a single file holds.",
    });
  }
  if (isPipelineFolder(path)) return ofPipeline(path, path, variant);
  const model = join(path, "model");
  if (isPipelineFolder(model)) return ofPipeline(path, model, variant);
  if (existsSync(join(path, "recipe.json"))) {
    throw new UserError(`The run ${path} has no model yet.`, {
      hint: "It gets one with its first checkpoint: let `allegory train` run on.",
    });
  }
  if (existsSync(join(path, "config.json"))) return ofNetwork(path, variant);
  throw new UserError(`${path} is neither a run folder nor a model in diffusers' layout.`, {
    hint: "A run folder has model/model_index.json, a pipeline model_index.json, a network config.json and weights.",
  });
}

async function ofPipeline(path: string, folder: string, variant: string | undefined): Promise<UnconditionalFolder> {
  const { className, components } = await readPipelineFolder(folder);
  const unet = components.get("unet");
  if (!unet) throw new UserError(`${join(folder, "model_index.json")} lists no unet; it is a ${className}.`);
  const others = [...components.keys()].filter((name) => !["unet", "scheduler", "classes"].includes(name));
  if (unet.className !== "UNet2DModel" || others.length > 0) {
    const parts = [...components].map(([name, component]) => `${name} (${component.className})`);
    throw new UserError(`${folder} is a ${className} of ${parts.join(", ")}.`, {
      hint: "Here a pipeline of pixels is needed: a UNet2DModel and a scheduler.",
    });
  }
  const scheduler = components.get("scheduler");
  if (!scheduler) throw new UserError(`${join(folder, "model_index.json")} lists no scheduler.`);
  const index = await readJsonObject(join(folder, "model_index.json"));
  const patch = patchOf(index, className, folder);
  const schedulerConfig = await readSchedulerConfig(partFolder(scheduler.path, folder, "scheduler_config.json"));
  return opened(path, partFolder(unet.path, folder, "config.json"), schedulerConfig, {
    ...{ patch, variant },
    names: classNames(index),
  });
}

/** The first published pipelines have the files of their parts beside model_index.json. */
function partFolder(own: string, pipeline: string, file: string): string {
  return !existsSync(own) && existsSync(join(pipeline, file)) ? pipeline : own;
}

async function ofNetwork(path: string, variant: string | undefined): Promise<UnconditionalFolder> {
  const parent = dirname(resolve(path));
  if (basename(resolve(path)) === "unet" && isPipelineFolder(parent)) {
    return { ...(await ofPipeline(parent, parent, variant)), path };
  }
  if (existsSync(join(path, "scheduler_config.json"))) {
    return opened(path, path, await readSchedulerConfig(path), { variant });
  }
  const warning = `${path} says nothing about its noise schedule; taken is the usual one of DDPM (1000 timesteps, linear betas 0.0001 to 0.02, noise prediction).`;
  return opened(path, path, { _class_name: "DDPMScheduler" }, { variant, warnings: [warning] });
}

async function opened(
  path: string,
  network: string,
  scheduler: SchedulerConfig,
  {
    patch = 1,
    variant,
    names,
    warnings = [],
  }: { patch?: number; variant?: string; names?: readonly string[]; warnings?: readonly string[] },
): Promise<UnconditionalFolder> {
  const { className, config, weights } = await readModelFolder(network, { variant });
  if (className !== "UNet2DModel") {
    throw new UserError(
      `${join(network, "config.json")} is of class ${className ?? "unknown"}; UNet2DModel is needed.`,
    );
  }
  return {
    ...{ path, network, config, weights, scheduler, patch },
    classes: classesOf(config, names, network),
    warnings: [...warnings, ...notesOnConfig(scheduler)],
  };
}

function patchOf(index: JsonObject, className: string, folder: string): number {
  const { patch = 1 } = index;
  const valid = typeof patch === "number" && Number.isInteger(patch) && patch >= 1;
  if (valid && patch > 1 === (className === PATCHED_PIPELINE)) return patch;
  throw new UserError(`${folder} is a ${className} with patch ${JSON.stringify(index.patch ?? null)}.`, {
    hint: `A ${PATCHED_PIPELINE} has a whole number from 2 on, others have none.`,
  });
}

/** `classes`: a list of names; or `id2label`, as diffusers' pipeline of DiT has it. */
export function classNames(index: JsonObject): readonly string[] | undefined {
  const { classes, id2label } = index;
  if (Array.isArray(classes)) return classes.map(String);
  if (typeof id2label !== "object" || id2label === null) return undefined;
  return Object.entries(id2label)
    .sort(([a], [b]) => Number(a) - Number(b))
    .map(([, name]) => String(name));
}

function classesOf(config: JsonObject, names: readonly string[] | undefined, network: string): Classes | undefined {
  const { num_class_embeds: labels, class_embed_type: type } = config;
  if (typeof type === "string") {
    throw new UserError(`The network ${network} takes classes as "${type}" embeddings.`, {
      hint: "Networks with a table of classes (num_class_embeds) can be sampled.",
    });
  }
  if (typeof labels !== "number") return undefined;
  if (!names) return { names: Array.from({ length: labels }, (_, i) => String(i)), none: undefined };
  if (names.length !== labels && names.length + 1 !== labels) {
    throw new UserError(`The network ${network} has ${labels} class labels, its pipeline ${names.length} names.`);
  }
  return { names, none: names.length + 1 === labels ? names.length : undefined };
}
