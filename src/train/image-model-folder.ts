import { join } from "node:path";
import type { HostTensor } from "../core/host-tensor.ts";
import { readJsonObject, writeDdpmPipeline, writeJsonObject } from "../io/index.ts";
import type { TrainedNetwork } from "./network.ts";
import type { Recipe } from "./recipe.ts";

/** The scheduler configuration that belongs to what a recipe trains: DDPM's, as diffusers writes it. */
export function schedulerConfigOf(recipe: Recipe): Record<string, unknown> {
  const predictions = { noise: "epsilon", x0: "sample", v: "v_prediction" } as const;
  const { schedule, timesteps, betaStart, betaEnd, zeroTerminalSnr, predict } = recipe;
  const scaled = schedule === "scaled_linear";
  return {
    num_train_timesteps: timesteps,
    beta_schedule: schedule,
    beta_start: betaStart ?? (scaled ? 0.00085 : 1e-4),
    beta_end: betaEnd ?? (scaled ? 0.012 : 0.02),
    trained_betas: null,
    variance_type: "fixed_small",
    clip_sample: true,
    clip_sample_range: 1,
    prediction_type: predictions[predict],
    thresholding: false,
    timestep_spacing: "trailing",
    steps_offset: 0,
    rescale_betas_zero_snr: zeroTerminalSnr,
  };
}

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
