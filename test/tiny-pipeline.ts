import { seeded } from "../src/core/random.ts";
import { readJsonObject, writeDdpmPipeline, writeJsonObject } from "../src/io/index.ts";
import { initialize, unet2d, unet2dConfig } from "../src/models/index.ts";

export interface TinyPipeline {
  readonly classes?: readonly string[];
  /** Adds the label "no class". */
  readonly classDropout?: boolean;
  readonly patch?: number;
  readonly imageChannels?: 1 | 3;
  readonly size?: number;
  readonly timesteps?: number;
  readonly beta_schedule?: string;
  readonly dtype?: "float16" | "float32";
}

/** Writes a diffusers folder of a U-Net with 8 and 16 channels and random weights, as training writes its model. */
export async function writeTinyPipeline(folder: string, options: TinyPipeline = {}): Promise<void> {
  const { classes, classDropout = false, patch = 1, imageChannels = 3, size = 16, timesteps = 100 } = options;
  const config = unet2dConfig({
    size: size / patch,
    imageChannels: imageChannels * patch * patch,
    channels: [8, 16],
    layers: 1,
    classes: classes && classes.length + (classDropout ? 1 : 0),
  });
  const tensors = initialize(unet2d(config), seeded(1));
  const scheduler = {
    num_train_timesteps: timesteps,
    beta_schedule: options.beta_schedule ?? "linear",
    prediction_type: "epsilon",
    timestep_spacing: "trailing",
  };
  await writeDdpmPipeline(folder, { config, tensors }, scheduler, { dtype: options.dtype });
  const path = `${folder}/model_index.json`;
  await writeJsonObject(path, {
    ...(await readJsonObject(path)),
    ...(patch > 1 ? { _class_name: "AllegoryPatchedPipeline", patch } : {}),
    ...(classes ? { classes } : {}),
  });
}
