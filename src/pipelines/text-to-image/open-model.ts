import { stat } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../../core/errors.ts";
import { notesOnConfig } from "../../diffusion/index.ts";
import { isPipelineFolder, modelFolder } from "../../io/index.ts";
import { autoencoderKL, autoencoderTiny, type TextEmbedding } from "../../models/index.ts";
import type { OpenedVae, OpenModelOptions, StoredModel, StoredPart, TextToImageModel } from "./model.ts";
import { openEmbeddings } from "./new-words.ts";
import { storedFile } from "./stored-file.ts";
import { storedFolder } from "./stored-folder.ts";
import { partHub } from "./stored-part.ts";

/**
 * Opens a folder in diffusers' layout, or a single-file checkpoint of Stable Diffusion: a denoising network, an autoencoder
 * and text encoders.
 *
 * @param model a folder, one of a run here, a safetensors file, or `org/name` of the Hugging Face hub
 * @throws UserError that says what is there when it is something else, and what is missing
 */
export async function openTextToImage(model: string, options: OpenModelOptions = {}): Promise<TextToImageModel> {
  const embeddings = await openEmbeddings(options.embeddings, partHub(options.hub));
  const path = await modelFolder(model, { ...options.hub, variant: options.variant });
  if ((await stat(path)).isFile()) return assembled(await storedFile(path, options), embeddings);
  if (options.prediction !== undefined) {
    throw new UserError(`\`prediction\` was given; ${path} is a folder, whose scheduler says it.`, {
      hint: "Leave it out, or give `scheduler` with another prediction_type.",
      field: "prediction",
    });
  }
  const run = join(path, "model");
  if (!isPipelineFolder(path) && isPipelineFolder(run)) return assembled(await storedFolder(run, options), embeddings);
  if (!isPipelineFolder(path)) {
    throw new UserError(`${path} is no pipeline in diffusers' layout (it has no model_index.json).`, {
      hint: "A folder with model_index.json, unet/ or transformer/, vae/, text_encoder/, tokenizer/ and scheduler/ is needed.",
      field: "model",
    });
  }
  return assembled(await storedFolder(path, options), embeddings);
}

/** Builds the networks. Throws a UserError for parts that do not fit together. */
function assembled(files: StoredModel, embeddings: readonly TextEmbedding[]): TextToImageModel {
  const stored = { ...files, textEncoders: files.textEncoders.map((encoder) => ({ ...encoder, embeddings })) };
  const { path, className, scheduler } = stored;
  const warnings = [...stored.warnings, ...notesOnConfig(scheduler)];
  if (!stored.vae) throw new UserError(`${path} has no autoencoder.`, { hint: "Give one as `vae`.", field: "vae" });
  const vae = vaeOf(stored.vae, "vae");
  const previewVae = stored.previewVae && vaeOf(stored.previewVae, "previewVae");
  const parts = stored.kind.build(stored, { factor: vae.factor });
  const { channels } = parts.family;
  for (const [field, opened] of [
    ["vae", vae],
    ["previewVae", previewVae],
  ] as const) {
    if (!opened || opened.channels === channels) continue;
    throw new UserError(`The autoencoder has ${opened.channels} latent channels, the denoising network ${channels}.`, {
      field,
    });
  }
  if (stored.controlNet && !parts.controlNet) {
    throw new UserError(`A control network was given; ${path}, a ${className}, has no use for one.`, {
      hint: "Control networks are drawn with for Stable Diffusion 1.x, 2.x and XL.",
      field: "controlNet",
    });
  }
  return { ...{ path, className, scheduler, warnings }, ...parts, vae: vae.part, previewVae, factor: vae.factor };
}

/** Builds an autoencoder, and says how many pixels a latent pixel is and how many channels it has. */
export function vaeOf({ className, config, weights }: StoredPart, field = "vae"): OpenedVae {
  if (className === "AutoencoderTiny") {
    const network = autoencoderTiny(config);
    // Every level but the last doubles the size.
    const factor = network.config.upsampling_scaling_factor ** (network.config.decoder_block_out_channels.length - 1);
    return { part: { name: "vae", network, weights }, factor, channels: network.config.latent_channels };
  }
  if (className !== "AutoencoderKL") {
    throw new UserError(`${weights.source} holds a ${className ?? "network of unknown class"}.`, {
      hint: "An AutoencoderKL or an AutoencoderTiny is needed.",
      field,
    });
  }
  const network = autoencoderKL(config);
  const factor = 2 ** (network.config.block_out_channels.length - 1);
  return { part: { name: "vae", network, weights }, factor, channels: network.config.latent_channels };
}
