import { z } from "zod";
import { UserError } from "../../core/errors.ts";
import { GRIDS, SAMPLERS, type SamplerName, type Samples } from "../../diffusion/index.ts";
import { guidanceFields } from "../guidance-fields.ts";
import { pictureInput } from "../picture-input.ts";
import { contrastOf } from "./family.ts";
import { checkHandover, isLatents, refines } from "./handover.ts";
import type { TextToImageModel } from "./model.ts";
import type { ResolvedRequest } from "./pipeline-types.ts";
import { SEAMLESS } from "./seamless.ts";

const SAMPLER_NAMES = Object.keys(SAMPLERS) as [SamplerName, ...SamplerName[]];
const whole = (minimum: number) => z.number().int().min(minimum);
const texts = () => z.union([z.string(), z.array(z.string()).min(1)]);
const pixels = () => whole(1).max(16384);
const heightAndWidth = () => z.tuple([whole(0), whole(0)]);

/** What is asked of a text-to-image model. Descriptions are what `--help` shows. */
export const textToImageRequest = z.strictObject({
  prompt: texts().describe("what to draw; a list draws each"),
  negativePrompt: texts().optional().describe("what to draw away from, one for all prompts or one each"),
  prompt2: texts().optional().describe("prompt for the second text encoder, where there are two (default: the prompt)"),
  negativePrompt2: texts().optional().describe("the same for the negative prompt"),
  prompt3: texts().optional().describe("prompt for the third text encoder of Stable Diffusion 3 (default: the prompt)"),
  negativePrompt3: texts().optional().describe("the same for the negative prompt"),
  width: pixels().optional().describe("in pixels (default: that of training, or of the image)"),
  height: pixels().optional().describe("in pixels (default: that of training, or of the image)"),
  count: whole(1).max(10_000).default(1).describe("pictures of each prompt"),
  seed: whole(0).default(0).describe("seed of the first picture; the others have the seeds that follow"),
  seeds: z.array(whole(0)).min(1).optional().describe("the seed of each picture, in the place of seed"),
  steps: whole(1)
    .optional()
    .describe(
      "steps from noise to picture (default: 50; 20 for PixArt, 28 for SD3 and FLUX.1, 4 for LCM and schnell, 1 for Turbo)",
    ),
  sampler: z.enum(SAMPLER_NAMES).optional().describe("how to draw (default: the model's own scheduler)"),
  spread: z.enum(GRIDS).optional().describe("how the steps of a named sampler are spread"),
  eta: z.number().min(0).max(1).optional().describe("share of fresh noise in a step of ddim; 0 is deterministic"),
  originalSteps: whole(1).optional().describe("steps that a latent consistency model was distilled with"),
  guidance: z
    .number()
    .min(0)
    .optional()
    .describe(
      "weight of the prompt; 1 is none (default: 7.5; 5 for SDXL, 4.5 for PixArt, 7 for SD3, 3.5 for FLUX.1 dev, 1 for Turbo)",
    ),
  trueGuidance: z
    .number()
    .gt(1)
    .optional()
    .describe("weight with which FLUX.1 is led away from a negative prompt, beside the guidance that it is told"),
  ...guidanceFields,
  guidanceInTurn: z
    .boolean()
    .default(false)
    .describe("ask with and without the prompt one after the other, not in one batch: less memory, slower"),
  weights: z.boolean().default(false).describe("read (word:1.3), (word) and [word] in prompts as weights"),
  textLength: whole(1)
    .max(512)
    .optional()
    .describe(
      "tokens of a prompt that T5 sees (default: 120 PixArt-α, 300 PixArt-Σ, 256 SD3, 512 FLUX.1 dev, 256 schnell)",
    ),
  chunks: z.boolean().default(false).describe("encode long prompts in parts, where otherwise their end is cut off"),
  clipSkip: whole(0).max(100).default(0).describe("last layers of the text encoder that are left out"),
  image: pictureInput().optional().describe("picture to start from"),
  mask: pictureInput().optional().describe("picture that is white where the image is painted anew, black where kept"),
  maskFeather: whole(0)
    .max(256)
    .default(0)
    .describe("pixels over which what was painted fades into the image, outside the mask"),
  onlyMasked: z
    .boolean()
    .default(false)
    .describe("draw the masked part of the image alone, as large as the model draws, and put it back"),
  maskPadding: whole(0)
    .max(16384)
    .optional()
    .describe("pixels around the mask that --only-masked draws too (default: 32)"),
  keepOutside: z
    .boolean()
    .default(true)
    .describe("put the image's own pixels back outside the mask, which else go through the autoencoder"),
  strength: z
    .number()
    .gt(0)
    .max(1)
    .optional()
    .describe(
      "how much of the image is drawn anew, above 0 to 1 (default: 0.8, with a mask 1; 0.3 for SDXL, 0.6 for SD3 and FLUX.1)",
    ),
  controlImage: pictureInput().optional().describe("picture that steers the control network (edges, depth, a pose …)"),
  controlScale: z.number().min(0).max(10).default(1).describe("how strongly the control network acts"),
  controlInterval: z
    .tuple([z.number().min(0).max(1), z.number().min(0).max(1)])
    .default([0, 1])
    .describe("between which shares of the steps the control network acts"),
  enlarge: z.number().gt(1).max(8).optional().describe("draw each picture again, this many times larger"),
  enlargeStrength: z
    .number()
    .gt(0)
    .max(1)
    .default(0.5)
    .describe("how much of the picture is drawn anew when it is enlarged, above 0 to 1"),
  enlargeSteps: whole(1)
    .optional()
    .describe("steps of the way of the second time (default: steps, or more if none would be left)"),
  denoisingEnd: z
    .number()
    .gt(0)
    .lt(1)
    .optional()
    .describe("stop when this share of the way is gone, for another model to go on"),
  denoisingStart: z
    .number()
    .gt(0)
    .lt(1)
    .optional()
    .describe("begin when this share of the way is gone, with the latents of another model"),
  latents: z
    .custom<Samples>(isLatents, "Accepted are latents [pictures, channels, height, width] as float32")
    .optional()
    .describe("the latents that a run with denoisingEnd ended with, of each picture"),
  refineFrom: z
    .number()
    .gt(0)
    .max(1)
    .optional()
    .describe("share of the way after which the refiner takes over; with 1 it does not (default: 0.8)"),
  loras: z
    .array(z.union([z.string().min(1), z.strictObject({ path: z.string().min(1), scale: z.number().default(1) })]))
    .optional()
    .describe("LoRA files or folders, or org/name of the hub, each a path or path:scale"),
  originalSize: heightAndWidth().optional().describe("height and width of the original, as SDXL is told"),
  cropTopLeft: heightAndWidth().optional().describe("where the original was cut, as SDXL is told (default: 0,0)"),
  targetSize: heightAndWidth().optional().describe("height and width that are wanted, as SDXL is told"),
  negativeOriginalSize: heightAndWidth().optional().describe("originalSize to draw away from"),
  negativeCropTopLeft: heightAndWidth().optional().describe("cropTopLeft to draw away from"),
  negativeTargetSize: heightAndWidth().optional().describe("targetSize to draw away from"),
  seamless: z.enum(SEAMLESS).optional().describe("draw pictures that tile along an axis, or both"),
  stepCache: whole(2)
    .max(100)
    .optional()
    .describe("compute the deep layers of the U-Net in each of this many steps once: faster, not exact (default: off)"),
  stepCacheDepth: whole(1)
    .optional()
    .describe("how much is computed in all steps: layers of the way up, from its end (default: 1)"),
  aestheticScore: z
    .number()
    .optional()
    .describe("how much the picture pleases, as SDXL's refiner is told (default: 6)"),
  negativeAestheticScore: z.number().optional().describe("the same of what is drawn away from (default: 2.5)"),
  vaeTile: whole(8).optional().describe("let the autoencoder work on tiles of this many pixels, to save memory"),
  batch: whole(1).default(1).describe("most pictures the network sees at once"),
});

