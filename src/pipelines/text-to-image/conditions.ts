import { UserError } from "../../core/errors.ts";
import { float32 } from "../../core/host-tensor.ts";
import type { Samples } from "../../diffusion/index.ts";
import type { TextToImageModel } from "./folder.ts";
import type { PictureWords, TextToImageRequest } from "./request.ts";
import { type EncodedText, stacked, type TextEncoders, type TextOptions } from "./text.ts";
import type { PromptReading } from "./token-chunks.ts";

/** What the U-Net sees beside latents and timestep, for a batch of n pictures. */
export interface Conditions {
  /** [n, tokens, width]. */
  readonly text: Samples;
  /** [n, width], where the U-Net is told sizes. */
  readonly textEmbeds?: Samples;
  /** [n, 6] (of SDXL's refiner 5), where the U-Net is told sizes. */
  readonly timeIds?: Samples;
  /** [n, width] of the guidance scale, where the U-Net is told it. */
  readonly timestepCondition?: Samples;
}

/** Those of the prompts and, where there is guidance, of what it leads away from. */
export interface GuidedConditions {
  readonly positive: Conditions;
  readonly negative: Conditions | undefined;
}

export interface ConditionOptions extends Pick<TextOptions, "clipSkip" | "signal" | "change"> {
  readonly guidance: number;
  /** [height, width] that is drawn, in pixels. */
  readonly size: readonly [number, number];
}

/** Encodes the words of a batch of pictures, and everything else that the U-Net is told. */
export async function conditionsOf(
  pictures: readonly PictureWords[],
  folder: TextToImageModel,
  encoders: TextEncoders,
  request: TextToImageRequest,
  { guidance, size, ...options }: ConditionOptions,
): Promise<GuidedConditions> {
  const n = pictures.length;
  const reading = { weights: request.weights, chunks: request.chunks };
  const parts = Math.max(...pictures.map((picture) => partsOf(picture, encoders, reading)));
  const told = { ...options, ...reading, parts };
  const positives: EncodedText[] = [];
  for (const { prompt, prompt2 } of pictures) positives.push(await encoders.encode([prompt, prompt2], told));
  const sizes = folder.sizeConditions ? timeIdsOf(folder, request, size) : undefined;
  const positive: Conditions = {
    ...textOf(folder, positives),
    ...(sizes ? { timeIds: repeatedRow(sizes.positive, n) } : {}),
    ...(folder.guidanceEmbedding
      ? {
          timestepCondition: repeatedRow(
            guidanceEmbedding(guidance - 1, folder.unet.network.config.time_cond_proj_dim!),
            n,
          ),
        }
      : {}),
  };
  if (guidance <= 1 || folder.guidanceEmbedding) return { positive, negative: undefined };
  const negatives: EncodedText[] = [];
  for (const [i, { negative, negative2 }] of pictures.entries()) {
    if (negative === undefined && negative2 === undefined && folder.zerosForEmptyPrompt) {
      negatives.push(zerosLike(positives[i]!));
      continue;
    }
    // Skipped layers are a matter of the prompt alone, as diffusers has it.
    negatives.push(await encoders.encode([negative ?? "", negative2 ?? negative ?? ""], { ...told, clipSkip: 0 }));
  }
  const negative: Conditions = {
    ...textOf(folder, negatives),
    ...(sizes ? { timeIds: repeatedRow(sizes.negative, n) } : {}),
  };
  return { positive, negative };
}

/** In how many parts the words of a picture are encoded. */
export function partsOf(
  { prompt, prompt2, negative = "", negative2 = negative }: PictureWords,
  encoders: TextEncoders,
  reading: PromptReading,
): number {
  return Math.max(encoders.parts([prompt, prompt2], reading), encoders.parts([negative, negative2], reading));
}

function textOf(folder: TextToImageModel, encoded: readonly EncodedText[]): Conditions {
  const text = stacked(encoded.map(({ states }) => states));
  return folder.sizeConditions ? { text, textEmbeds: stacked(encoded.map(({ pooled }) => pooled)) } : { text };
}

function zerosLike({ states, pooled }: EncodedText): EncodedText {
  const zeros = ({ shape, data }: Samples) => float32(shape, new Float32Array(data.length));
  return { states: zeros(states), pooled: zeros(pooled) };
}

function repeatedRow(row: readonly number[] | Float32Array, n: number): Samples {
  const data = new Float32Array(n * row.length);
  for (let i = 0; i < n; i++) data.set(row, i * row.length);
  return float32([n, row.length], data);
}

/** Scores that SDXL's refiner was trained with: of pictures that please, and of those to be drawn away from. */
const AESTHETIC = { positive: 6, negative: 2.5 };

/** SDXL's size and crop conditions (Podell et al. 2023, section 2.2): heights first. */
function timeIdsOf(
  { path, aestheticScore, unet }: TextToImageModel,
  request: TextToImageRequest,
  size: readonly [number, number],
): { readonly positive: number[]; readonly negative: number[] } {
  const { originalSize = size, cropTopLeft = [0, 0], targetSize = size } = request;
  const { negativeOriginalSize, negativeCropTopLeft = [0, 0], negativeTargetSize } = request;
  const own = [...originalSize, ...cropTopLeft];
  const result = aestheticScore
    ? {
        positive: [...own, AESTHETIC.positive],
        negative: [...(negativeOriginalSize ?? originalSize), ...negativeCropTopLeft],
      }
    : {
        positive: [...own, ...targetSize],
        negative:
          negativeOriginalSize && negativeTargetSize
            ? [...negativeOriginalSize, ...negativeCropTopLeft, ...negativeTargetSize]
            : [...own, ...targetSize],
      };
  if (aestheticScore) result.negative.push(AESTHETIC.negative);
  const { addition_time_embed_dim: each, projection_class_embeddings_input_dim: all } = unet.network.config;
  const pooled = all! - result.positive.length * each!;
  if (pooled > 0) return result;
  throw new UserError(`The U-Net of ${path} has no room for ${result.positive.length} size conditions.`, {
    hint: "Is requires_aesthetics_score in model_index.json right?",
    field: "model",
  });
}

/**
 * The embedding of a guidance scale that latent consistency models are told (Luo et al. 2023, section 4.2): sines and
 * cosines of 1000 w, in float32 as diffusers computes it.
 */
export function guidanceEmbedding(w: number, width: number): Float32Array {
  const f = Math.fround;
  const half = Math.floor(width / 2);
  const step = f(f(Math.log(10000)) / (half - 1));
  const scaled = f(f(w) * 1000);
  const row = new Float32Array(width);
  for (let i = 0; i < half; i++) {
    const angle = f(scaled * f(Math.exp(f(-step * i))));
    row[i] = Math.sin(angle);
    row[half + i] = Math.cos(angle);
  }
  return row;
}
