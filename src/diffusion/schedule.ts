import { UserError } from "../core/errors.ts";

/**
 * How much noise each training timestep holds. Values are float32, computed operation by operation as torch computes
 * them, so that timesteps, sigmas and sums agree with networks trained in Python.
 */
export interface NoiseSchedule {
  /** T, the number of training timesteps; they are counted from 0. */
  readonly steps: number;
  /** β_t, the variance of the noise added by step t. */
  readonly betas: Float32Array;
  /** ᾱ_t = ∏_{s ≤ t} (1 − β_s), the share of the image's variance that is left. */
  readonly alphasCumprod: Float32Array;
}

/** The shapes of β_t that published models use, by the names of diffusers' configurations. */
export const BETA_SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp"] as const;
export type BetaSchedule = (typeof BETA_SCHEDULES)[number];

export interface ScheduleOptions {
  readonly steps?: number;
  /** β of the first timestep; only the linear, scaled linear and sigmoid shapes have it. */
  readonly start?: number;
  /** β of the last timestep. */
  readonly end?: number;
  /** Rescales so that the last timestep is pure noise, see `zeroTerminalSnr`. */
  readonly zeroTerminalSnr?: boolean;
}

const f = Math.fround;

/** β rises linearly (Ho et al. 2020, section 4). */
export function linearSchedule({
  steps = 1000,
  start = 1e-4,
  end = 0.02,
  zeroTerminalSnr = false,
}: ScheduleOptions = {}): NoiseSchedule {
  return scheduleFrom(linspace32(start, end, checkedSteps(steps)), zeroTerminalSnr);
}

/** √β rises linearly (the code of Rombach et al. 2022, latent diffusion). */
export function scaledLinearSchedule({
  steps = 1000,
  start = 0.00085,
  end = 0.012,
  zeroTerminalSnr = false,
}: ScheduleOptions = {}): NoiseSchedule {
  const roots = linspace32(Math.sqrt(start), Math.sqrt(end), checkedSteps(steps));
  return scheduleFrom(
    roots.map((root) => root * root),
    zeroTerminalSnr,
  );
}

/** β follows a sigmoid from start to end (the code of Xu et al. 2022, GeoDiff). */
export function sigmoidSchedule({
  steps = 1000,
  start = 1e-4,
  end = 0.02,
  zeroTerminalSnr = false,
}: ScheduleOptions = {}): NoiseSchedule {
  const width = f(end - start);
  const betas = linspace32(-6, 6, checkedSteps(steps)).map((x) => f(f(1 / (1 + Math.exp(-x))) * width) + f(start));
  return scheduleFrom(betas, zeroTerminalSnr);
}

/** ᾱ is a squared cosine (Nichol & Dhariwal 2021, eq. 17), β capped at 0.999. */
export function cosineSchedule({ steps = 1000, zeroTerminalSnr = false }: ScheduleOptions = {}): NoiseSchedule {
  const alphaBar = (u: number) => Math.cos((((u + 0.008) / 1.008) * Math.PI) / 2) ** 2;
  return scheduleFrom(betasFromAlphaBar(alphaBar, checkedSteps(steps)), zeroTerminalSnr);
}

/** The log signal-to-noise ratio is Laplace distributed (Hang & Gu 2024, "Improved noise schedule for diffusion training"). */
export function laplaceSchedule({ steps = 1000, zeroTerminalSnr = false }: ScheduleOptions = {}): NoiseSchedule {
  const alphaBar = (u: number) => {
    const logSnr = -0.5 * (u <= 0.5 ? 1 : -1) * Math.log(1 - 2 * Math.abs(0.5 - u) + 1e-6);
    const snr = Math.exp(logSnr);
    return Math.sqrt(snr / (1 + snr));
  };
  return scheduleFrom(betasFromAlphaBar(alphaBar, checkedSteps(steps)), zeroTerminalSnr);
}

/** ᾱ falls exponentially, ᾱ(u) = exp(−12 u), β capped at 0.999. */
export function exponentialSchedule({ steps = 1000, zeroTerminalSnr = false }: ScheduleOptions = {}): NoiseSchedule {
  return scheduleFrom(
    betasFromAlphaBar((u) => Math.exp(-12 * u), checkedSteps(steps)),
    zeroTerminalSnr,
  );
}

