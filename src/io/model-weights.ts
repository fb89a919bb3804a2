import { readdir, realpath } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { UserError } from "../core/errors.ts";
import type { HostTensor } from "../core/host-tensor.ts";
import { type JsonObject, readJsonObject } from "./json-file.ts";
import { readSafetensorsHeader, readTensor, type SafetensorsFile } from "./safetensors.ts";
import type { TensorEntry } from "./safetensors-format.ts";
import { notSafetensors } from "./weight-file-kind.ts";

/** Where one weight lies: `length` bytes at `offset` of the file `path`. */
export interface WeightLocation extends TensorEntry {
  /** The real path of the file (hub caches keep links, which ONNX Runtime does not follow for external data). */
  readonly path: string;
}

/** Named weights that stay in their files until they are read. */
export interface ModelWeights {
  /** What to call them in messages: the folder or file they were opened from. */
  readonly source: string;
  readonly files: readonly string[];
  readonly tensors: ReadonlyMap<string, WeightLocation>;
  /** The first file's `__metadata__`. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Reads one weight; UserError when there is none of this name. */
  read(name: string): Promise<HostTensor>;
}

/** The weight file names of diffusers' models and of transformers' models. */
export const WEIGHT_NAMES = ["diffusion_pytorch_model", "model"] as const;

const PICKLED = /\.(bin|ckpt|pt|pth|pkl)$/i;

/** Opens the weights of a single safetensors file: reads and validates its header. */
export async function openWeightFile(path: string): Promise<ModelWeights> {
  const file = await readSafetensorsHeader(path);
  return weightsOf([{ ...file, path: await realpath(path) }], path);
}

/**
 * Opens the weights of a model folder: `diffusion_pytorch_model.safetensors` or `model.safetensors`, or their shards
 * by the `.safetensors.index.json` beside them. Headers are read and validated, data are not read.
 *
 * @param options.variant takes `NAME.VARIANT.safetensors` and `NAME.safetensors.index.VARIANT.json`, for example "fp16"
 * @throws UserError when there are none, only pickled ones, or only other variants (which are named), and when an index
 *   does not fit its shards
 */
export async function openWeights(folder: string, options: { readonly variant?: string } = {}): Promise<ModelWeights> {
  const { variant } = options;
  const present = new Set(await filesIn(folder));
  const infix = variant ? `.${variant}` : "";
  for (const name of WEIGHT_NAMES) {
    const single = `${name}${infix}.safetensors`;
    const index = `${name}.safetensors.index${infix}.json`;
    if (present.has(index) && !present.has(single)) return openShards(folder, index);
    if (present.has(single)) return openWeightFile(join(folder, single));
  }
  throw noWeights(folder, [...present].sort(), variant);
}

async function filesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    throw new UserError(missing ? `There is no folder ${folder}.` : `${folder} is not a folder.`, { cause: error });
  }
}

/**
 * The variants of safetensors weights among the names of a folder's files; "" is that without one.
 */
export function variantsIn(names: readonly string[]): string[] {
  const found = names.flatMap((name) => {
    const match =
      /^(?:diffusion_pytorch_model|model)(?:(?:\.([\w-]+))?\.safetensors|\.safetensors\.index(?:\.([\w-]+))?\.json)$/.exec(
        name,
      );
    const variant = match?.[1] ?? match?.[2] ?? "";
    return match && !/-\d{5}-of-\d{5}$/.test(variant) ? [variant] : [];
  });
  return [...new Set(found)].sort();
}

/** Variants as messages name them, after "weights". */
export function listVariants(variants: readonly string[]): string {
  return variants.map((name) => (name === "" ? "without a variant" : `variant "${name}"`)).join(", ");
}

/** The variants of safetensors weights that a model folder has; "" is that without one. */
export async function weightVariants(folder: string): Promise<string[]> {
  return variantsIn(await readdir(folder).catch(() => []));
}

