import { UserError } from "../../core/errors.ts";
import { combine } from "../combine.ts";
import type { DenoiserOptions } from "../denoiser.ts";
import { betaSigmas, exponentialSigmas, karrasSigmas } from "../grids.ts";
import { type Level, levelOfAlphaBar, type PredictionKind } from "../prediction.ts";
import { checkedTimestep, type Samples } from "../process.ts";
import type { SamplerName } from "../sampler-table.ts";
import type { Churn } from "../samplers/euler.ts";
import { type BetaSchedule, customSchedule, type NoiseSchedule, namedSchedule } from "../schedule.ts";
import type { ReadConfig, SchedulerClass } from "./options.ts";
import type { PlanRequest } from "./plan.ts";

/** The noise schedule a configuration describes, or throws where its class cannot have that shape. */
export function scheduleOf({ className, options }: ReadConfig): NoiseSchedule {
  const o = options as {
    num_train_timesteps: number;
    beta_start: number;
    beta_end: number;
    beta_schedule: BetaSchedule;
    trained_betas: readonly number[] | null;
    rescale_betas_zero_snr?: boolean;
  };
  const zeroTerminalSnr = o.rescale_betas_zero_snr ?? false;
  if (o.trained_betas) {
    if (o.trained_betas.length !== o.num_train_timesteps) {
      throw new UserError(
        `trained_betas has ${o.trained_betas.length} values for ${o.num_train_timesteps} training timesteps.`,
        {
          field: "trained_betas",
        },
      );
    }
    return customSchedule(o.trained_betas, { zeroTerminalSnr });
  }
  const shape = o.beta_schedule;
  if (!knowsShape(className, shape)) {
    throw new UserError(`${className} has no beta schedule "${shape}".`, {
      hint: "Accepted are linear, scaled_linear and squaredcos_cap_v2.",
      field: "beta_schedule",
    });
  }
  return namedSchedule(shape, {
    steps: o.num_train_timesteps,
    start: o.beta_start,
    end: o.beta_end,
    zeroTerminalSnr,
  });
}

/** Whether a class can be told a shape of β_t by its name. */
export function knowsShape(className: SchedulerClass, shape: string): boolean {
  if (shape === "sigmoid" || shape === "laplace") return className.startsWith("DDPM");
  return shape !== "exp" || className === "HeunDiscreteScheduler";
}

/** ᾱ for samplers in σ: with zero terminal SNR the last is 2⁻²⁴, since σ would be infinite. */
export function finiteAlphas(config: ReadConfig): Float32Array {
  const alphas = scheduleOf(config).alphasCumprod;
  const last = alphas.length - 1;
  if (config.options.rescale_betas_zero_snr || alphas[last] === 0) alphas[last] = 2 ** -24;
  return alphas;
}

/** Our name of diffusers' `prediction_type`; throws where a class cannot have it. */
export function predictionOf(config: ReadConfig, accepted: readonly string[]): Exclude<PredictionKind, object> {
  const type = config.options.prediction_type as string;
  if (!accepted.includes(type)) {
    throw new UserError(`${config.className} does not support the prediction type "${type}".`, {
      hint: `It supports ${accepted.join(", ")}.`,
      field: "prediction_type",
    });
  }
  const names = {
    epsilon: "noise",
    sample: "x0",
    original_sample: "x0",
    v_prediction: "v",
    flow_prediction: "flow",
  } as const;
  return names[type as keyof typeof names];
}

/** Clipping and thresholding of x0, the latter going first, as diffusers has it. */
export function limitsOf({ options: o }: ReadConfig): Pick<DenoiserOptions, "clip" | "threshold"> {
  if (o.thresholding) {
    return { threshold: { ratio: o.dynamic_thresholding_ratio as number, maximum: o.sample_max_value as number } };
  }
  return o.clip_sample ? { clip: o.clip_sample_range as number } : {};
}

/** Which of the three σ grids a configuration asks for; more than one is a mistake. */
export function sigmaGridOf({ className, options: o }: ReadConfig): "karras" | "exponential" | "beta" | null {
  const chosen = (["karras", "exponential", "beta"] as const).filter((name) => o[`use_${name}_sigmas`]);
  if (chosen.length > 1) {
    throw new UserError(`${className} is asked for ${chosen.join(" and ")} sigmas at once.`, {
      hint: "Set only one of use_karras_sigmas, use_exponential_sigmas and use_beta_sigmas.",
      field: `use_${chosen[1]}_sigmas`,
    });
  }
  return chosen[0] ?? null;
}

/** σ of a named grid between two ends; the configuration's own `sigma_min` and `sigma_max` go first. */
export function gridSigmas(
  grid: "karras" | "exponential" | "beta",
  ends: { minimum: number; maximum: number },
  count: number,
  config: ReadConfig,
): number[] {
  const minimum = (config.options.sigma_min as number | null | undefined) ?? ends.minimum;
  const maximum = (config.options.sigma_max as number | null | undefined) ?? ends.maximum;
  const make = { karras: karrasSigmas, exponential: exponentialSigmas, beta: betaSigmas }[grid];
  return make(minimum, maximum, count);
}

/** The levels of a schedule by timestep, `last` standing before timestep 0. */
export function levelsByTimestep(schedule: NoiseSchedule, last: number): (t: number) => Level {
  return (t) => levelOfAlphaBar(t < 0 ? last : schedule.alphasCumprod[checkedTimestep(schedule, t)]!, t);
}

