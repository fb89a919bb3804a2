import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { validated } from "../core/validated.ts";
import { BETA_SCHEDULES } from "../diffusion/index.ts";

const whole = (minimum: number) => z.number().int().min(minimum);
const positive = () => z.number().positive();
const share = () => z.number().min(0).max(1);

/**
 * Everything a training run can be told, flat: the same keys are a recipe file's JSON, the command line's flags (in
 * kebab-case) and `train()`'s options. Descriptions are what `--help` shows.
 */
export const recipeSchema = z.strictObject({
  // ---- data ----
  data: z
    .string()
    .describe(
      'folder of images (any depth), IDX file, folder with MNIST\'s four files, "mnist" for the packaged digits, or "emoji" for those of the package @lobehub/fluent-emoji-3d',
    ),
  labels: z
    .string()
    .default("auto")
    .describe(
      'where classes come from: "folders" (sub-folders), "none", an IDX label file, or "auto": those of an IDX set',
    ),
  size: whole(4)
    .optional()
    .describe("height and width of the images in pixels; images are scaled and centre-cropped to it"),
  colour: z
    .enum(["rgb", "gray"])
    .optional()
    .describe("channels of the images (default: rgb for folders, gray for IDX files)"),
  background: z.string().default("#ffffff").describe("colour behind transparent pixels"),
  flip: z.boolean().default(false).describe("mirror half of the images left to right, newly chosen every epoch"),
  skipUnreadable: z.boolean().default(false).describe("leave out files that cannot be read instead of stopping"),

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
  schedule: z
    .enum(BETA_SCHEDULES)
    .default("squaredcos_cap_v2")
    .describe("shape of the noise schedule (squaredcos_cap_v2 is the cosine)"),
  timesteps: whole(2).default(1000).describe("training timesteps T"),
  betaStart: positive().optional().describe("first beta of the linear, scaled_linear and sigmoid schedules"),
  betaEnd: positive().optional().describe("last beta of the linear, scaled_linear and sigmoid schedules"),
  zeroTerminalSnr: z.boolean().default(false).describe("rescale the schedule so that its last timestep is pure noise"),
  predict: z.enum(["noise", "x0", "v"]).default("noise").describe("what the network predicts"),
  weighting: z.enum(["uniform", "min-snr"]).default("uniform").describe("weight of each timestep's error"),
  snrGamma: positive().default(5).describe("gamma of the min-snr weighting"),
  classes: z.boolean().default(false).describe("condition the network on the class labels"),
  classDropout: share()
    .default(0.1)
    .describe("share of labels replaced by 'no class', which makes classifier-free guidance possible"),

  // ---- optimization ----
  steps: whole(1).default(20_000).describe("training steps"),
  minutes: positive().optional().describe("stop after so many minutes of training, in all, even if steps are left"),
  batch: whole(1).default(64).describe("images a step"),
  accumulate: whole(1)
    .default(1)
    .describe("cut every batch into so many parts whose gradients are added up, to save memory"),
  lr: positive().default(2e-4).describe("learning rate"),
  lrSchedule: z
    .enum(["constant", "cosine"])
    .default("cosine")
    .describe(
      "learning rate after the warm-up: constant, or down to 0 along a cosine, over the steps or the minutes, whichever end first",
    ),
  warmup: whole(0).default(500).describe("steps over which the learning rate rises from 0"),
  beta1: share().default(0.9).describe("AdamW's decay of the gradient's mean"),
  beta2: share().default(0.999).describe("AdamW's decay of the gradient's square"),
  epsilon: positive().default(1e-8).describe("AdamW's epsilon"),
  weightDecay: z.number().min(0).default(0.01).describe("AdamW's decoupled weight decay"),
  clip: positive().default(1).describe("largest norm of the gradient"),
  ema: share()
    .default(0.999)
    .describe("decay of the weights' exponential moving average, which samples are drawn with"),
  emaWarmup: z
    .boolean()
    .default(true)
    .describe("let the average forget its start: decay (1 + n)/(10 + n) at update n while that is smaller"),
  seed: whole(0).default(0).describe("seed of everything random"),

  // ---- run ----
  run: z.string().describe("folder of the run; continues if it holds a checkpoint"),
  checkpointEvery: whole(1).default(500).describe("steps between checkpoints"),
  keep: whole(1).default(3).describe("checkpoints kept"),
  sampleEvery: whole(0).default(500).describe("steps between sample grids; 0 for none"),
  sampleCount: whole(1).default(16).describe("pictures in a sample grid"),
  sampleSteps: whole(1).default(50).describe("network calls for a picture of the sample grid"),
  device: z.enum(["auto", "cpu", "cuda", "webgpu"]).default("cpu").describe("what to compute on"),
  threads: whole(1).optional().describe("threads (default: one for each core)"),
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
  if (recipe.batch % recipe.accumulate !== 0) {
    throw new UserError(`A batch of ${recipe.batch} cannot be cut into ${recipe.accumulate} equal parts.`, {
      hint: "Choose an `accumulate` that divides `batch`.",
      field: "accumulate",
    });
  }
  const given = recipe.betaStart !== undefined || recipe.betaEnd !== undefined;
  if (given && !["linear", "scaled_linear", "sigmoid"].includes(recipe.schedule)) {
    throw new UserError(`The schedule ${recipe.schedule} has no betaStart and betaEnd.`, {
      hint: "Leave them out, or choose linear, scaled_linear or sigmoid.",
      field: "betaStart",
    });
  }
  if (recipe.zeroTerminalSnr && recipe.predict === "noise") {
    throw new UserError("With zeroTerminalSnr the last timestep holds no image: noise prediction cannot recover one.", {
      hint: "Choose predict v or x0.",
      field: "predict",
    });
  }
  return recipe;
}