function noWeights(folder: string, present: readonly string[], variant: string | undefined): UserError {
  const wanted = WEIGHT_NAMES.map((name) => `${name}${variant ? `.${variant}` : ""}.safetensors`).join(" or ");
  const others = variantsIn(present);
  if (others.length > 0) {
    return new UserError(`${folder} has no ${wanted}; it has weights ${listVariants(others)}.`, { field: "variant" });
  }
  const pickled = present.find((name) => PICKLED.test(name));
  if (pickled) {
    const error = notSafetensors(join(folder, pickled), new Uint8Array(1), 1, "");
    return new UserError(`${folder} has no ${wanted}, only pickled weights. ${error.message}`);
  }
  return new UserError(`${folder} has no ${wanted}.`, {
    hint: present.length > 0 ? `It has ${present.slice(0, 12).join(", ")}.` : "It is empty.",
  });
}

async function openShards(folder: string, index: string): Promise<ModelWeights> {
  const path = join(folder, index);
  const assigned = weightMap(await readJsonObject(path), path);
  const shards: SafetensorsFile[] = [];
  for (const name of [...new Set(assigned.values())].sort()) {
    const shard = await readSafetensorsHeader(join(folder, name));
    const strange = [...shard.tensors.keys()].filter((tensor) => assigned.get(tensor) !== name);
    if (strange.length > 0) {
      throw new UserError(`${shard.path} holds ${listed(strange)}, which ${path} does not place there.`);
    }
    const missing = [...assigned].filter(([tensor, file]) => file === name && !shard.tensors.has(tensor));
    if (missing.length > 0) {
      throw new UserError(
        `${shard.path} lacks ${listed(missing.map(([tensor]) => tensor))}, which ${path} places there.`,
      );
    }
    shards.push({ ...shard, path: await realpath(shard.path) });
  }
  return weightsOf(shards, folder);
}

/** The file of every tensor; files must lie in the folder itself. */
function weightMap(index: JsonObject, path: string): Map<string, string> {
  const map = index.weight_map;
  if (typeof map !== "object" || map === null || Array.isArray(map) || Object.keys(map).length === 0) {
    throw new UserError(`${path} has no weight_map from tensor names to file names.`);
  }
  return new Map(
    Object.entries(map).map(([tensor, file]) => {
      if (
        typeof file !== "string" ||
        !file.endsWith(".safetensors") ||
        basename(file) !== file ||
        file.includes("\\")
      ) {
        throw new UserError(
          `${path} places ${tensor} in ${JSON.stringify(file)}; the name of a .safetensors file in the same folder is needed.`,
        );
      }
      return [tensor, file];
    }),
  );
}

function weightsOf(files: readonly SafetensorsFile[], source: string): ModelWeights {
  const tensors = new Map<string, WeightLocation>();
  for (const { path, tensors: entries } of files)
    for (const [name, entry] of entries) tensors.set(name, { ...entry, path });
  return {
    source,
    files: files.map((file) => file.path),
    tensors,
    metadata: files[0]?.metadata ?? {},
    read: (name) => {
      const location = tensors.get(name);
      if (!location) return Promise.reject(new UserError(`${source} has no weight ${name}.`));
      return readTensor(location.path, location);
    },
  };
}

/** A weight in its file as ONNX Runtime is to find it, or read. */
export type PlacedWeight = Pick<HostTensor, "dtype" | "shape"> &
  ({ readonly file: string; readonly offset: number; readonly length: number } | Pick<HostTensor, "data">);

/**
 * Weights as external data of an ONNX graph where their files share a folder (they do, unless someone linked them
 * together), or else read.
 */
export async function placedWeights({
  files,
  tensors,
  read,
}: ModelWeights): Promise<{ weights: ReadonlyMap<string, PlacedWeight>; externalData: string | undefined }> {
  const folders = new Set(await Promise.all(files.map(async (file) => dirname(await realpath(file)))));
  const weights = new Map<string, PlacedWeight>();
  if (folders.size === 1) {
    for (const [name, { dtype, shape, offset, length, path }] of tensors) {
      weights.set(name, { dtype, shape, file: basename(path), offset, length });
    }
    return { weights, externalData: [...folders][0]! };
  }
  for (const name of tensors.keys()) weights.set(name, await read(name));
  return { weights, externalData: undefined };
}

function listed(names: readonly string[]): string {
  return names.length > 8 ? `${names.slice(0, 8).join(", ")} and ${names.length - 8} more` : names.join(", ");
}
