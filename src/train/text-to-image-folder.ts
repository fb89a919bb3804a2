import { join } from "node:path";
import type { HostTensor } from "../core/host-tensor.ts";
import {
  type ComponentToWrite,
  readJsonObject,
  readModelFolder,
  writeJsonObject,
  writePipelineFolder,
} from "../io/index.ts";
import type { Condition } from "./condition.ts";
import { type Denoiser, denoiserComponent } from "./denoisers.ts";
import { schedulerConfigOf } from "./noise-fields.ts";
import type { DenoiserStage } from "./text-to-image-recipe.ts";

/** The pipeline classes of what is trained here from words, by the denoiser's class. */
const PIPELINES: Readonly<Record<string, string>> = {
  UNet2DConditionModel: "StableDiffusionPipeline",
  PixArtTransformer2DModel: "AllegoryTextToImagePipeline",
  SD3Transformer2DModel: "AllegoryTextToImagePipeline",
};

/** Writes a text-to-image system as a pipeline folder in diffusers' layout. */
export async function writeTextToImage(
  folder: string,
  stage: DenoiserStage,
  parts: { readonly denoiser: Denoiser; readonly condition: Condition; readonly autoencoder: string },
  weights: ReadonlyMap<string, HostTensor>,
): Promise<void> {
  const { denoiser, condition, autoencoder } = parts;
  await writePipelineFolder(folder, PIPELINES[denoiser.className]!, {
    scheduler: samplingScheduler(stage),
    ...condition.components(weights),
    ...denoiserComponent(denoiser, weights),
    vae: await autoencoderComponent(autoencoder),
  });
  const path = join(folder, "model_index.json");
  const absent = { safety_checker: [null, null], feature_extractor: [null, null], requires_safety_checker: false };
  await writeJsonObject(path, { ...(await readJsonObject(path)), ...absent });
}

/** The scheduler that draws by default: deterministic, over the timesteps of training, from pure noise on. */
export function samplingScheduler(stage: DenoiserStage): {
  className: string;
  schedulerConfig: Record<string, unknown>;
} {
  const { predict, timesteps } = stage;
  if (predict === "flow") {
    return {
      className: "FlowMatchEulerDiscreteScheduler",
      schedulerConfig: { num_train_timesteps: timesteps, shift: 1 },
    };
  }
  // DDIM has no reverse variance to choose, and latents have no range to be clipped to.
  const { variance_type: _, ...shared } = schedulerConfigOf({ ...stage, predict });
  return {
    className: "DDIMScheduler",
    schedulerConfig: { ...shared, clip_sample: false, set_alpha_to_one: true },
  };
}

async function autoencoderComponent(folder: string): Promise<ComponentToWrite> {
  const { config, weights } = await readModelFolder(folder);
  const { _class_name: _, _diffusers_version: __, ...own } = config;
  const tensors = await Promise.all(
    [...weights.tensors.keys()].map(async (name) => [name, await weights.read(name)] as const),
  );
  return { className: "AutoencoderKL", config: own, tensors: new Map(tensors) };
}
