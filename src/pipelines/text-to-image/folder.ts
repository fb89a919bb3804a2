import type { SchedulerConfig } from "../../diffusion/index.ts";
import type { HubOptions, JsonObject, TextTokenizer } from "../../io/index.ts";
import type { AutoencoderKL, AutoencoderTiny, ClipText, ControlNet, UNet2DCondition } from "../../models/index.ts";
import type { Part, PartWeights } from "../part-sessions.ts";

/** A text encoder with the tokenizer that belongs to it. */
export interface TextEncoder {
  readonly part: Part<ClipText>;
  readonly tokenizer: TextTokenizer;
}

/** A part of a model as it lies on disk. */
export interface StoredPart {
  readonly className: string | undefined;
  readonly config: JsonObject;
  readonly weights: PartWeights;
}

/** What a model's files hold, before its networks are built. */
export interface StoredModel {
  readonly path: string;
  readonly className: string;
  readonly unet: StoredPart;
  readonly vae: StoredPart | undefined;
  /** By name, `text_encoder` or `text_encoder_2`. */
  readonly textEncoders: readonly {
    readonly name: string;
    readonly part: StoredPart;
    readonly tokenizer: TextTokenizer;
  }[];
  readonly controlNet: StoredPart | undefined;
  readonly scheduler: SchedulerConfig;
  readonly aestheticScore: boolean;
  readonly zerosForEmptyPrompt: boolean;
  readonly warnings: readonly string[];
}

/** A Stable Diffusion model on disk, its weights not read yet. */
export interface TextToImageModel {
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

export interface OpenModelOptions {
  /** How models of the hub are found: revision, cache, token, progress of downloads. */
  readonly hub?: Omit<HubOptions, "variant">;
  /** Takes `NAME.VARIANT.safetensors`, for example "fp16". */
  readonly variant?: string;
  /** A folder of another AutoencoderKL, or of an AutoencoderTiny. */
  readonly vae?: string;
  /** The folder of a ControlNetModel. */
  readonly controlNet?: string;
  /** A tokenizer's folder, for single-file checkpoints, which have none. */
  readonly tokenizer?: string;
  /** A scheduler's configuration in the place of the folder's. */
  readonly scheduler?: SchedulerConfig;
}