/** A schedule from its β_t, each between 0 and 1. */
export function customSchedule(
  betas: ArrayLike<number>,
  { zeroTerminalSnr = false }: ScheduleOptions = {},
): NoiseSchedule {
  checkedSteps(betas.length);
  for (let t = 0; t < betas.length; t++) {
    if (!(betas[t]! >= 0 && betas[t]! <= 1)) {
      throw new UserError(`β of timestep ${t} is ${betas[t]}; every β must lie between 0 and 1.`, {
        field: "trained_betas",
      });
    }
  }
  return scheduleFrom(Float32Array.from(betas), zeroTerminalSnr);
}

/** A schedule by the name of its shape. */
export function namedSchedule(shape: BetaSchedule, options: ScheduleOptions = {}): NoiseSchedule {
  switch (shape) {
    case "linear":
      return linearSchedule(options);
    case "scaled_linear":
      return scaledLinearSchedule(options);
    case "squaredcos_cap_v2":
      return cosineSchedule(options);
    case "sigmoid":
      return sigmoidSchedule(options);
    case "laplace":
      return laplaceSchedule(options);
    case "exp":
      return exponentialSchedule(options);
    default:
      throw new UserError(`The beta schedule "${shape}" is not known.`, {
        hint: `Known are ${BETA_SCHEDULES.join(", ")}.`,
        field: "beta_schedule",
      });
  }
}

/**
 * The same schedule, shifted and scaled in √ᾱ so that the last timestep holds no signal and the first is unchanged
 * (Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed", Algorithm 1).
 */
export function zeroTerminalSnr(schedule: NoiseSchedule): NoiseSchedule {
  const roots = schedule.alphasCumprod.map(Math.sqrt);
  const first = roots[0]!;
  const last = roots[roots.length - 1]!;
  const scale = f(first / f(first - last));
  const alphaBars = roots.map((root) => f(f(root - last) * scale) ** 2);
  const betas = alphaBars.map((alphaBar, t) => 1 - f(t === 0 ? alphaBar : alphaBar / alphaBars[t - 1]!));
  return fromBetas(betas);
}

/** σ_t = √((1 − ᾱ_t) / ᾱ_t): the noise per unit of signal, the time variable of Karras et al. 2022. */
export function sigmasOf(alphasCumprod: Float32Array): Float32Array {
  return alphasCumprod.map((alphaBar) => Math.sqrt(f(f(1 - alphaBar) / alphaBar)));
}

/** Signal-to-noise ratio ᾱ_t / (1 − ᾱ_t). */
export function signalToNoise(schedule: NoiseSchedule, t: number): number {
  const alphaBar = schedule.alphasCumprod[t]!;
  return alphaBar / (1 - alphaBar);
}

/** `torch.linspace` in float32: counted from the start in the first half and from the end in the second. */
export function linspace32(start: number, end: number, n: number): Float32Array {
  const values = new Float32Array(n);
  const from = f(start);
  const to = f(end);
  if (n === 1) return values.fill(from);
  const step = f(f(to - from) / (n - 1));
  const half = Math.floor(n / 2);
  for (let i = 0; i < n; i++) values[i] = i < half ? from + step * i : to - step * (n - 1 - i);
  return values;
}

/** β_t = min(1 − ᾱ((t+1)/T) / ᾱ(t/T), 0.999) (Nichol & Dhariwal 2021, section 3.2). */
function betasFromAlphaBar(alphaBar: (u: number) => number, steps: number): Float32Array {
  return Float32Array.from({ length: steps }, (_, t) =>
    Math.min(1 - alphaBar((t + 1) / steps) / alphaBar(t / steps), 0.999),
  );
}

function scheduleFrom(betas: Float32Array, rescale: boolean): NoiseSchedule {
  const schedule = fromBetas(betas);
  return rescale ? zeroTerminalSnr(schedule) : schedule;
}

function fromBetas(betas: Float32Array): NoiseSchedule {
  // torch keeps the running product in double precision and rounds what it stores.
  let product = 1;
  const alphasCumprod = betas.map((beta) => (product *= f(1 - beta)));
  return { steps: betas.length, betas, alphasCumprod };
}

function checkedSteps(steps: number): number {
  if (!Number.isInteger(steps) || steps < 1) {
    throw new UserError(`A schedule of ${steps} training timesteps is not possible.`, {
      hint: "Give a whole number of 1 or more; 1000 is usual.",
      field: "num_train_timesteps",
    });
  }
  return steps;
}
