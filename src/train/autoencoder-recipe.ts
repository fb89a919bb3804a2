import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { validated } from "../core/validated.ts";
import { dataFields } from "./data-fields.ts";
import { optimizationFields, positive, requireEqualParts, runFields, share, whole } from "./run-options.ts";

const weight = () => z.number().min(0);

/**
 * What an autoencoder is and how it is trained, without its data and its folder. Fields that only some autoencoders have a
 * use for have no default here: `completed` fills them in, or refuses them.
 */
export const autoencoderFields = {
  kind: z
    .enum(["kl", "vq"])
    .default("kl")
    .describe(
      "kind of latents: kl, numbers near the normal distribution (AutoencoderKL); vq, entries of a codebook (VQModel)",
    ),
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

  // ---- latents ----
  klWeight: weight()
    .optional()
    .describe("weight of the divergence from the normal distribution, summed over the latent (kind kl; default: 1e-6)"),
  codebookSize: whole(2).optional().describe("entries of the codebook (kind vq; default: 512)"),
  codebookWidth: whole(1).optional().describe("numbers in an entry of the codebook (kind vq; default: latentChannels)"),
  commitment: weight()
    .optional()
    .describe("weight of the latents' squared distance to their entries (kind vq; default: 0.25)"),

  // ---- perceptual loss ----
  perceptual: z
    .string()
    .optional()
    .describe("safetensors file of VGG16 in torchvision's naming: pictures are also compared by its features"),
  perceptualLinear: z
    .string()
    .optional()
    .describe(
      "safetensors file of LPIPS's weights of these features, lin0.model.1.weight … (default: all count alike)",
    ),
  perceptualWeight: weight().optional().describe("weight of the perceptual distance (default: 1)"),

  // ---- adversarial loss ----
  adversarialFrom: whole(1)
    .optional()
    .describe("step from which a discriminator learns along, whose verdict becomes part of the loss (default: never)"),
  adversarialWeight: weight().optional().describe("factor on the adaptive weight of its verdict (default: 0.5)"),
  discriminatorChannels: whole(1)
    .optional()
    .describe("channels of the discriminator's first level, doubled at each (default: 64)"),
  discriminatorLevels: whole(1).optional().describe("how often the discriminator halves the pictures (default: 3)"),

  ...optimizationFields,
  batch: optimizationFields.batch.unwrap().default(32).describe("images a step"),
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

const fieldsSchema = z.object(autoencoderFields);
type Fields = z.output<typeof fieldsSchema>;
type Optional =
  | "kind"
  | ("klWeight" | "codebookSize" | "codebookWidth" | "commitment")
  | ("perceptual" | "perceptualLinear" | "perceptualWeight")
  | ("adversarialFrom" | "adversarialWeight" | "discriminatorChannels" | "discriminatorLevels");

/** Fields that only some autoencoders have a use for: there where they have one. */
export type AutoencoderLosses = (
  | { readonly kind: "kl"; readonly klWeight: number }
  | { readonly kind: "vq"; readonly codebookSize: number; readonly codebookWidth: number; readonly commitment: number }
) &
  (
    | { readonly perceptual?: undefined }
    | { readonly perceptual: string; readonly perceptualLinear?: string; readonly perceptualWeight: number }
  ) &
  (
    | { readonly adversarialFrom?: undefined }
    | {
        readonly adversarialFrom: number;
        readonly adversarialWeight: number;
        readonly discriminatorChannels: number;
        readonly discriminatorLevels: number;
      }
  );

/** The same fields with those filled in that the autoencoder has a use for. */
export type Completed<F extends Fields> = Omit<F, Optional> & AutoencoderLosses;

/** A recipe with every default filled in. */
export type AutoencoderRecipe = Completed<z.output<typeof autoencoderRecipeSchema>>;
/** What a user writes of it. */
export type AutoencoderRecipeInput = z.input<typeof autoencoderRecipeSchema>;

/**
 * Fills in what depends on other fields.
 * @throws UserError that names the fields which this autoencoder has no use for
 */
export function completed<F extends Fields>(fields: F): Completed<F> {
  const groups = [
    { use: "kind kl", used: fields.kind === "kl", standard: { klWeight: 1e-6 } },
    {
      use: "kind vq",
      used: fields.kind === "vq",
      standard: { codebookSize: 512, codebookWidth: fields.latentChannels, commitment: 0.25 },
    },
    {
      use: "perceptual, the file of a feature network",
      used: fields.perceptual !== undefined,
      standard: { perceptualLinear: undefined, perceptualWeight: 1 },
    },
    {
      use: "adversarialFrom, the step at which a discriminator begins",
      used: fields.adversarialFrom !== undefined,
      standard: { adversarialWeight: 0.5, discriminatorChannels: 64, discriminatorLevels: 3 },
    },
  ];
  const given = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
  const useless = groups.flatMap(({ use, used, standard }) => {
    const names = used ? [] : Object.keys(standard).filter((name) => name in given);
    return names.length > 0 ? [{ names, use }] : [];
  });
  if (useless.length > 0) {
    const lines = useless.map(({ names, use }) => `  ${names.join(", ")}: only with ${use}`);
    throw new UserError(`The recipe says what this autoencoder has no use for.\n${lines.join("\n")}`, {
      hint: "Leave these fields out, or give what they belong to.",
      field: useless[0]!.names[0],
    });
  }
  const standards = groups.filter(({ used }) => used).map(({ standard }) => standard);
  return { ...Object.assign({}, ...standards), ...given } as Completed<F>;
}

/**
 * Reads the recipe of an autoencoder.
 * @throws UserError that names each wrong field, what was given and what is accepted
 */
export function readAutoencoderRecipe(input: unknown): AutoencoderRecipe {
  const recipe = completed(validated(autoencoderRecipeSchema, input, { what: "The recipe" }));
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
