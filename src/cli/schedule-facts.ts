import { UserError } from "../core/errors.ts";
import {
  type BetaSchedule,
  type ConfiguredSampler,
  customSchedule,
  type NoiseSchedule,
  namedSchedule,
  notesOnConfig,
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
  /** What is to be known of its options: those that its class has no use for, or why it cannot be sampled with. */
  readonly notes: readonly string[];
}

/** A scheduler's folder. UserErrors as of `samplerFromConfig`. */
export async function scheduleFacts(folder: string): Promise<ScheduleFacts> {
  return scheduleOf(await readSchedulerConfig(folder));
}

/** The schedule that a scheduler's configuration describes. */
export function scheduleOf(config: JsonObject): ScheduleFacts {
  let read: ConfiguredSampler;
  try {
    read = samplerFromConfig(config);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    const { _class_name: name, ...options } = config;
    return { className: String(name), options, levels: undefined, notes: [error.message] };
  }
  const { className, options } = read;
  const notes = notesOnConfig(config);
  const schedule = betaSchedule(options);
  if (!schedule) return { className, options, levels: undefined, notes };
  const T = schedule.steps;
  const timesteps = [...new Set([0, 0.25, 0.5, 0.75, 1].map((share) => Math.round(share * (T - 1))))];
  const levels = timesteps.map((t) => ({ t, alphaBar: schedule.alphasCumprod[t]!, snr: signalToNoise(schedule, t) }));
  return { className, options, levels, notes };
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
