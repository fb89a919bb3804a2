import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { UserError } from "../core/errors.ts";
import {
  type HubOptions,
  hubAddition,
  hubPlace,
  readJsonObject,
  readSafetensors,
  readSafetensorsHeader,
} from "../io/index.ts";
import { type Adapter, type PeftConfig, readAdapter, readTextEmbedding, type TextEmbedding } from "../models/index.ts";

/** What diffusers and PEFT call the file of a LoRA in a folder. */
const PEFT_FILE = "adapter_model.safetensors";
export const ADAPTER_FILES = ["pytorch_lora_weights.safetensors", PEFT_FILE];

/** Where PEFT says how strongly the layers of {@link PEFT_FILE} act. */
const PEFT_CONFIG = "adapter_config.json";

/**
 * Reads a LoRA: a safetensors file, or a folder that diffusers or PEFT wrote, or one of the hub: `org/name`, or
 * `org/name/file.safetensors`.
 *
 * @param options.name what scale inputs and messages call it; default the file's or folder's name
 * @throws UserError when there is none, or it is no LoRA
 */
export async function openAdapter(
  given: string,
  { name, hub }: { readonly name?: string; readonly hub?: HubOptions } = {},
): Promise<Adapter> {
  const { path, name: theirs } = await additionAt(given, ADAPTER_FILES, { hub, field: "lora" });
  const kind = await stat(path).catch(() => undefined);
  if (!kind) throw new UserError(`There is no LoRA ${path}.`, { field: "lora" });
  const inside = kind.isDirectory() ? ADAPTER_FILES.find((file) => existsSync(join(path, file))) : undefined;
  if (kind.isDirectory() && !inside) {
    throw new UserError(`${path} holds no LoRA (${ADAPTER_FILES.join(" or ")}).`, {
      hint: "Give the safetensors file itself.",
      field: "lora",
    });
  }
  const file = inside ? join(path, inside) : path;
  const { metadata } = await readSafetensorsHeader(file);
  const called = name ?? theirs ?? (inside ? basename(dirname(file)) : basename(file, ".safetensors"));
  const config = basename(file) === PEFT_FILE ? await peftConfig(join(dirname(file), PEFT_CONFIG)) : undefined;
  return readAdapter(await readSafetensors(file), { name: called, metadata, config });
}

async function peftConfig(path: string): Promise<PeftConfig> {
  if (existsSync(path)) return readJsonObject(path);
  throw new UserError(`There is no ${path}, which says how strongly the LoRA acts (lora_alpha).`, {
    hint: "PEFT writes it beside the weights: get it from where they came from.",
    field: "lora",
  });
}

/** What diffusers and `allegory train` call the file of an embedding in a folder. */
export const EMBEDDING_FILE = "learned_embeds.safetensors";

/**
 * Reads a textual-inversion embedding from a safetensors file, or from the folder that it was trained into, or from the hub:
 * `org/name`, or `org/name/file.safetensors`.
 *
 * @param options.token the word that stands for it in prompts; default what the file says, or else its name
 * @throws UserError when there is none, or it is none
 */
export async function openTextEmbedding(
  given: string,
  { token, hub }: { readonly token?: string; readonly hub?: HubOptions } = {},
): Promise<TextEmbedding> {
  const { path, name } = await additionAt(given, [EMBEDDING_FILE], { hub, field: "embeddings" });
  const kind = await stat(path).catch(() => undefined);
  const file = kind?.isDirectory() ? join(path, EMBEDDING_FILE) : path;
  if (!kind || !existsSync(file)) {
    throw new UserError(kind ? `${path} holds no ${EMBEDDING_FILE}.` : `There is no embedding ${path}.`, {
      hint: "Give the safetensors file of a textual inversion, or `word=file`.",
      field: "embeddings",
    });
  }
  return readTextEmbedding(await readSafetensors(file), { name: name ?? basename(file, ".safetensors"), token });
}

/** The given path; or, where there is nothing and it names something of the hub, the file downloaded from there. */
async function additionAt(
  given: string,
  names: readonly string[],
  { hub, field }: { readonly hub: HubOptions | undefined; readonly field: string },
): Promise<{ readonly path: string; readonly name?: string }> {
  const place = existsSync(given) ? undefined : hubPlace(given);
  if (!place) return { path: given };
  const path = await hubAddition(place, names, hub).catch((error) => {
    if (!(error instanceof UserError)) throw error;
    throw new UserError(error.message, { field, cause: error });
  });
  return { path, ...(place.file === undefined && { name: basename(place.id) }) };
}
