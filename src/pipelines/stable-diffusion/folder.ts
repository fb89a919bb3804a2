import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../../core/errors.ts";
import type { SchedulerConfig } from "../../diffusion/index.ts";
import {
  isPipelineFolder,
  openTokenizer,
  type PipelineComponent,
  readModelFolder,
  readPipelineFolder,
  readSchedulerConfig,
  type TextTokenizer,
} from "../../io/index.ts";
import {
  type AutoencoderKL,
  type AutoencoderTiny,
  autoencoderKL,
  autoencoderTiny,
  type ClipText,
  type ControlNet,
  clipText,
  clipTextWithProjection,
  controlNet,
  type UNet2DCondition,
  unet2dCondition,
} from "../../models/index.ts";
import type { Part } from "../part-sessions.ts";

/** A text encoder with the tokenizer that belongs to it. */
export interface TextEncoder {
  readonly part: Part<ClipText>;
  readonly tokenizer: TextTokenizer;
}

/** A Stable Diffusion model on disk, its weights not read yet. */
export interface StableDiffusionFolder {
  readonly path: string;
  /** The class of model_index.json. */
  readonly className: string;
  readonly unet: Part<UNet2DCondition>;
  readonly vae: Part<AutoencoderKL | AutoencoderTiny>;
  readonly textEncoders: readonly TextEncoder[];
  readonly controlNet: Part<ControlNet> | undefined;
  readonly scheduler: SchedulerConfig;
  /** Pixels per latent pixel, along each side. */
  readonly factor: number;
  /** Channels of the latents. */
  readonly channels: number;
  /** The U-Net also sees the mask and the rest of the picture. */
  readonly inpainting: boolean;
  /** The U-Net is told sizes and a pooled text, as that of SDXL. */
  readonly sizeConditions: boolean;
  /** The last of the numbers it is told is an aesthetic score, as that of SDXL's refiner. */
  readonly aestheticScore: boolean;
  /** The U-Net is told the guidance scale, as that of latent consistency models. */
  readonly guidanceEmbedding: boolean;
  /** Without a negative prompt the unconditional text is zeros, not the encoding of "". */
  readonly zerosForEmptyPrompt: boolean;
  /** What was left out. */
  readonly warnings: readonly string[];
}

export interface OpenFolderOptions {
  /** Takes `NAME.VARIANT.safetensors`, for example "fp16". */
  readonly variant?: string;
  /** A folder of another AutoencoderKL, or of an AutoencoderTiny. */
  readonly vae?: string;
  /** The folder of a ControlNetModel. */
  readonly controlNet?: string;
  /** A scheduler's configuration in the place of the folder's. */
  readonly scheduler?: SchedulerConfig;
}

