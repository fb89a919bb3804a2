import { stat } from "node:fs/promises";
import { UserError } from "../../core/errors.ts";
import { isPipelineFolder, modelFolder } from "../../io/index.ts";
import {
  autoencoderKL,
  autoencoderTiny,
  type ControlNet,
  clipText,
  clipTextWithProjection,
  controlNet,
  type UNet2DCondition,
  unet2dCondition,
} from "../../models/index.ts";
import type { Part } from "../part-sessions.ts";
import type { OpenModelOptions, StoredModel, StoredPart, TextToImageModel } from "./folder.ts";
import { storedFile } from "./stored-file.ts";
import { storedFolder } from "./stored-folder.ts";

/**
 * Opens a folder in diffusers' layout, or a single-file checkpoint, of a text-conditional U-Net, an autoencoder and CLIP
 * text encoders.
 *
 * @param model a folder, a safetensors file, or `org/name` of the Hugging Face hub
 * @throws UserError that says what is there when it is something else, and what is missing
 */
export async function openTextToImage(model: string, options: OpenModelOptions = {}): Promise<TextToImageModel> {
  const path = await modelFolder(model, { ...options.hub, variant: options.variant });
  if ((await stat(path)).isFile()) return assembled(await storedFile(path, options));
  if (!isPipelineFolder(path)) {
    throw new UserError(`${path} is no pipeline in diffusers' layout (it has no model_index.json).`, {
      hint: "A folder with model_index.json, unet/, vae/, text_encoder/, tokenizer/ and scheduler/ is needed.",
      field: "model",
    });
  }
  return assembled(await storedFolder(path, options));
}

/** Builds the networks. Throws a UserError for parts that do not fit together. */
function assembled(stored: StoredModel): TextToImageModel {
  const { path, className, textEncoders, scheduler, aestheticScore, zerosForEmptyPrompt, warnings } = stored;
  const unet = unet2dCondition(stored.unet.config);
  const { in_channels: inputs, out_channels: channels, addition_embed_type: addition } = unet.config;
  if (inputs !== channels && inputs !== 2 * channels + 1) {
    throw new UserError(`The U-Net of ${path} takes ${inputs} channels and gives ${channels}.`, {
      hint: `Of a text-to-image model it takes ${channels}, of an inpainting model ${2 * channels + 1}.`,
      field: "model",
    });
  }
  if (!stored.vae) throw new UserError(`${path} has no autoencoder.`, { hint: "Give one as `vae`.", field: "vae" });
  const vae = vaeOf(stored.vae);
  if (vae.channels !== channels) {
    throw new UserError(`The autoencoder has ${vae.channels} latent channels, the U-Net ${channels}.`, {
      field: "vae",
    });
  }
  return {
    path,
    className,
    unet: { name: "unet", network: unet, weights: stored.unet.weights },
    vae: vae.part,
    textEncoders: textEncoders.map(({ name, part, tokenizer }) => {
      const build = part.className === "CLIPTextModelWithProjection" ? clipTextWithProjection : clipText;
      return { part: { name, network: build(part.config), weights: part.weights }, tokenizer };
    }),
    controlNet: stored.controlNet && controlNetOf(stored.controlNet, unet, vae.factor),
    scheduler,
    factor: vae.factor,
    channels,
    inpainting: inputs !== channels,
    sizeConditions: addition === "text_time",
    aestheticScore,
    guidanceEmbedding: unet.config.time_cond_proj_dim !== null,
    zerosForEmptyPrompt,
    warnings,
  };
}

/** Builds an autoencoder, and says how many pixels a latent pixel is and how many channels it has. */
export function vaeOf({ className, config, weights }: StoredPart) {
  if (className === "AutoencoderTiny") {
    const network = autoencoderTiny(config);
    // Every level but the last doubles the size.
    const factor = network.config.upsampling_scaling_factor ** (network.config.decoder_block_out_channels.length - 1);
    return { part: { name: "vae", network, weights }, factor, channels: network.config.latent_channels };
  }
  if (className !== "AutoencoderKL") {
    throw new UserError(`${weights.source} holds a ${className ?? "network of unknown class"}.`, {
      hint: "An AutoencoderKL or an AutoencoderTiny is needed.",
      field: "vae",
    });
  }
  const network = autoencoderKL(config);
  const factor = 2 ** (network.config.block_out_channels.length - 1);
  return { part: { name: "vae", network, weights }, factor, channels: network.config.latent_channels };
}

function controlNetOf(
  { className, config, weights }: StoredPart,
  unet: UNet2DCondition,
  factor: number,
): Part<ControlNet> {
  const path = weights.source;
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
