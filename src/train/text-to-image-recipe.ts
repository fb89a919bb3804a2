import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { validated } from "../core/validated.ts";
import { autoencoderFields, completed, heldOutFields, requireSides } from "./autoencoder-recipe.ts";
import { noiseFields, requireNoise } from "./noise-fields.ts";
import { optimizationFields, positive, requireEqualParts, runFields, share, whole } from "./run-options.ts";

const { run, checkpointEvery, keep, sampleEvery, sampleCount, device, threads } = runFields;

/** The stage that makes the space of latents. */
const autoencoderStage = z.strictObject({
  ...autoencoderFields,
  flip: z
    .boolean()
    .default(true)
    .describe("mirror half of the images: the autoencoder sees both, the denoiser does not"),
  ...{ checkpointEvery, keep, sampleEvery, sampleCount },
});

/** The text encoder that learns with the denoiser. */
const textStage = z.strictObject({
  vocabulary: whole(514).default(4096).describe("tokens of the vocabulary, learned from the captions"),
  maxLength: whole(3).default(24).describe("tokens of a caption, start and end included; longer ones are cut"),
  width: whole(1).default(192).describe("width of the text encoder"),
  layers: whole(1).default(4).describe("layers of the text encoder"),
  heads: whole(1).default(4).describe("attention heads of the text encoder"),
});

const denoiserFields = {
  // ---- network ----
  network: z.enum(["unet", "dit", "mmdit"]).default("unet").describe("kind of network"),
  channels: z.array(whole(1)).min(1).default([96, 192]).describe("channels of the U-Net at each level"),
  layers: whole(1).default(1).describe("residual blocks a level of the U-Net"),
  attentionAt: z
    .array(whole(1))
    .default([])
    .describe("heights (in the latent's pixels) at which pixels attend to each other and to the text"),
  middleAttention: z.boolean().default(true).describe("attention at the lowest level of the U-Net"),
  headWidth: whole(1).default(32).describe("channels of one attention head of the U-Net"),
  patch: whole(1).default(2).describe("side of the square of latent pixels that is a token of the transformers"),
  width: whole(4).default(256).describe("width of the transformers"),
  depth: whole(1).default(8).describe("blocks of the transformers"),

  // ---- diffusion ----
  ...noiseFields,
  schedule: noiseFields.schedule.unwrap().default("scaled_linear").describe("shape of the noise schedule"),
  predict: z.enum(["noise", "x0", "v", "flow"]).default("v").describe("what the network predicts; flow: flow matching"),
  times: z
    .enum(["uniform", "logit-normal"])
    .default("uniform")
    .describe("how training timesteps are drawn: evenly, or mostly from the middle (Esser et al. 2024)"),
  offsetNoise: z.number().min(0).default(0).describe("deviation of noise that is the same for all pixels of a channel"),
  captionDropout: share()
    .default(0.1)
    .describe("share of captions replaced by the empty one, which makes classifier-free guidance possible"),

  // ---- optimization and files ----
  ...optimizationFields,
  lr: positive().default(5e-4).describe("learning rate"),
  ...{ checkpointEvery, keep, sampleEvery, sampleCount },
  sampleSteps: whole(1).default(25).describe("steps for a picture of the sample grid"),
  sampleGuidance: z.number().min(0).default(3).describe("weight of the captions in the sample grid"),
  sampleCaptions: z
    .array(z.string())
    .default([])
    .describe("captions of the sample grid, in turn (default: those of the first images)"),
};

/** A text-to-image system from pictures with captions: autoencoder, latents, denoiser. */
export const textToImageRecipeSchema = z.strictObject({
  task: z.literal("text-to-image").describe("what is trained"),
  ...heldOutFields,
  captions: z
    .enum(["auto", "sidecar", "metadata"])
    .default("auto")
    .describe("where the captions of a folder's pictures are: text files beside them, or metadata files"),
  autoencoder: z
    .union([z.string(), autoencoderStage])
    .describe("how the autoencoder is trained, or the folder of one that is taken as it is"),
  text: z
    .union([z.string(), textStage])
    .prefault({})
    .describe(
      "the text encoder that learns with the denoiser, or the folder of one (CLIP or T5, with its tokenizer) that is taken as it is",
    ),
  denoiser: z.strictObject(denoiserFields).prefault({}).describe("the denoiser and how it is trained"),
  seed: whole(0).default(0).describe("seed of what is held out"),
  ...{ run, device, threads },
});

/** A recipe with every default filled in. */
export type TextToImageRecipe = z.output<typeof textToImageRecipeSchema>;
/** What a user writes of it. */
export type TextToImageRecipeInput = z.input<typeof textToImageRecipeSchema>;
/** What the denoiser's stage is told. */
export type DenoiserStage = TextToImageRecipe["denoiser"];

/**
 * Reads the recipe of a text-to-image system.
 * @throws UserError that names each wrong field, what was given and what is accepted
 */
export function readTextToImageRecipe(input: unknown): TextToImageRecipe {
  const recipe = validated(textToImageRecipeSchema, input, { what: "The recipe" });
  const { autoencoder, denoiser } = recipe;
  requireEqualParts(denoiser);
  requireNoise(denoiser);
  if (denoiser.predict !== "flow" && denoiser.times !== "uniform") {
    throw new UserError(`The timesteps of a noise schedule are drawn evenly; times ${denoiser.times} was asked for.`, {
      hint: "Leave times out, or choose predict flow.",
      field: "denoiser.times",
    });
  }
  if (typeof autoencoder !== "string") {
    requireEqualParts(autoencoder);
    requireSides(recipe.size, autoencoder.channels, "size");
    if (completed(autoencoder).kind !== "kl") {
      throw new UserError(
        `The denoiser learns latents near the normal distribution; autoencoder.kind is ${autoencoder.kind}.`,
        {
          hint: "Leave kind out, or make it kl.",
          field: "autoencoder.kind",
        },
      );
    }
  }
  return recipe;
}
