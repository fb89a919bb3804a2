import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { UserError } from "../../core/errors.ts";
import {
  type JsonObject,
  type ModelFolder,
  modelFolder,
  openWeightFile,
  readModelFolder,
  weightVariants,
  withoutVariant,
} from "../../io/index.ts";
import { isOriginalCheckpoint } from "../../models/index.ts";
import { externalWeights, openSingleFile } from "../single-file.ts";
import type { OpenModelOptions, StoredPart } from "./model.ts";

/** How a part that is not the model's own is read. */
export interface PartChoice extends Pick<OpenModelOptions, "variant" | "hub"> {
  /** Told what was taken instead of what was asked for. */
  readonly warn: (warning: string) => void;
}

export interface VaeChoice extends PartChoice {
  readonly field: "vae" | "previewVae";
  /** The configuration of the model's own autoencoder, whose latents another one must be made for. */
  readonly own: JsonObject | undefined;
}

/**
 * A revision and a variant are the model's own: parts of other repositories are taken as they are there today, in the variant if
 * they have it.
 */
export function partHub(hub: OpenModelOptions["hub"]): OpenModelOptions["hub"] {
  return { ...hub, revision: undefined, variantOptional: true };
}

/** Reads a control network: a folder in diffusers' layout, or `org/name` of the hub. */
export async function storedControlNet(given: string, { variant, hub, warn }: PartChoice): Promise<StoredPart> {
  const path = await modelFolder(given, { ...partHub(hub), variant }).catch((error) => {
    if (!(error instanceof UserError)) throw error;
    throw new UserError(error.message, { field: "controlNet", cause: error });
  });
  return readPart(path, { variant, warn }, given);
}

/** Reads the folder of a part that is not the model's own, in the variant if it has it. */
async function readPart(
  path: string,
  { variant, warn }: Pick<PartChoice, "variant" | "warn">,
  given = path,
): Promise<ModelFolder> {
  if (variant === undefined || (await weightVariants(path)).includes(variant))
    return readModelFolder(path, { variant });
  warn(withoutVariant(given, variant));
  return readModelFolder(path);
}

/**
 * Reads an autoencoder that was chosen for a model: a folder in diffusers' layout or `org/name` of the hub, a safetensors file
 * in such a folder, or one as its authors published it, of the autoencoder alone or of a whole checkpoint.
 *
 * @throws UserError when it is something else
 */
export async function storedVae(given: string, { variant, hub, warn, field, own }: VaeChoice): Promise<StoredPart> {
  const path = await modelFolder(given, { ...partHub(hub), variant }).catch((error) => {
    if (!(error instanceof UserError)) throw error;
    throw new UserError(error.message, { field, cause: error });
  });
  if (!(await stat(path)).isFile()) return readPart(path, { variant, warn }, given);
  if (!path.endsWith(".safetensors")) {
    throw new UserError(`${path} is no safetensors file.`, {
      hint: "Pickled weights can run any program while they are read, so they are not opened.",
      field,
    });
  }
  const file = await openWeightFile(path);
  const { weights } = externalWeights(file);
  if (isOriginalCheckpoint(weights)) {
    const { parts, externalData } = await openSingleFile(path, { configs: { vae: scalingIn(own) } });
    if (!parts.vae)
      throw new UserError(`${path} holds no autoencoder, only ${Object.keys(parts).join(", ")}.`, { field });
    const { className, config, weights: bound } = parts.vae;
    return { className, config, weights: { source: path, bound, externalData } };
  }
  if (existsSync(join(dirname(path), "config.json"))) {
    return { ...(await readPart(dirname(path), { variant, warn: () => undefined })), weights: file };
  }
  throw new UserError(
    `${basename(path)} has no config.json beside it and is no checkpoint as its authors published it.`,
    {
      hint: "Give a folder in diffusers' layout.",
      field,
    },
  );
}

/** A file of an autoencoder alone does not say how its latents are scaled; the model's own autoencoder does. */
function scalingIn(own: JsonObject = {}): JsonObject {
  const fields = ["scaling_factor", "shift_factor", "latents_mean", "latents_std"];
  return Object.fromEntries(fields.flatMap((field) => (own[field] === undefined ? [] : [[field, own[field]]])));
}