/** A request with its defaults filled in. */
export type TextToImageRequest = z.output<typeof textToImageRequest>;
/** What a caller writes of it. */
export type TextToImageRequestInput = z.input<typeof textToImageRequest>;

/** One picture to draw: its words and its seed. */
export interface PictureWords {
  readonly prompt: string;
  readonly prompt2: string;
  readonly prompt3: string;
  /** Undefined where none was given: SDXL then sees zeros. */
  readonly negative: string | undefined;
  readonly negative2: string | undefined;
  readonly negative3: string | undefined;
  readonly seed: number;
}

/** Fields that not every kind of model has a use for. */
const FIELDS_OF_SOME = [
  ...(["prompt2", "negativePrompt2", "prompt3", "negativePrompt3"] as const),
  ...(["weights", "chunks", "textLength", "clipSkip", "trueGuidance"] as const),
  ...(["seamless", "stepCache", "stepCacheDepth"] as const),
  ...(["originalSize", "cropTopLeft", "targetSize"] as const),
  ...(["negativeOriginalSize", "negativeCropTopLeft", "negativeTargetSize"] as const),
  ...(["aestheticScore", "negativeAestheticScore"] as const),
];
export type FieldOfSome = (typeof FIELDS_OF_SOME)[number];

/** Throws a UserError for fields that say nothing together, contradict each other or are for other models. */
export function checkRequest(request: ResolvedRequest, model: TextToImageModel): void {
  const { image, mask, strength } = request;
  const { family } = model;
  const need = (field: "mask" | "strength", value: unknown) => {
    if (value === undefined || image !== undefined) return;
    throw new UserError(`\`${field}\` was given without \`image\`.`, {
      hint: `Give \`image\` too, or leave \`${field}\` out.`,
      field,
    });
  };
  need("strength", strength);
  need("mask", mask);
  checkMask(request);
  if (family.inpainting && mask === undefined) {
    throw new UserError(`${model.path} is an inpainting model: it needs \`image\` and \`mask\`.`, {
      hint: "Give a mask that is white where the image is to be painted anew, or take another model.",
      field: image === undefined ? "image" : "mask",
    });
  }
  if (model.controlNet && request.controlImage === undefined) {
    throw new UserError("A control network was opened; it needs `controlImage`.", { field: "controlImage" });
  }
  if (!model.controlNet && request.controlImage !== undefined) {
    throw new UserError("`controlImage` was given; this model has no control network.", {
      hint: "Open it with `controlNet`, the folder of one that was trained for it; or leave `controlImage` out.",
      field: "controlImage",
    });
  }
  for (const field of FIELDS_OF_SOME) {
    const value = request[field];
    // Where a field has a default, it is one that says nothing.
    if (value === undefined || value === false || value === 0) continue;
    if (family.fields.includes(field) || refines(request, model)?.family.fields.includes(field)) continue;
    throw new UserError(`\`${field}\` was given; this model has no use for it.`, { hint: "Leave it out.", field });
  }
  for (const [one, other] of [
    ["negativeOriginalSize", "negativeTargetSize"],
    ["negativeTargetSize", "negativeOriginalSize"],
    ["negativeCropTopLeft", "negativeOriginalSize"],
  ] as const) {
    if (request[one] === undefined || request[other] !== undefined) continue;
    throw new UserError(`\`${one}\` was given without \`${other}\`.`, { hint: "Give both, or none.", field: one });
  }
  checkGuidance(request, model);
  checkSteps(request, model);
  checkHandover(request, model);
  const { vaeTile } = request;
  if (vaeTile !== undefined && vaeTile % model.factor !== 0) {
    throw new UserError(`Tiles of ${vaeTile} pixels were asked for; they must be multiples of ${model.factor}.`, {
      field: "vaeTile",
    });
  }
}

