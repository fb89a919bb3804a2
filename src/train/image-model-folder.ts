import { join } from "node:path";
import type { HostTensor } from "../core/host-tensor.ts";
import { readJsonObject, writeDdpmPipeline, writeJsonObject } from "../io/index.ts";
import type { TrainedNetwork } from "./network.ts";
import { schedulerConfigOf } from "./noise-fields.ts";
import type { Recipe } from "./recipe.ts";

/** Writes the weights as a diffusers pipeline folder; with patches, as one that says it needs them. */
export async function writeModel(
  folder: string,
  recipe: Recipe,
  { config, classes, nullClass }: TrainedNetwork,
  weights: ReadonlyMap<string, HostTensor>,
  classNames: readonly string[] | undefined,
): Promise<void> {
  await writeDdpmPipeline(folder, { config, tensors: weights }, schedulerConfigOf(recipe));
  if (recipe.patch === 1 && classes === 0) return;
  const names = classNames ?? Array.from({ length: classes }, (_, i) => String(i));
  const path = join(folder, "model_index.json");
  const index = await readJsonObject(path);
  await writeJsonObject(path, {
    ...index,
    ...(recipe.patch > 1 ? { _class_name: "AllegoryPatchedPipeline", patch: recipe.patch } : {}),
    ...(classes > 0 ? { classes: names, null_class: nullClass !== undefined } : {}),
  });
}
