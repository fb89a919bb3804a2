import { z } from "zod";
import { UserError } from "../core/errors.ts";

export const whole = (minimum: number) => z.number().int().min(minimum);
export const positive = () => z.number().positive();
export const share = () => z.number().min(0).max(1);

/** How the weights move: the fields of every recipe. */
export const optimizationFields = {
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
};

/** Where a run lies and what it writes: the fields of every recipe. */
export const runFields = {
  run: z.string().describe("folder of the run; continues if it holds a checkpoint"),
  checkpointEvery: whole(1).default(500).describe("steps between checkpoints"),
  keep: whole(1).default(3).describe("checkpoints kept"),
  sampleEvery: whole(0).default(500).describe("steps between sample grids; 0 for none"),
  sampleCount: whole(1).default(16).describe("pictures in a sample grid"),
  device: z.enum(["auto", "cpu", "cuda", "webgpu"]).default("cpu").describe("what to compute on"),
  threads: whole(1).optional().describe("threads (default: one for each core)"),
};

const fields = z.object({ ...optimizationFields, ...runFields });

/** What every run is told, whatever it trains. */
export type RunOptions = z.output<typeof fields>;

/** UserError for a batch that cannot be cut as asked. */
export function requireEqualParts({ batch, accumulate }: Pick<RunOptions, "batch" | "accumulate">): void {
  if (batch % accumulate === 0) return;
  throw new UserError(`A batch of ${batch} cannot be cut into ${accumulate} equal parts.`, {
    hint: "Choose an `accumulate` that divides `batch`.",
    field: "accumulate",
  });
}
