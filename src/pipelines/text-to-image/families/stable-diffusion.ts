import { UserError } from "../../../core/errors.ts";
import { guidanceEmbedding } from "../../../diffusion/index.ts";
import { concat, type Tensor } from "../../../graph/index.ts";
import { type UNet2DCondition, unet2dCondition } from "../../../models/index.ts";
import { controlNetFor, residualInputs } from "../control.ts";
import { bothSides, type Family, type FamilyKind, type FamilyParts, type Size, type UNetSeams } from "../family.ts";
import type { StoredModel } from "../model.ts";
import { COLOURS } from "../preview.ts";
import type { FieldOfSome, TextToImageRequest } from "../request.ts";
import { sideBySide } from "../text.ts";
import { clipEncoder } from "../text-encoder.ts";
import { type FewStepDefaults, fewStepDefaults } from "./few-steps.ts";

/** Steps, guidance and strength where a request does not say, as diffusers has them. */
const DEFAULTS = {
  stable: { steps: 50, guidance: 7.5, strength: 0.8 },
  xl: { steps: 50, guidance: 5, strength: 0.3 },
  consistency: { steps: 4, guidance: 8.5, strength: 0.8 },
};

/** The sizes that SDXL is told, and those that are drawn away from. */
const SIZES = [
  ...(["originalSize", "cropTopLeft", "targetSize"] as const),
  ...(["negativeOriginalSize", "negativeCropTopLeft", "negativeTargetSize"] as const),
];

const CLIP = ["CLIPTextModel", "CLIPTextModelWithProjection"];

/**
 * Stable Diffusion 1.x, 2.x, XL and its refiner, latent consistency models: a text-conditional U-Net and one or two CLIP
 * text encoders.
 */
export const stableDiffusion: FamilyKind = {
  denoiser: "unet",
  textEncoders: ["text_encoder", "text_encoder_2"].map((name) => ({ name, classes: CLIP, optional: true })),
  build,
};

function build(stored: StoredModel, { factor }: { readonly factor: number }): FamilyParts {
  const { path, aestheticScore, zerosForEmptyPrompt } = stored;
  const unet = unet2dCondition(stored.denoiser.config);
  const { in_channels: inputs, out_channels: channels, sample_size: trained, time_cond_proj_dim: told } = unet.config;
  if (inputs !== channels && inputs !== 2 * channels + 1) {
    throw new UserError(`The U-Net of ${path} takes ${inputs} channels and gives ${channels}.`, {
      hint: `Of a text-to-image model it takes ${channels}, of an inpainting model ${2 * channels + 1}.`,
      field: "model",
    });
  }
  const xl = unet.config.addition_embed_type === "text_time";
  const textEncoders = stored.textEncoders.map((encoder) => clipEncoder(encoder, { penultimate: xl }));
  const fields: readonly FieldOfSome[] = [
    ...(["weights", "chunks", "clipSkip", "seamless", "stepCache", "stepCacheDepth"] as const),
    ...(textEncoders.length > 1 ? (["prompt2", "negativePrompt2"] as const) : []),
    ...(xl ? SIZES : []),
    ...(xl && aestheticScore ? (["aestheticScore", "negativeAestheticScore"] as const) : []),
  ];
  const ofManySteps = xl ? DEFAULTS.xl : DEFAULTS.stable;
  const defaults: FewStepDefaults =
    told !== null ? DEFAULTS.consistency : (fewStepDefaults(stored.scheduler) ?? ofManySteps);
  const family: Family = {
    ...{ channels, patch: 1, fields, zerosForEmptyPrompt, strengthRounds: "down" },
    trained: trained === null ? undefined : bothSides(trained),
    guidance: told !== null ? "told" : "contrast",
    inpainting: inputs !== channels,
    consistency: told !== null,
    // With a mask all of the image is drawn anew, unless the request says otherwise.
    defaults: ({ image, mask }) => ({
      ...defaults,
      steps: image === undefined ? defaults.steps : (defaults.stepsFromImage ?? defaults.steps),
      strength: mask === undefined ? defaults.strength : 1,
    }),
    encoded: (each) => ({
      states: sideBySide(each.map(({ states }) => states)),
      ...(xl ? { pooled: each.at(-1)!.pooled } : {}),
    }),
    told: (request, { size, negative }) => ({
      ...(xl ? { timeIds: timeIdsOf(unet, request, { size, negative, aestheticScore, path }) } : {}),
      ...(told !== null ? { timestepCondition: guidanceEmbedding(request.guidance - 1, told) } : {}),
    }),
    unet: seamsOf(unet),
    predict: (inputs: Readonly<Record<string, Tensor>>, hooks) => {
      const { textEmbeds, timeIds, timestepCondition } = inputs;
      const others = { textEmbeds, timeIds, timestepCondition, ...residualInputs(inputs, unet.skips), ...hooks };
      const sample = inputs.mask ? concat([inputs.latents!, inputs.mask, inputs.kept!], 1) : inputs.latents!;
      return unet(sample, inputs.timestep!, inputs.text!, others);
    },
    states: (n, [height, width]) => statesOf(unet, n * height * width),
    colours: xl ? COLOURS.xl : COLOURS.stable,
  };
  const controlNet = stored.controlNet && controlNetFor(stored.controlNet, unet, factor);
  const denoiser = { name: "unet", network: unet, weights: stored.denoiser.weights };
  return { denoiser, textEncoders, controlNet, family };
}

