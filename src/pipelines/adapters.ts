import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { UserError } from "../core/errors.ts";
import { readJsonObject, readSafetensors, readSafetensorsHeader } from "../io/index.ts";
import { type Adapter, type PeftConfig, readAdapter, readTextEmbedding, type TextEmbedding } from "../models/index.ts";

/** What diffusers and PEFT call the file of a LoRA in a folder. */
const PEFT_FILE = "adapter_model.safetensors";
export const ADAPTER_FILES = ["pytorch_lora_weights.safetensors", PEFT_FILE];

/** Where PEFT says how strongly the layers of {@link PEFT_FILE} act. */
const PEFT_CONFIG = "adapter_config.json";

/**
 * Reads a LoRA: a safetensors file, or a folder that diffusers or PEFT wrote.
 *
 * @param options.name what scale inputs and messages call it; default the file's or folder's name
 * @throws UserError when there is none, or it is no LoRA
 */
export async function openAdapter(path: string, { name }: { readonly name?: string } = {}): Promise<Adapter> {
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
  const called = name ?? (inside ? basename(dirname(file)) : basename(file, ".safetensors"));
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
 * Reads a textual-inversion embedding from a safetensors file, or from the folder that it was trained into.
 *
 * @param options.token the word that stands for it in prompts; default what the file says, or else its name
 * @throws UserError when there is none, or it is none
 */
export async function openTextEmbedding(
  path: string,
  { token }: { readonly token?: string } = {},
): Promise<TextEmbedding> {
  const kind = await stat(path).catch(() => undefined);
  const file = kind?.isDirectory() ? join(path, EMBEDDING_FILE) : path;
  if (!kind || !existsSync(file)) {
    throw new UserError(kind ? `${path} holds no ${EMBEDDING_FILE}.` : `There is no embedding ${path}.`, {
      hint: "Give the safetensors file of a textual inversion, or `word=file`.",
      field: "embeddings",
    });
  }
  return readTextEmbedding(await readSafetensors(file), { name: basename(file, ".safetensors"), token });
}
