import { z } from "zod";
import { validated } from "../core/validated.ts";
import { dataFields } from "./data-fields.ts";
import { noiseFields, requireNoise } from "./noise-fields.ts";
import { optimizationFields, requireEqualParts, runFields, share, whole } from "./run-options.ts";

/**
 * Everything a training run can be told, flat: the same keys are a recipe file's JSON, the command line's flags (in
 * kebab-case) and `train()`'s options. Descriptions are what `--help` shows.
 */
export const recipeSchema = z.strictObject({
  ...dataFields,

  // ---- network ----
  patch: z
    .union([z.literal(1), z.literal(2), z.literal(4)])
    .default(1)
    .describe("side of the square of pixels that is one pixel to the network: 2 makes a step about 4 times cheaper"),
  channels: z.array(whole(1)).min(1).default([64, 128, 256]).describe("channels of the U-Net at each level"),
  layers: whole(1).default(2).describe("residual blocks a level"),
  attentionAt: z
    .array(whole(1))
    .default([])
    .describe("heights (in the network's pixels) at which pixels attend to each other"),
  middleAttention: z.boolean().default(true).describe("attention at the lowest level"),
  headWidth: whole(1).default(8).describe("channels of one attention head"),
  scaleShift: z.boolean().default(false).describe("let the timestep scale and shift the features, not only shift them"),

  // ---- diffusion ----
  ...noiseFields,
  predict: z.enum(["noise", "x0", "v"]).default("noise").describe("what the network predicts"),
  classes: z.boolean().default(false).describe("condition the network on the class labels"),
  classDropout: share()
    .default(0.1)
    .describe("share of labels replaced by 'no class', which makes classifier-free guidance possible"),

  ...optimizationFields,
  ...runFields,
  sampleSteps: whole(1).default(50).describe("network calls for a picture of the sample grid"),
});

/** A recipe with every default filled in. */
export type Recipe = z.output<typeof recipeSchema>;
/** What a user writes of it. */
export type RecipeInput = z.input<typeof recipeSchema>;

/**
 * Reads a recipe.
 * @throws UserError that names each wrong field, what was given and what is accepted
 */
export function readRecipe(input: unknown): Recipe {
  const hint = "`allegory train --help` lists every option with what it takes.";
  return checkedTogether(validated(recipeSchema, input, { what: "The recipe", hint }));
}

/** What no field can say alone. */
function checkedTogether(recipe: Recipe): Recipe {
  requireEqualParts(recipe);
  requireNoise(recipe);
  return recipe;
}
