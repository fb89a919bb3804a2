import { float32 } from "../../core/host-tensor.ts";
import type { Samples } from "../../diffusion/index.ts";
import { contrastOf, type Size, type ToldRows } from "./family.ts";
import type { TextToImageModel } from "./model.ts";
import type { ResolvedRequest } from "./pipeline-types.ts";
import type { PictureWords } from "./request.ts";
import { type EncodedText, stacked, type TextEncoders, type TextForEach, type TextOptions } from "./text.ts";
import type { PromptReading } from "./token-chunks.ts";

/** What the denoising network sees beside latents and timestep, for a batch of n pictures: which of it, is its family's. */
export interface Conditions {
  /** [n, tokens, width]. */
  readonly text: Samples;
  /** Which of its tokens count: [n, tokens] of 1 and 0, for PixArt. */
  readonly textMask?: Samples;
  /** The pooled text [n, width]. */
  readonly textEmbeds?: Samples;
  /** Sizes and crops, and perhaps an aesthetic score, of SDXL: [n, 6], of its refiner [n, 5]. */
  readonly timeIds?: Samples;
  /** The embedding of the guidance scale of latent consistency models: [n, width]. */
  readonly timestepCondition?: Samples;
  /** Guidance as FLUX.1 is told it: [n, 1]. */
  readonly guidance?: Samples;
  /** Height and width, and height over width, of PixArt-α: [n, 2] and [n, 1]. */
  readonly resolution?: Samples;
  readonly aspectRatio?: Samples;
}

/** Those of the prompts and, where there is guidance, of what it leads away from. */
export interface GuidedConditions {
  readonly positive: Conditions;
  readonly negative: Conditions | undefined;
}

export interface ConditionOptions extends Pick<TextOptions, "signal" | "change"> {
  /** That is drawn, in pixels. */
  readonly size: Size;
}

/** Encodes the words of a batch of pictures, and everything else that the network is told. */
export async function conditionsOf(
  pictures: readonly PictureWords[],
  { family }: TextToImageModel,
  encoders: TextEncoders,
  request: ResolvedRequest,
  { size, ...options }: ConditionOptions,
): Promise<GuidedConditions> {
  const n = pictures.length;
  const { weights, chunks, textLength, clipSkip } = request;
  const reading = { weights, chunks, textLength };
  const parts = Math.max(...pictures.map((picture) => partsOf(picture, encoders, reading)));
  const how = { ...options, ...reading, parts };
  const told = (negative: boolean) => repeatedRows(family.told(request, { size, negative }), n);
  const positives: EncodedText[] = [];
  for (const picture of pictures) positives.push(await encoders.encode(words(picture), { ...how, clipSkip }));
  const positive: Conditions = { ...textOf(positives), ...told(false) };
  if (contrastOf(family, request) <= 1) return { positive, negative: undefined };
  const negatives: EncodedText[] = [];
  for (const [i, picture] of pictures.entries()) {
    if (picture.negative === undefined && picture.negative2 === undefined && family.zerosForEmptyPrompt) {
      negatives.push(zerosLike(positives[i]!));
    } else {
      // Skipped layers are a matter of the prompt alone, as diffusers has it.
      negatives.push(await encoders.encode(negativeWords(picture), how));
    }
  }
  return { positive, negative: { ...textOf(negatives), ...told(true) } };
}

/** The prompt of each encoder. */
export function words({ prompt, prompt2, prompt3 }: PictureWords): TextForEach {
  return [prompt, prompt2, prompt3];
}

/** The same of what is drawn away from. */
export function negativeWords(picture: PictureWords): TextForEach {
  const { negative = "", negative2 = negative, negative3 = negative } = picture;
  return [negative, negative2, negative3];
}

/** In how many parts the words of a picture are encoded. */
export function partsOf(picture: PictureWords, encoders: TextEncoders, reading: PromptReading): number {
  return Math.max(encoders.parts(words(picture), reading), encoders.parts(negativeWords(picture), reading));
}

function textOf(encoded: readonly EncodedText[]): Conditions {
  const pooled = encoded.flatMap((one) => one.pooled ?? []);
  const masks = encoded.flatMap((one) => one.mask ?? []);
  return {
    text: stacked(encoded.map(({ states }) => states)),
    ...(masks.length > 0 ? { textMask: stacked(masks) } : {}),
    ...(pooled.length > 0 ? { textEmbeds: stacked(pooled) } : {}),
  };
}

function zerosLike({ states, pooled }: EncodedText): EncodedText {
  const zeros = ({ shape, data }: Samples) => float32(shape, new Float32Array(data.length));
  return { states: zeros(states), pooled: pooled && zeros(pooled) };
}

/** Each row [width] as [n, width]. */
function repeatedRows(rows: ToldRows, n: number): Record<string, Samples> {
  return Object.fromEntries(
    Object.entries(rows).map(([name, row]) => {
      const data = new Float32Array(n * row.length);
      for (let i = 0; i < n; i++) data.set(row, i * row.length);
      return [name, float32([n, row.length], data)];
    }),
  );
}
