import { existsSync } from "node:fs";
import { cp } from "node:fs/promises";
import { join } from "node:path";
import { copyModelFolder, type JsonObject, readJsonObject, writeJsonObject } from "../io/index.ts";
import type { BaseModel } from "./pretrained-model.ts";

/**
 * Writes a model's folder with some of its parts changed. The others are copied the first time, as they are;
 * `model_index.json` goes last, so that a folder that has one is complete.
 *
 * @param changed writes the files of a part into its folder, by name
 * @param index what `model_index.json` says otherwise than the model's
 */
export async function writeChangedModel(
  folder: string,
  { path, pipeline, variants }: Pick<BaseModel, "path" | "pipeline" | "variants">,
  changed: Readonly<Record<string, (folder: string) => Promise<void>>>,
  index: JsonObject = {},
): Promise<void> {
  const file = join(folder, "model_index.json");
  const complete = existsSync(file);
  for (const [name, part] of pipeline.components) {
    // A safety checker may be listed without being there.
    if (complete || Object.hasOwn(changed, name) || !existsSync(part.path)) continue;
    const variant = variants.of(part.path);
    // What is changed has weights without a variant, and so has the rest.
    if (variant !== undefined) await copyModelFolder(part.path, join(folder, name), { variant });
    // Of the hub's folders the files are links.
    else await cp(part.path, join(folder, name), { recursive: true, dereference: true });
  }
  for (const [name, write] of Object.entries(changed)) await write(join(folder, name));
  await writeJsonObject(file, { ...(await readJsonObject(join(path, "model_index.json"))), ...index });
}