function seamsOf({ skips, config: { down_block_types: blocks } }: UNet2DCondition): UNetSeams {
  const attentionLevels = blocks.flatMap((type, level) => (type.startsWith("CrossAttn") ? [level] : []));
  return { skips, halvings: blocks.length - 1, attentionLevels };
}

/** Of the U-Net: the states that are kept for the way up, and about eight of its widest at work. */
function statesOf({ config: { block_out_channels: channels, layers_per_block: layers } }: UNet2DCondition, n: number) {
  const kept = channels.reduce((sum, c, level) => {
    const count = (typeof layers === "number" ? layers : layers[level]!) + 1;
    return sum + (count * c) / 4 ** level;
  }, 0);
  return (kept + 8 * channels[0]!) * n;
}

/** Scores that SDXL's refiner was trained with: of pictures that please, and of those to be drawn away from. */
const AESTHETIC = { positive: 6, negative: 2.5 };

/** SDXL's size and crop conditions (Podell et al. 2023, section 2.2): heights first. */
function timeIdsOf(
  unet: UNet2DCondition,
  request: TextToImageRequest,
  about: { readonly size: Size; readonly negative: boolean; readonly aestheticScore: boolean; readonly path: string },
): number[] {
  const { size, negative, aestheticScore, path } = about;
  const { originalSize = size, cropTopLeft = [0, 0], targetSize = size } = request;
  const { negativeOriginalSize, negativeCropTopLeft = [0, 0], negativeTargetSize } = request;
  const own = [...originalSize, ...cropTopLeft];
  const others = [...(negativeOriginalSize ?? originalSize), ...negativeCropTopLeft];
  const row = aestheticScore
    ? negative
      ? [...others, request.negativeAestheticScore ?? AESTHETIC.negative]
      : [...own, request.aestheticScore ?? AESTHETIC.positive]
    : negative && negativeOriginalSize && negativeTargetSize
      ? [...others, ...negativeTargetSize]
      : [...own, ...targetSize];
  const { addition_time_embed_dim: each, projection_class_embeddings_input_dim: all } = unet.config;
  if (all! - row.length * each! > 0) return row;
  throw new UserError(`The U-Net of ${path} has no room for ${row.length} size conditions.`, {
    hint: "Is requires_aesthetics_score in model_index.json right?",
    field: "model",
  });
}
