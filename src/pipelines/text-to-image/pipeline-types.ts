import type { Random } from "../../core/random.ts";
import type { Samples } from "../../diffusion/index.ts";
import type { HostImage } from "../../io/index.ts";
import type { Device } from "../../runtime/index.ts";
import type { ComputeOptions } from "../part-sessions.ts";
import type { AttentionOptions, TokenAttention } from "./attention-maps.ts";
import type { GuidedConditions } from "./conditions.ts";
import type { MemoryEstimate } from "./memory.ts";
import type { OpenModelOptions, TextToImageModel } from "./model.ts";
import type { PromptTable } from "./prompt-tokens.ts";
import type { PictureWords, TextToImageRequest, TextToImageRequestInput } from "./request.ts";
import type { DroppedText, TextEncoders } from "./text.ts";

export interface TextToImageOptions extends ComputeOptions, OpenModelOptions {
  /**
   * Rounds the weights of the linear layers of the denoising network, and of T5, to so many bits when they are loaded: less
   * memory for a small error. On the CPU only.
   */
  readonly quantize?: 4 | 8;
  /**
   * LoRAs, files or folders, whose scales requests change without a network being loaded again: they are computed beside the
   * weights at every step. A request that does not name one draws without it.
   */
  readonly switchableLoras?: readonly string[];
  /** Frees each network before the next one is loaded, at the price of loading it again for the next batch. */
  readonly lowMemory?: boolean;
  /** Bytes of memory that a run may take; one that takes more is refused. Default: what the machine has. */
  readonly memoryLimit?: number;
  /** What every request must have, where the task says so. */
  readonly needs?: readonly ("image" | "mask")[];
}

/** A drawn picture, and what it was drawn from. */
export interface TextToImagePicture extends HostImage, PictureWords {
  /** [3, height, width] from 0 to 1, before rounding. */
  readonly float: Samples;
}

/** Where a run stands, after each step of each batch. */
export interface TextToImageState {
  /** Steps done and to do, of all batches together. */
  readonly done: number;
  readonly total: number;
  /** Steps done and to do in this batch. */
  readonly step: number;
  readonly steps: number;
  /** Calls of the denoising network in this batch. */
  readonly calls: number;
  /** The pictures of this batch: index of the first among all, and their seeds. */
  readonly first: number;
  readonly seeds: readonly number[];
  readonly timestep: number;
  /** [pictures, channels, h, w]: the latents the batch began with, those after the step, and the estimate of the end. */
  readonly start: Samples;
  readonly x: Samples;
  readonly x0: Samples;
  /**
   * The estimate as small pictures, a pixel per latent pixel: by a linear guess, which costs nothing; or decoded by the option
   * `previewVae`, as large as that draws.
   */
  preview(): Promise<HostImage[]>;
  /** The finished pictures, after the last step of the batch. */
  readonly images?: readonly TextToImagePicture[];
  /** Of each finished picture where the tokens of its prompt were looked at, if that was asked for. */
  readonly attention?: readonly (readonly TokenAttention[])[];
  /** [pictures, 3, height, width] as the autoencoder gives them, −1 to 1 and a little beyond. */
  readonly decoded?: Samples;
}

export interface TextToImageRunOptions {
  readonly signal?: AbortSignal;
  /**
   * Draws all numbers, in the place of a source for each seed: one for all pictures together, as a single generator in
   * diffusers, or one for each. All pictures must then fit into one batch.
   */
  readonly random?: Random | readonly Random[];
  /** Keeps where the network looked at the tokens of the prompts; the pictures are the same, the networks take more memory. */
  readonly attention?: AttentionOptions;
  /** Leaves out the pictures: the last latents of a batch are what is wanted, for another model to go on with. */
  readonly latentsOnly?: boolean;
}

/** A text-to-image model, ready to draw. */
export interface TextToImagePipeline {
  readonly model: TextToImageModel;
  /** The text encoders: token ids, embeddings, and what is cut off a prompt. */
  readonly text: TextEncoders;
  /** What the denoising network runs on, known once it drew something. */
  device(): Device | undefined;
  /** The request with every default filled in. @throws UserError for a request that cannot be met */
  resolve(request: TextToImageRequestInput): ResolvedRequest;
  /** What the denoising network is told beside latents and timestep, for all pictures of a request. */
  conditions(
    request: TextToImageRequestInput,
    options?: Pick<TextToImageRunOptions, "signal">,
  ): Promise<GuidedConditions>;
  /** An estimate from below of the memory that a request takes. */
  memory(request: TextToImageRequestInput): Promise<MemoryEstimate>;
  /** What each text encoder sees of the request's prompts, and what falls off their end. */
  tokens(request: TextToImageRequestInput): PromptTable[];
  /** What the text encoders do not see of the request's prompts. */
  dropped(request: TextToImageRequestInput): DroppedText[];
  /**
   * Draws pictures step by step. Leaving the loop stops between steps; an aborted signal throws its reason.
   * @throws UserError for a request that cannot be met
   */
  stream(
    request: TextToImageRequestInput,
    options?: TextToImageRunOptions,
  ): AsyncGenerator<TextToImageState, void, void>;
  /** Draws all pictures of a request. */
  generate(request: TextToImageRequestInput, options?: TextToImageRunOptions): Promise<TextToImagePicture[]>;
  /** Frees all networks. */
  close(): Promise<void>;
}

/** A request with the model's own defaults. */
export type ResolvedRequest = TextToImageRequest & { readonly steps: number; readonly guidance: number };