/** α x0 + σ noise. */
export function mixed(x0: Samples, noise: Samples, { alpha, sigma }: Level): Samples {
  return { ...x0, data: combine([alpha, sigma], [x0.data, noise.data]) };
}

/**
 * The index of a timestep among those of a plan. Where it occurs more than once it is the second, as diffusers has it:
 * the first belongs to the end of the step before.
 */
export function indexOfTimestep(timesteps: readonly number[], timestep: number): number {
  const first = timesteps.indexOf(timestep);
  if (first < 0) {
    throw new UserError(`${timestep} is not a timestep of this plan.`, {
      hint: `It has ${listed(timesteps)}.`,
      field: "timestep",
    });
  }
  const second = timesteps.indexOf(timestep, first + 1);
  return second < 0 ? first : second;
}

/** The number of steps, or throws when the request has none. */
export function stepsOf({ className, options }: ReadConfig, { steps }: PlanRequest): number {
  if (steps === undefined) {
    throw new UserError(`${className} must be told how many steps to take.`, { field: "steps" });
  }
  const trained = options.num_train_timesteps as number;
  if (!Number.isInteger(steps) || steps < 1) {
    throw new UserError(`${steps} steps are not possible.`, {
      hint: "Give a whole number of 1 or more.",
      field: "steps",
    });
  }
  if (steps > trained) {
    throw new UserError(`${steps} steps were asked for; the network was trained with ${trained} timesteps.`, {
      hint: `Ask for at most ${trained} steps.`,
      field: "steps",
    });
  }
  return steps;
}

/** Throws unless timesteps fall and lie among those of training. */
export function checkedTimesteps(timesteps: readonly number[], trained: number): readonly number[] {
  const falling = timesteps.every((t, i) => i === 0 || t < timesteps[i - 1]!);
  if (timesteps.length === 0 || !falling || timesteps[0]! >= trained || timesteps[timesteps.length - 1]! < 0) {
    throw new UserError(`The timesteps [${listed(timesteps)}] cannot be sampled.`, {
      hint: `Give timesteps in falling order between ${trained - 1} and 0.`,
      field: "timesteps",
    });
  }
  return timesteps;
}

/** Throws unless σ fall and are positive; the last may be 0 where the class ends there by its σ. */
export function checkedSigmas(
  sigmas: readonly number[],
  { most = Number.POSITIVE_INFINITY, endsInZero = false }: { most?: number; endsInZero?: boolean } = {},
): readonly number[] {
  const falling = sigmas.every((sigma, i) => i === 0 || sigma < sigmas[i - 1]!);
  const last = sigmas[sigmas.length - 1]!;
  const enough = sigmas.length > (endsInZero ? 1 : 0);
  if (enough && falling && sigmas[0]! <= most && (last > 0 || (endsInZero && last === 0))) return sigmas;
  throw new UserError(`The sigmas [${listed(sigmas)}] cannot be sampled.`, {
    hint: `Give numbers in falling order, ${most < Number.POSITIVE_INFINITY ? `at most ${most} and ` : ""}above 0${
      endsInZero ? ", and the one to end at, which may be 0" : ""
    }.`,
    field: "sigmas",
  });
}

/** Throws unless churn can be done: numbers of 0 or more (Karras et al. 2022, Algorithm 2). */
export function checkedChurn(churn: Churn | undefined): Churn | undefined {
  for (const [name, value] of Object.entries(churn ?? {})) {
    if (typeof value === "number" && value >= 0) continue;
    throw new UserError(`The churn's ${name} is ${value}.`, { hint: "Give numbers of 0 or more.", field: "churn" });
  }
  return churn;
}

/** The first of many numbers, for a message. */
function listed(values: readonly number[]): string {
  return values.length > 8 ? `${values.slice(0, 8).join(", ")}, …` : values.join(", ");
}

/** The named samplers that take what most do not: what can be chosen where one was asked for it in vain. */
export const TAKEN_BY: { readonly [name in keyof PlanRequest]?: readonly SamplerName[] } = {
  eta: ["ddim", "tcd"],
  clippedNoise: ["ddim"],
  churn: ["euler", "heun"],
  order: ["lms"],
  originalSteps: ["lcm", "tcd"],
  strength: ["lcm", "tcd"],
};

/** Throws for what a request asks and the class cannot do: nothing is left out silently. */
export function takesOnly(
  { className }: ReadConfig,
  request: PlanRequest,
  accepted: readonly (keyof PlanRequest)[],
): void {
  for (const [name, value] of Object.entries(request)) {
    if (value === undefined || accepted.includes(name as keyof PlanRequest)) continue;
    const others = TAKEN_BY[name as keyof PlanRequest];
    throw new UserError(`${className} takes no "${name}".`, {
      hint: others
        ? `Leave it out, or choose a sampler that takes it: ${others.join(", ")}.`
        : `It takes ${accepted.join(", ")}.`,
      field: name,
    });
  }
  const sources = (["steps", "timesteps", "sigmas"] as const).filter((name) => request[name] !== undefined);
  if (sources.length > 1 && !className.startsWith("FlowMatch")) {
    throw new UserError(`Both ${sources.join(" and ")} were given.`, { hint: "Give one of them.", field: sources[1] });
  }
}