/** Throws a UserError for what would have no effect because of how the model is guided. */
function checkGuidance(request: ResolvedRequest, { family }: TextToImageModel): void {
  const { guidance, trueGuidance, negativePrompt } = request;
  const kind = family.guidance;
  if (kind === "none" && guidance !== 1) {
    throw new UserError(`\`guidance\` ${guidance} was given; this model is drawn with none.`, {
      hint: "Leave it out.",
      field: "guidance",
    });
  }
  if (trueGuidance !== undefined && negativePrompt === undefined) {
    throw new UserError("`trueGuidance` was given without `negativePrompt`.", {
      hint: "Give the negative prompt too, which may be empty, or leave `trueGuidance` out.",
      field: "trueGuidance",
    });
  }
  if (contrastOf(family, request) > 1) return;
  const takesTrueGuidance = family.fields.includes("trueGuidance");
  const given = (["negativePrompt", "negativePrompt2", "negativePrompt3"] as const).filter((name) => request[name]);
  // Without guidance there is nothing for these to act on; where it is 1 by choice, they are the request's leftovers.
  const leftovers = kind === "contrast" ? [] : [...(request.guidanceRescale > 0 ? ["guidanceRescale"] : [])];
  if (request.guidanceInterval && kind !== "contrast") leftovers.push("guidanceInterval");
  for (const field of [...given, ...leftovers]) {
    const why = {
      contrast: `guidance is ${guidance}`,
      told: "this model takes its guidance as a number",
      none: "this model is drawn without guidance",
    }[kind];
    const wish = kind === "contrast" ? "raise guidance" : takesTrueGuidance ? "give `trueGuidance`" : undefined;
    throw new UserError(`\`${field}\` was given; it has no effect, since ${why}.`, {
      hint: wish ? `Leave it out, or ${wish} above 1.` : "Leave it out.",
      field,
    });
  }
}

