import {
  type BetaSchedule,
  customSchedule,
  type NoiseSchedule,
  namedSchedule,
  samplerFromConfig,
  signalToNoise,
} from "../diffusion/index.ts";
import { type JsonObject, readSchedulerConfig } from "../io/index.ts";

/** A noise schedule on disk. */
export interface ScheduleFacts {
  readonly className: string;
  readonly options: JsonObject;
  /** ᾱ and SNR at some timesteps, for schedules of β. */
  readonly levels: readonly { readonly t: number; readonly alphaBar: number; readonly snr: number }[] | undefined;
}

/** A scheduler's folder. UserErrors as of `samplerFromConfig`. */
export async function scheduleFacts(folder: string): Promise<ScheduleFacts> {
  return scheduleOf(await readSchedulerConfig(folder));
}

/** The schedule that a scheduler's configuration describes. */
export function scheduleOf(config: JsonObject): ScheduleFacts {
  const { className, options } = samplerFromConfig(config);
  const schedule = betaSchedule(options);
  if (!schedule) return { className, options, levels: undefined };
  const T = schedule.steps;
  const timesteps = [...new Set([0, 0.25, 0.5, 0.75, 1].map((share) => Math.round(share * (T - 1))))];
  const levels = timesteps.map((t) => ({ t, alphaBar: schedule.alphasCumprod[t]!, snr: signalToNoise(schedule, t) }));
  return { className, options, levels };
}

/** The schedule of β that the options describe, where they describe one. */
function betaSchedule(options: JsonObject): NoiseSchedule | undefined {
  const zeroTerminalSnr = options.rescale_betas_zero_snr === true;
  if (Array.isArray(options.trained_betas)) return customSchedule(options.trained_betas, { zeroTerminalSnr });
  if (options.beta_schedule === undefined) return undefined;
  return namedSchedule(options.beta_schedule as BetaSchedule, {
    steps: options.num_train_timesteps as number,
    start: options.beta_start as number,
    end: options.beta_end as number,
    zeroTerminalSnr,
  });
}
