import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { validated } from "../core/validated.ts";
import { dataFields } from "./data-fields.ts";
import { optimizationFields, positive, requireEqualParts, runFields, share, whole } from "./run-options.ts";

/** What an autoencoder is and how it is trained, without its data and its folder. */
export const autoencoderFields = {
  channels: z
    .array(whole(1))
    .min(1)
    .default([32, 64, 128])
    .describe("channels at each level; each but the last halves"),
  layers: whole(1).default(1).describe("residual blocks a level of the encoder; the decoder has one more"),
  latentChannels: whole(1).default(4).describe("channels of the latent"),
  middleAttention: z.boolean().default(true).describe("attention at the lowest level"),
  reconstruction: z
    .enum(["l2", "l1"])
    .default("l2")
    .describe("what is averaged over pixels: squared or absolute differences"),
  klWeight: z
    .number()
    .min(0)
    .default(1e-6)
    .describe("weight of the divergence from the normal distribution, summed over the latent"),
  ...optimizationFields,
  batch: optimizationFields.batch.unwrap().default(32),
  lr: positive().default(5e-4).describe("learning rate"),
  weightDecay: z.number().min(0).default(0).describe("AdamW's decoupled weight decay"),
};

/** The fields of data that is judged by a part which is held out. */
export const heldOutFields = {
  ...dataFields,
  holdOut: share().default(0.1).describe("share of the images kept from training to judge by (emoji: always a tenth)"),
};

/** A run that trains an autoencoder alone. */
export const autoencoderRecipeSchema = z.strictObject({
  task: z.literal("autoencoder").describe("what is trained"),
  ...heldOutFields,
  ...autoencoderFields,
  ...runFields,
});

/** A recipe with every default filled in. */
export type AutoencoderRecipe = z.output<typeof autoencoderRecipeSchema>;
/** What a user writes of it. */
export type AutoencoderRecipeInput = z.input<typeof autoencoderRecipeSchema>;

/**
 * Reads the recipe of an autoencoder.
 * @throws UserError that names each wrong field, what was given and what is accepted
 */
export function readAutoencoderRecipe(input: unknown): AutoencoderRecipe {
  const recipe = validated(autoencoderRecipeSchema, input, { what: "The recipe" });
  requireEqualParts(recipe);
  requireSides(recipe.size, recipe.channels, "size");
  return recipe;
}

/** UserError for images whose sides cannot be halved as often as an autoencoder does. */
export function requireSides(size: number | undefined, channels: readonly number[], field: string): void {
  const factor = 2 ** (channels.length - 1);
  if (size === undefined || size % factor === 0) return;
  const nearest = Math.max(factor, Math.round(size / factor) * factor);
  throw new UserError(`Images of ${size} pixels cannot be halved ${channels.length - 1} times.`, {
    hint: `Set size to ${nearest}, or give fewer levels (channels).`,
    field,
  });
}
