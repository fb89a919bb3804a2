import type { ConfiguredSampler, PlanRequest, SchedulerConfig } from "../../diffusion/index.ts";
import type { Tensor } from "../../graph/index.ts";
import type { ControlNet, UNet2DConditionInputs } from "../../models/index.ts";
import { chooseSampler } from "../choose-sampler.ts";
import type { Part } from "../part-sessions.ts";
import type { StoredModel } from "./model.ts";
import type { ResolvedRequest } from "./pipeline-types.ts";
import type { Colours } from "./preview.ts";
import type { FieldOfSome, TextToImageRequest } from "./request.ts";
import type { EncodedText } from "./text.ts";
import type { TextEncoder } from "./text-encoder.ts";

/** Height and width. */
export type Size = readonly [height: number, width: number];

/** What a request that does not say is drawn with. */
export interface Defaults {
  readonly steps: number;
  readonly guidance: number;
  /** How much of an image is drawn anew. */
  readonly strength: number;
}

/** Numbers that a network is told beside the text: for each of its inputs a row, the same for all pictures. */
export type ToldRows = Readonly<Record<string, readonly number[] | Float32Array>>;

/** What is asked of a prediction beside its result. */
export type PredictionHooks = Pick<UNet2DConditionInputs, "onCrossAttention" | "onWayUp">;

/** What a U-Net can be asked of, that other networks have not. */
export interface UNetSeams {
  /** How many states of the way down are joined to the way up. */
  readonly skips: number;
  /** How often the sides of latents are halved on the way down. */
  readonly halvings: number;
  /** How often they are halved in the layers that attend to the text, the finest first; the middle alone does not count. */
  readonly attentionLevels: readonly number[];
}

/** How a request is sampled at a size. */
export interface Sampling {
  readonly sampler: ConfiguredSampler;
  /** What its plan is given beside the number of steps. */
  readonly levels: Pick<PlanRequest, "sigmas" | "mu">;
}

/**
 * What sets one kind of text-to-image network apart from the others. All else of a run (requests, seeds, batches, steps,
 * pictures to start from, results) is the same for all.
 */
export interface Family {
  /** Channels of the latents. */
  readonly channels: number;
  /** Latent pixels along a side of the squares that the network works on: sides of pictures are multiples of them. */
  readonly patch: number;
  /** The size of training, in latent pixels, where the configuration says it. */
  readonly trained: Size | undefined;
  /** The longest side that the network has positions for, in latent pixels. */
  readonly longest?: number;
  defaults(request: Pick<TextToImageRequest, "image" | "mask">): Defaults;
  /**
   * What the number `guidance` of a request is: the weight with which classifier-free guidance leads away from the negative
   * prompt, or a number that the network is told, or nothing at all.
   */
  readonly guidance: "contrast" | "told" | "none";
  /** The fields that this family has a use for, of those that not all have. */
  readonly fields: readonly FieldOfSome[];
  /** The network sees the mask and the rest of the picture beside the latents. */
  readonly inpainting?: boolean;
  /** Without a negative prompt the unconditional text is zeros, not the encoding of "". */
  readonly zerosForEmptyPrompt?: boolean;
  /** How many steps a strength leaves that is no whole number of steps: diffusers rounds by family. */
  readonly strengthRounds: "down" | "up";
  /** Latent consistency: an LCMScheduler takes all its steps over what a strength leaves, others leave out the first ones. */
  readonly consistency?: boolean;
  /** What the network sees of a text, from what each of the encoders gave. */
  encoded(each: readonly EncodedText[]): EncodedText;
  /** @param size that is drawn, in pixels; @param negative whether for what is drawn away from */
  told(request: ResolvedRequest, about: { readonly size: Size; readonly negative: boolean }): ToldRows;
  /** The network's prediction [n, channels, h, w] of `latents`, `timestep` [n] and the conditions under their names. */
  predict(inputs: Readonly<Record<string, Tensor>>, hooks?: PredictionHooks): Tensor;
  /** Of a U-Net. */
  readonly unet?: UNetSeams;
  /** The sampler of a request for latents of a size; where it is left out, that of the scheduler as it is. */
  sampling?(request: ResolvedRequest, scheduler: SchedulerConfig, latents: Size): Sampling;
  /** How many numbers the network holds at least at a time, for latents of n pictures. */
  states(n: number, latents: Size): number;
  /** How latents look, for previews. */
  readonly colours: Colours | undefined;
}

/** A kind of models, as their folders are laid out. */
export interface FamilyKind {
  /** What model_index.json calls the network that denoises. */
  readonly denoiser: "unet" | "transformer";
  /** The text encoders that it has, of which each has a tokenizer, and the classes they may be of. */
  readonly textEncoders: readonly {
    readonly name: string;
    readonly classes: readonly string[];
    readonly optional?: boolean;
  }[];
  /** Builds the networks. Throws a UserError for parts that do not fit together. */
  build(stored: StoredModel, about: { readonly factor: number }): FamilyParts;
}

/** What a family makes of a model's files. */
export interface FamilyParts {
  readonly denoiser: Part;
  readonly textEncoders: readonly TextEncoder[];
  /** Undefined where none was given. */
  readonly controlNet?: Part<ControlNet>;
  readonly family: Family;
}

/** A `sample_size`, which may be given as one number. */
export function bothSides(size: number | readonly number[]): Size {
  return typeof size === "number" ? [size, size] : [size[0]!, size[1]!];
}

/** The weight of classifier-free guidance that a request asks for; 1 is none. */
export function contrastOf({ guidance: kind }: Family, { guidance, trueGuidance = 1 }: ResolvedRequest): number {
  return kind === "contrast" ? guidance : trueGuidance;
}

/** The sampler of a request for latents of a size. */
export function samplingOf(
  family: Family,
  request: ResolvedRequest,
  scheduler: SchedulerConfig,
  latents: Size,
): Sampling {
  return (
    family.sampling?.(request, scheduler, latents) ?? {
      sampler: chooseSampler(scheduler, request.sampler, request.spread),
      levels: {},
    }
  );
}
