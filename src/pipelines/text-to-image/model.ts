import type { SchedulerConfig } from "../../diffusion/index.ts";
import type { HubOptions, JsonObject, TextTokenizer } from "../../io/index.ts";
import type { AutoencoderKL, AutoencoderTiny, ControlNet, TextEmbedding } from "../../models/index.ts";
import type { Part, PartWeights } from "../part-sessions.ts";
import type { Family, FamilyKind } from "./family.ts";
import type { EmbeddingChoice } from "./new-words.ts";
import type { TextEncoder } from "./text-encoder.ts";

/** A part of a model as it lies on disk. */
export interface StoredPart {
  readonly className: string | undefined;
  readonly config: JsonObject;
  readonly weights: PartWeights;
}

/** A text encoder as it lies on disk, with the tokenizer that belongs to it. */
export interface StoredTextEncoder {
  /** `text_encoder`, `text_encoder_2` … */
  readonly name: string;
  readonly part: StoredPart;
  readonly tokenizer: TextTokenizer;
  /** Words beside those of its vocabulary. */
  readonly embeddings?: readonly TextEmbedding[];
}

/** What a model's files hold, before its networks are built. */
export interface StoredModel {
  readonly path: string;
  /** The class of model_index.json. */
  readonly className: string;
  readonly kind: FamilyKind;
  /** The denoising network. */
  readonly denoiser: StoredPart;
  readonly vae: StoredPart | undefined;
  readonly previewVae: StoredPart | undefined;
  readonly textEncoders: readonly StoredTextEncoder[];
  readonly controlNet: StoredPart | undefined;
  readonly scheduler: SchedulerConfig;
  readonly aestheticScore: boolean;
  readonly zerosForEmptyPrompt: boolean;
  readonly warnings: readonly string[];
}

/** An autoencoder on disk. */
export interface OpenedVae {
  readonly part: Part<AutoencoderKL | AutoencoderTiny>;
  /** Pixels per latent pixel, along each side. */
  readonly factor: number;
  /** Channels of the latents. */
  readonly channels: number;
}

/** A text-to-image model on disk, its weights not read yet. */
export interface TextToImageModel {
  readonly path: string;
  /** The class of model_index.json. */
  readonly className: string;
  /** The network that denoises: `unet` or `transformer`. */
  readonly denoiser: Part;
  readonly vae: Part<AutoencoderKL | AutoencoderTiny>;
  /** What previews are decoded with, and how many pixels a latent pixel becomes. */
  readonly previewVae: OpenedVae | undefined;
  readonly textEncoders: readonly TextEncoder[];
  readonly controlNet?: Part<ControlNet>;
  readonly scheduler: SchedulerConfig;
  /** Pixels per latent pixel, along each side. */
  readonly factor: number;
  /** What is particular to its kind of network. */
  readonly family: Family;
  /** The model that goes on with its latents, where one was given. */
  readonly refiner?: TextToImageModel;
  /** What was left out. */
  readonly warnings: readonly string[];
}

export interface OpenModelOptions {
  /** How models of the hub are found: revision (of this model), cache, token, progress of downloads. */
  readonly hub?: Omit<HubOptions, "variant">;
  /**
   * Takes `NAME.VARIANT.safetensors`, for example "fp16"; of parts that lack it the weights without a variant, which a warning
   * says. Refused when no part of the model has it.
   */
  readonly variant?: string;
  /** Another AutoencoderKL, or an AutoencoderTiny: a folder, a safetensors file, or `org/name` of the hub. */
  readonly vae?: string;
  /** The same to decode previews with, best an AutoencoderTiny; without it they are a linear guess. */
  readonly previewVae?: string;
  /** A ControlNetModel: a folder, or `org/name` of the hub. */
  readonly controlNet?: string;
  /** A model, as the first one is given, that goes on with the latents, as SDXL's refiner. */
  readonly refiner?: string;
  /**
   * Textual-inversion embeddings: words that prompts may then have. Safetensors files or folders, or `org/name` of the hub, each
   * a path, `word=path` or both; without a word it is what the file says, or else its name.
   */
  readonly embeddings?: readonly EmbeddingChoice[];
  /** A tokenizer's folder, for single-file checkpoints, which have none. */
  readonly tokenizer?: string;
  /**
   * What the U-Net of a single-file checkpoint predicts, where it is not what is taken: v for files of 2.x (those of its
   * 512-base models predict the noise, which is not told from the file). Folders say it in their scheduler.
   */
  readonly prediction?: "epsilon" | "v_prediction";
  /** A scheduler's configuration in the place of the folder's. */
  readonly scheduler?: SchedulerConfig;
}