/** What is said about tiling and about steps that are not computed as a whole. */
function checkSteps(
  { seamless, vaeTile, onlyMasked, stepCache, stepCacheDepth }: TextToImageRequest,
  { family }: TextToImageModel,
): void {
  for (const [other, given] of [
    ["vaeTile", vaeTile !== undefined],
    ["onlyMasked", onlyMasked],
  ] as const) {
    if (seamless === undefined || !given) continue;
    throw new UserError(
      `\`seamless\` was given together with \`${other}\`, whose parts know nothing of opposite edges.`,
      {
        hint: "Leave one out.",
        field: "seamless",
      },
    );
  }
  if (stepCacheDepth === undefined) return;
  if (stepCache === undefined) {
    throw new UserError("`stepCacheDepth` was given without `stepCache`.", {
      hint: "Give both, or none.",
      field: "stepCacheDepth",
    });
  }
  const most = (family.unet?.skips ?? 1) - 1;
  if (stepCacheDepth > most) {
    throw new UserError(`stepCacheDepth is ${stepCacheDepth}; this model's U-Net has layers for at most ${most}.`, {
      field: "stepCacheDepth",
    });
  }
}

/** What is said about a mask needs one. */
function checkMask({ mask, maskFeather, onlyMasked, maskPadding, keepOutside }: TextToImageRequest): void {
  for (const [field, given, other] of [
    ["maskFeather", maskFeather > 0, mask === undefined && "`mask`"],
    ["onlyMasked", onlyMasked, mask === undefined && "`mask`"],
    ["keepOutside", !keepOutside, mask === undefined && "`mask`"],
    ["maskPadding", maskPadding !== undefined, !onlyMasked && "`onlyMasked`"],
    ["maskFeather", maskFeather > 0, !keepOutside && "`keepOutside`, where nothing fades into anything"],
  ] as const) {
    if (!given || !other) continue;
    throw new UserError(`\`${field}\` was given without ${other}.`, { hint: "Give both, or none.", field });
  }
}

/** The pictures of a request, those of one prompt together. Throws a UserError for lists that do not fit together. */
export function picturesOf(request: TextToImageRequest): PictureWords[] {
  const prompts = asList(request.prompt);
  const each = (field: `${"prompt" | "negativePrompt"}${2 | 3}` | "negativePrompt"): readonly string[] | undefined => {
    const given = request[field];
    if (!Array.isArray(given)) return given === undefined ? undefined : prompts.map(() => given as string);
    if (given.length === prompts.length) return given;
    throw new UserError(`${given.length} texts were given for ${prompts.length} prompts.`, {
      hint: `Give one ${field} for all, or one for each prompt.`,
      field,
    });
  };
  const negatives = each("negativePrompt");
  const [prompts2, negatives2] = [each("prompt2"), each("negativePrompt2")];
  const [prompts3, negatives3] = [each("prompt3"), each("negativePrompt3")];
  const total = prompts.length * request.count;
  const { seeds } = request;
  if (seeds && seeds.length !== total) {
    throw new UserError(`${seeds.length} seeds were given for ${total} pictures.`, {
      hint: "Give one for each picture, or `seed` for the first.",
      field: "seeds",
    });
  }
  return Array.from({ length: total }, (_, i) => {
    const p = Math.floor(i / request.count);
    const negative = negatives?.[p];
    return {
      prompt: prompts[p]!,
      prompt2: prompts2?.[p] ?? prompts[p]!,
      prompt3: prompts3?.[p] ?? prompts[p]!,
      negative,
      negative2: negatives2?.[p] ?? negative,
      negative3: negatives3?.[p] ?? negative,
      seed: seeds?.[i] ?? request.seed + i,
    };
  });
}

function asList(value: string | readonly string[]): readonly string[] {
  return typeof value === "string" ? [value] : value;
}
