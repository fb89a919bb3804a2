import { z } from "zod";
import { UserError } from "../core/errors.ts";
import {
  BETA_SCHEDULES,
  customSchedule,
  type LossWeighting,
  type NoiseSchedule,
  namedSchedule,
} from "../diffusion/index.ts";
import { positive, whole } from "./run-options.ts";

/** The noise that a network learns to take out, and how much each timestep counts: the fields of denoisers' recipes. */
export const noiseFields = {
  schedule: z
    .enum(BETA_SCHEDULES)
    .default("squaredcos_cap_v2")
    .describe("shape of the noise schedule (squaredcos_cap_v2 is the cosine)"),
  timesteps: whole(2).default(1000).describe("training timesteps T"),
  betaStart: positive().optional().describe("first beta of the linear, scaled_linear and sigmoid schedules"),
  betaEnd: positive().optional().describe("last beta of the linear, scaled_linear and sigmoid schedules"),
  zeroTerminalSnr: z.boolean().default(false).describe("rescale the schedule so that its last timestep is pure noise"),
  weighting: z.enum(["uniform", "min-snr"]).default("uniform").describe("weight of each timestep's error"),
  snrGamma: positive().default(5).describe("gamma of the min-snr weighting"),
};

const schema = z.object(noiseFields);
type NoiseOptions = z.output<typeof schema>;
type Predicted = "noise" | "x0" | "v";

/** UserError for fields that say nothing together. */
export function requireNoise(recipe: NoiseOptions & { readonly predict: string }): void {
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
}

/** The noise schedule of a recipe. */
export function scheduleOf(recipe: NoiseOptions): NoiseSchedule {
  const { schedule, timesteps: steps, betaStart: start, betaEnd: end, zeroTerminalSnr } = recipe;
  const given = { ...(start === undefined ? {} : { start }), ...(end === undefined ? {} : { end }) };
  const named = namedSchedule(schedule, { steps, ...given, zeroTerminalSnr });
  return customSchedule(named.betas);
}

/** The weight of each timestep's error that a recipe asks for. */
export function weightingOf({ weighting, snrGamma }: Pick<NoiseOptions, "weighting" | "snrGamma">): LossWeighting {
  return weighting === "uniform" ? { kind: "uniform" } : { kind: "min-snr", gamma: snrGamma };
}

/** The scheduler configuration that belongs to what a recipe trains: DDPM's, as diffusers writes it. */
export function schedulerConfigOf(recipe: NoiseOptions & { readonly predict: Predicted }): Record<string, unknown> {
  const predictions = { noise: "epsilon", x0: "sample", v: "v_prediction" } as const;
  const { schedule, timesteps, betaStart, betaEnd, zeroTerminalSnr, predict } = recipe;
  const scaled = schedule === "scaled_linear";
  return {
    num_train_timesteps: timesteps,
    beta_schedule: schedule,
    beta_start: betaStart ?? (scaled ? 0.00085 : 1e-4),
    beta_end: betaEnd ?? (scaled ? 0.012 : 0.02),
    trained_betas: null,
    variance_type: "fixed_small",
    clip_sample: true,
    clip_sample_range: 1,
    prediction_type: predictions[predict],
    thresholding: false,
    timestep_spacing: "trailing",
    steps_offset: 0,
    rescale_betas_zero_snr: zeroTerminalSnr,
  };
}