/** Parts that change no picture. */
const UNUSED = ["safety_checker", "feature_extractor", "image_encoder", "watermark"];
const KNOWN = [
  ...["unet", "vae", "controlnet", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"],
  ...UNUSED,
];

/**
 * Opens a folder in diffusers' layout of a text-conditional U-Net, an autoencoder and CLIP text encoders.
 *
 * @throws UserError that says what the folder is when it is another one, and what is missing
 */
export async function readStableDiffusionFolder(
  path: string,
  { variant, vae: otherVae, controlNet: otherControl, scheduler }: OpenFolderOptions = {},
): Promise<StableDiffusionFolder> {
  const kind = await stat(path).catch(() => undefined);
  if (!kind) throw new UserError(`There is no folder ${path}.`, { field: "model" });
  if (!kind.isDirectory() || !isPipelineFolder(path)) {
    throw new UserError(`${path} is no pipeline in diffusers' layout (it has no model_index.json).`, {
      hint: "A folder with model_index.json, unet/, vae/, text_encoder/, tokenizer/ and scheduler/ is needed.",
      field: "model",
    });
  }
  const { className, components, options } = await readPipelineFolder(path);
  checkComponents(path, className, components);
  const at = (name: string) => components.get(name)!.path;
  const unetFolder = await readModelFolder(at("unet"), { variant });
  const unet = unet2dCondition(unetFolder.config);
  const vae = await readVae(otherVae ?? at("vae"), { variant });
  const controlPath = otherControl ?? components.get("controlnet")?.path;
  const control =
    controlPath === undefined ? undefined : await readControlNet(controlPath, unet, vae.factor, { variant });
  const encoders = ["", "_2"].filter((suffix) => components.has(`text_encoder${suffix}`));
  const textEncoders = await Promise.all(
    encoders.map(async (suffix): Promise<TextEncoder> => {
      const name = `text_encoder${suffix}`;
      const { config, weights, className: encoder } = await readModelFolder(at(name), { variant });
      const build = encoder === "CLIPTextModelWithProjection" ? clipTextWithProjection : clipText;
      return {
        part: { name, network: build(config), weights },
        tokenizer: await openTokenizer(at(`tokenizer${suffix}`)),
      };
    }),
  );
  const { in_channels: inputs, out_channels: channels, addition_embed_type: addition } = unet.config;
  if (inputs !== channels && inputs !== 2 * channels + 1) {
    throw new UserError(`The U-Net of ${path} takes ${inputs} channels and gives ${channels}.`, {
      hint: `Of a text-to-image model it takes ${channels}, of an inpainting model ${2 * channels + 1}.`,
      field: "model",
    });
  }
  if (vae.channels !== channels) {
    throw new UserError(`The autoencoder has ${vae.channels} latent channels, the U-Net ${channels}.`, {
      field: "vae",
    });
  }
  const safety = components.get("safety_checker");
  return {
    path,
    className,
    unet: { name: "unet", network: unet, weights: unetFolder.weights },
    vae: vae.part,
    textEncoders,
    controlNet: control,
    scheduler: scheduler ?? (await readSchedulerConfig(at("scheduler"))),
    factor: vae.factor,
    channels,
    inpainting: inputs !== channels,
    sizeConditions: addition === "text_time",
    aestheticScore: options.requires_aesthetics_score === true,
    guidanceEmbedding: unet.config.time_cond_proj_dim !== null,
    zerosForEmptyPrompt: options.force_zeros_for_empty_prompt === true,
    warnings: safety && existsSync(safety.path) ? [`The safety checker of ${path} is not run.`] : [],
  };
}

function checkComponents(path: string, className: string, components: ReadonlyMap<string, PipelineComponent>): void {
  const problem = (text: string, hint: string) =>
    new UserError(`${path} is a ${className}${text}.`, { hint, field: "model" });
  const others = [...components.keys()].filter((name) => !KNOWN.includes(name));
  const unet = components.get("unet");
  if (others.length > 0 || unet?.className !== "UNet2DConditionModel") {
    const parts = [...components].map(([name, component]) => `${name} (${component.className})`);
    throw problem(
      ` of ${parts.join(", ")}`,
      "Here Stable Diffusion is needed: a UNet2DConditionModel, a VAE and CLIP text encoders.",
    );
  }
  const encoders = ["text_encoder", "text_encoder_2"].filter((name) => components.has(name));
  for (const name of encoders) {
    const { className: encoder } = components.get(name)!;
    if (encoder.startsWith("CLIPText")) continue;
    throw problem(` with a ${encoder}`, "Its text encoders must be CLIPTextModel or CLIPTextModelWithProjection.");
  }
  if (encoders.length === 0) throw problem(" without a text encoder", "It needs text_encoder or text_encoder_2.");
  for (const name of ["vae", "scheduler", ...encoders.map((encoder) => encoder.replace("text_encoder", "tokenizer"))]) {
    if (!components.has(name)) throw problem(` without a ${name}`, `List it in ${join(path, "model_index.json")}.`);
  }
}

async function readVae(path: string, options: { readonly variant?: string }) {
  const { className, config, weights } = await readModelFolder(path, options);
  if (className === "AutoencoderTiny") {
    const network = autoencoderTiny(config);
    // Every level but the last doubles the size.
    const factor = network.config.upsampling_scaling_factor ** (network.config.decoder_block_out_channels.length - 1);
    return { part: { name: "vae", network, weights }, factor, channels: network.config.latent_channels };
  }
  if (className !== "AutoencoderKL") {
    throw new UserError(`${path} holds a ${className ?? "network of unknown class"}.`, {
      hint: "An AutoencoderKL or an AutoencoderTiny is needed.",
      field: "vae",
    });
  }
  const network = autoencoderKL(config);
  const factor = 2 ** (network.config.block_out_channels.length - 1);
  return { part: { name: "vae", network, weights }, factor, channels: network.config.latent_channels };
}

async function readControlNet(
  path: string,
  unet: UNet2DCondition,
  factor: number,
  options: { readonly variant?: string },
): Promise<Part<ControlNet>> {
  const { className, config, weights } = await readModelFolder(path, options);
  const problem = (text: string, hint: string) => new UserError(`${path} ${text}.`, { hint, field: "controlNet" });
  if (className !== "ControlNetModel") {
    throw problem(`holds a ${className ?? "network of unknown class"}`, "A ControlNetModel is needed.");
  }
  const network = controlNet(config);
  const { cross_attention_dim: text, block_out_channels: channels, addition_embed_type: addition } = network.config;
  const fits =
    String(text) === String(unet.config.cross_attention_dim) &&
    String(channels) === String(unet.config.block_out_channels) &&
    addition === unet.config.addition_embed_type &&
    2 ** (network.config.conditioning_embedding_out_channels.length - 1) === factor;
  if (!fits) {
    throw problem(
      `(text of ${text}, channels ${channels}) was made for another model than this (${unet.config.cross_attention_dim}, ${unet.config.block_out_channels})`,
      "Stable Diffusion 1.x, 2.x and XL each need their own.",
    );
  }
  return { name: "controlnet", network, weights };
}
