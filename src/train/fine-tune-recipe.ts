import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { validated } from "../core/validated.ts";
import { dataFields } from "./data-fields.ts";
import { noiseFields } from "./noise-fields.ts";
import { optimizationFields, positive, requireEqualParts, runFields, share, whole } from "./run-options.ts";

const patterns = () => z.array(z.string().min(1)).min(1);

/** Parameters of the model itself learn. */
const full = z.strictObject({
  kind: z.literal("full"),
  trainable: patterns()
    .default(["unet.*"])
    .describe('names of parameters that learn; * stands for any characters, as in "unet.down_blocks.*"'),
  frozen: z.array(z.string().min(1)).default([]).describe("names among these that do not"),
});

/** The layers that a LoRA changes where a recipe does not say: those of attention. */
export const ATTENTION_LAYERS = ["unet.*.to_q", "unet.*.to_k", "unet.*.to_v", "unet.*.to_out.0"];

const lora = z.strictObject({
  kind: z.literal("lora"),
  rank: whole(1).default(8).describe("rank of the updates"),
  alpha: positive().optional().describe("an update counts alpha / rank (default: the rank, so 1)"),
  targets: patterns()
    .default(ATTENTION_LAYERS)
    .describe('names of layers that are changed; also such as "text_encoder.*_proj"'),
  initial: z
    .enum(["kaiming", "gaussian"])
    .default("kaiming")
    .describe("how the first matrix of an update starts; the second is zero"),
  kohya: z.boolean().default(false).describe("write the names of kohya's trainer too, as kohya.safetensors"),
});

const textualInversion = z.strictObject({
  kind: z.literal("textual-inversion"),
  word: z.string().min(1).describe('the new word, as captions have it, for example "<my-cat>"'),
  from: z.string().min(1).describe("a word of the model's vocabulary that the new one starts as"),
  vectors: whole(1).default(1).describe("vectors that the word becomes: more say more, and leave less of a prompt"),
});

/** The model itself teaches a network that draws in few steps. */
const distillation = z.strictObject({
  kind: z.literal("distillation"),
  guidance: z
    .union([z.number().min(1), z.tuple([z.number().min(1), z.number().min(1)])])
    .default([6, 16])
    .describe("guidance that the network has built in: one, or a range of which it is told one"),
  grid: whole(2).default(50).describe("steps of the teacher, evenly over the timesteps; one is skipped at a time"),
  loss: z.enum(["huber", "l2"]).default("huber").describe("what is averaged of the difference to the target"),
});

/** Pictures of the class that a subject belongs to, so that the class stays what it is. */
const priorFields = z.strictObject({
  prompt: z.string().min(1).describe('what they show, for example "a dog"'),
  data: z.string().optional().describe("folder of such pictures; by default the model draws them before it is trained"),
  count: whole(2).default(100).describe("pictures that the model draws"),
  weight: positive().default(1).describe("weight λ of their loss"),
  steps: whole(1).default(50).describe("steps for a picture that the model draws"),
  guidance: z.number().min(0).default(7.5).describe("weight of the prompt in pictures that the model draws"),
});

const { flip: _, data, ...pictureFields } = dataFields;
const { weighting, snrGamma } = noiseFields;

/** A text-to-image model that exists, trained further. */
export const fineTuneRecipeSchema = z.strictObject({
  task: z.literal("fine-tune").describe("what is trained"),
  model: z.string().describe("folder of a StableDiffusionPipeline in diffusers' layout, or org/name of the hub"),
  variant: z
    .string()
    .min(1)
    .optional()
    .describe("variant of the model's weights, such as fp16; parts that lack it are taken without one"),
  revision: z.string().min(1).optional().describe("branch, tag or commit of a model of the hub (default: main)"),
  method: z
    .discriminatedUnion("kind", [full, lora, textualInversion, distillation])
    .describe("what of the model learns"),
  data,
  ...pictureFields,
  captions: z
    .enum(["auto", "sidecar", "metadata"])
    .default("auto")
    .describe("where the captions of a folder's pictures are: text files beside them, or metadata files"),
  prompts: patterns().optional().describe("captions of every picture, in the place of their own"),
  prior: priorFields.optional().describe("prior preservation: half of every batch are pictures of the subject's class"),

  weighting,
  snrGamma,
  offsetNoise: z.number().min(0).default(0).describe("deviation of noise that is the same for all pixels of a channel"),
  captionDropout: share().default(0).describe("share of captions replaced by the empty one"),

  ...optimizationFields,
  steps: whole(1).default(1000).describe("training steps"),
  batch: whole(1).default(4).describe("images a step"),
  lr: positive().default(1e-4).describe("learning rate"),
  warmup: whole(0).default(0).describe("steps over which the learning rate rises from 0"),
  ema: share()
    .optional()
    .describe("decay of the weights' moving average, which is written (default: 0, the weights; of distillation 0.95)"),
  ...runFields,
  sampleCount: whole(1).default(4).describe("pictures in a sample grid"),
  sampleSteps: whole(1)
    .optional()
    .describe("steps for a picture of the sample grid (default: 25; of a distilled network 4)"),
  sampleGuidance: z.number().min(0).default(7.5).describe("weight of the captions in the sample grid"),
  sampleCaptions: z
    .array(z.string())
    .default([])
    .describe("captions of the sample grid, in turn (default: those of the first images)"),
});

/** A recipe with every default filled in. */
export type FineTuneRecipe = z.output<typeof fineTuneRecipeSchema> & {
  readonly ema: number;
  readonly sampleSteps: number;
};
/** What a user writes of it. */
export type FineTuneRecipeInput = z.input<typeof fineTuneRecipeSchema>;
/** One of the ways to fine-tune. */
export type FineTuneMethod<Kind extends FineTuneRecipe["method"]["kind"]> = Extract<
  FineTuneRecipe["method"],
  { kind: Kind }
>;

/**
 * Reads a recipe for fine-tuning.
 * @throws UserError that names each wrong field, what was given and what is accepted
 */
export function readFineTuneRecipe(input: unknown): FineTuneRecipe {
  const given = validated(fineTuneRecipeSchema, input, { what: "The recipe" });
  const distilled = given.method.kind === "distillation";
  const { ema = distilled ? 0.95 : 0, sampleSteps = distilled ? 4 : 25 } = given;
  const recipe = { ...given, ema, sampleSteps };
  requireEqualParts(recipe);
  if (recipe.prior && recipe.batch % 2 !== 0) {
    throw new UserError(`A batch of ${recipe.batch} has no half for the pictures of prior preservation.`, {
      hint: "Choose an even batch.",
      field: "batch",
    });
  }
  if (distilled) requireDistillable(recipe);
  return recipe;
}

/** UserError for fields that say nothing where the model teaches. */
function requireDistillable({ prior, weighting, captionDropout, method }: FineTuneRecipe): void {
  const field = prior
    ? "prior"
    : weighting !== "uniform"
      ? "weighting"
      : captionDropout > 0
        ? "captionDropout"
        : undefined;
  if (field) {
    throw new UserError(`Distillation has no use for ${field}: what is learned comes from the model alone.`, {
      hint: `Leave ${field} out.`,
      field,
    });
  }
  const { guidance } = method as FineTuneMethod<"distillation">;
  if (typeof guidance !== "number" && guidance[0] > guidance[1]) {
    throw new UserError(`The range of guidance from ${guidance[0]} to ${guidance[1]} is empty.`, {
      hint: "Give the smaller number first.",
      field: "method.guidance",
    });
  }
}
