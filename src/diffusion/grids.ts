import { UserError } from "../core/errors.ts";
import { log32 } from "./float32-log.ts";
import { sigmasOf } from "./schedule.ts";

/** How the timesteps of a run are spread over those of training (Lin et al. 2024, table 2). */
export type Spacing = "linspace" | "leading" | "trailing";

export interface SpacingOptions {
  /** Added to every timestep of leading spacing: 1 for Stable Diffusion. */
  readonly offset?: number;
  /** How many training timesteps are used, all by default. */
  readonly last?: number;
  /**
   * `ends`: linspace reaches timestep 0 (DDPM, Euler). `gap`: the grid has one timestep more, 0, which is left out
   * (DPM-Solver, DEIS, UniPC: their last step goes from the second to last to the end).
   */
  readonly end?: "ends" | "gap";
  /** Linspace timesteps stay fractional, as float32 (Euler, Heun). */
  readonly fractional?: boolean;
}

/**
 * Timesteps in falling order.
 *
 * Where diffusers' rounding repeats a timestep, leaves those of training, or makes one more than was asked for (trailing
 * spacing of 61 steps has 62 there, the last of them −1), this does not: it keeps the number of steps, or throws.
 *
 * @param count how many
 * @param trained how many training timesteps there are
 * @throws UserError on `steps` when so many do not fit, or when leading spacing would leave out the noisiest fifth of the
 *   timesteps; the hint names the nearest number that can be taken
 */
export function spacedTimesteps(
  spacing: Spacing,
  count: number,
  trained: number,
  options: SpacingOptions = {},
): number[] {
  mustFit(count, trained);
  const timesteps = spaced(spacing, count, trained, options);
  const reason = wrongWith(timesteps, options.last ?? trained, trained, spacing);
  if (reason === undefined) return timesteps;
  let fewer = count - 1;
  while (fewer > 0 && wrongWith(spaced(spacing, fewer, trained, options), options.last ?? trained, trained, spacing)) {
    fewer--;
  }
  throw new UserError(`${count} steps with ${spacing} spacing ${reason}.`, {
    hint: `Ask for ${fewer > 0 ? `${fewer} steps` : "other steps"}, or choose another spacing.`,
    field: "steps",
  });
}

function spaced(
  spacing: Spacing,
  count: number,
  trained: number,
  { offset = 0, last = trained, end = "ends", fractional = false }: SpacingOptions,
): number[] {
  const points = end === "gap" ? count + 1 : count;
  switch (spacing) {
    case "linspace": {
      const grid = linspace(0, last - 1, points).map(fractional ? Math.fround : roundHalfEven);
      return grid.reverse().slice(0, count);
    }
    case "leading": {
      const stride = Math.floor(last / points);
      return Array.from({ length: points }, (_, i) => i * stride)
        .reverse()
        .slice(0, count)
        .map((t) => t + offset);
    }
    case "trailing": {
      const stride = trained / count;
      // The increment as numpy's arange has it: the difference of its first two values.
      const increment = last - stride - last;
      const length = Math.min(count, Math.ceil(last / stride));
      return Array.from({ length }, (_, i) => roundHalfEven(last + i * increment) - 1);
    }
    default:
      throw new UserError(`The timestep spacing "${spacing}" is not known.`, {
        hint: "Known are linspace, leading and trailing.",
        field: "timestep_spacing",
      });
  }
}

/** Why a network cannot be sampled at these timesteps, if it cannot. */
function wrongWith(timesteps: readonly number[], last: number, trained: number, spacing: Spacing): string | undefined {
  if (timesteps.some((t, i) => i > 0 && t >= timesteps[i - 1]!)) return "would have a timestep twice";
  const [first, final] = [timesteps[0]!, timesteps[timesteps.length - 1]!];
  if (first >= trained || final < 0)
    return `would need the timestep ${first >= trained ? first : final}, with which no network was trained`;
  // What leading spacing leaves above by rounding its stride down is more than a stride: x would have to hold a picture.
  const stride = timesteps.length > 1 ? timesteps[0]! - timesteps[1]! : last;
  if (spacing === "leading" && last - first > stride + last / 5) {
    return `would start at timestep ${first} of ${trained}, which is not near pure noise`;
  }
  return undefined;
}

/** Timesteps of ComfyUI's and SGM's "sgm_uniform": evenly from the last training timestep, 0 left out, not rounded. */
export function sgmUniformTimesteps(count: number, trained: number): number[] {
  mustFit(count, trained);
  return linspace(trained - 1, 0, count + 1).slice(0, count);
}

/** σ^(1/ρ) falls linearly (Karras et al. 2022, eq. 5). */
export function karrasSigmas(minimum: number, maximum: number, count: number, rho = 7): number[] {
  return karrasAt(linspace(0, 1, count), minimum, maximum, rho);
}

/** `karrasSigmas` at given places: 0 is the maximum and 1 the minimum. */
export function karrasAt(ramp: readonly number[], minimum: number, maximum: number, rho = 7): number[] {
  const low = minimum ** (1 / rho);
  const high = maximum ** (1 / rho);
  return ramp.map((u) => (high + u * (low - high)) ** rho);
}

/** log σ falls linearly. */
export function exponentialSigmas(minimum: number, maximum: number, count: number): number[] {
  return linspace(Math.log(maximum), Math.log(minimum), count).map(Math.exp);
}

/** log σ falls as a power of the place (k-diffusion's "polyexponential"); ρ = 1 is exponential. */
export function polyexponentialSigmas(minimum: number, maximum: number, count: number, rho = 1): number[] {
  const width = Math.log(maximum) - Math.log(minimum);
  return linspace(1, 0, count).map((u) => Math.exp(u ** rho * width + Math.log(minimum)));
}

/** σ falls by the quantiles of a Beta distribution (Lee et al. 2024, "Beta sampling is all you need"). */
export function betaSigmas(minimum: number, maximum: number, count: number, alpha = 0.6, beta = 0.6): number[] {
  return linspace(0, 1, count).map((u) => minimum + betaQuantile(1 - u, alpha, beta) * (maximum - minimum));
}

/** Published "Align your steps" tables (Sabour et al. 2024), for 10 steps. */
export const ALIGN_YOUR_STEPS = {
  "stable-diffusion": {
    timesteps: [999, 850, 736, 645, 545, 455, 343, 233, 124, 24],
    sigmas: [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029],
  },
  "stable-diffusion-xl": {
    timesteps: [999, 845, 730, 587, 443, 310, 193, 116, 53, 13],
    sigmas: [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.38, 0.234, 0.113, 0.029],
  },
  "stable-video-diffusion": {
    timesteps: null,
    sigmas: [700, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002],
  },
} as const;

/** The σ of an "Align your steps" table for any number of steps, log σ interpolated linearly, and a final 0. */
export function alignYourStepsSigmas(model: keyof typeof ALIGN_YOUR_STEPS, count: number): number[] {
  const logs = ALIGN_YOUR_STEPS[model].sigmas.map(Math.log);
  const positions = linspace(0, logs.length - 1, count + 1);
  return [...positions.slice(0, count).map((at) => Math.exp(interpolated(at, logs))), 0];
}

/** Shifts flow-matching times towards noise, s u / (1 + (s − 1) u) (Esser et al. 2024, eq. 23). */
export function shiftedFlowTime(u: number, shift: number): number {
  return (shift * u) / (1 + (shift - 1) * u);
}

/**
 * Shifts flow-matching times by a resolution-dependent μ (Esser et al. 2024, section 5.3.2, as Flux has it):
 * e^μ / (e^μ + 1/u − 1), with μ itself in the place of e^μ for the linear kind.
 */
export function dynamicallyShiftedFlowTime(
  u: number,
  mu: number,
  kind: "exponential" | "linear" = "exponential",
): number {
  const m = kind === "exponential" ? Math.exp(mu) : mu;
  return m / (m + (1 / u - 1));
}

/** Stretches falling times so that the last becomes `terminal` (LTX-Video). */
export function stretchedToTerminal(times: readonly number[], terminal: number): number[] {
  const scale = (1 - times[times.length - 1]!) / (1 - terminal);
  return times.map((u) => 1 - (1 - u) / scale);
}

/** σ at a fractional timestep, linear between the training timesteps and constant outside, as numpy's interp. */
export function sigmaAt(timestep: number, sigmas: Float32Array): number {
  return interpolated(timestep, sigmas);
}

/** The fractional timestep of a σ: log σ is taken as linear between training timesteps. */
export function timestepOfSigma(alphasCumprod: Float32Array): (sigma: number) => number {
  const logs = sigmasOf(alphasCumprod).map(log32);
  return (sigma) => {
    const log = Math.log(Math.max(sigma, 1e-10));
    let low = 0;
    let high = logs.length - 1;
    // The last index whose log σ is not larger; the first where none is.
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (logs[middle]! <= log) low = middle;
      else high = middle - 1;
    }
    low = Math.max(0, Math.min(low, logs.length - 2));
    const w = Math.min(Math.max((logs[low]! - log) / (logs[low]! - logs[low + 1]!), 0), 1);
    return (1 - w) * low + w * (low + 1);
  };
}

/** `numpy.linspace` in double precision. */
export function linspace(start: number, end: number, count: number): number[] {
  if (count === 1) return [start];
  const step = (end - start) / (count - 1);
  return Array.from({ length: count }, (_, i) => (i === count - 1 ? end : i * step + start));
}

/** Rounds halves to the even neighbour, as numpy and torch do. */
export function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

function interpolated(at: number, values: ArrayLike<number>): number {
  const last = values.length - 1;
  if (at <= 0) return values[0]!;
  if (at >= last) return values[last]!;
  const below = Math.floor(at);
  const low = values[below]!;
  return (values[below + 1]! - low) * (at - below) + low;
}

function mustFit(count: number, trained: number): void {
  if (!Number.isInteger(count) || count < 1) {
    throw new UserError(`${count} steps are not possible.`, {
      hint: "Give a whole number of 1 or more.",
      field: "steps",
    });
  }
  if (count > trained) {
    throw new UserError(`${count} steps were asked for; the network was trained with ${trained} timesteps.`, {
      hint: `Ask for at most ${trained} steps.`,
      field: "steps",
    });
  }
}

/** The inverse of the regularized incomplete beta function, by bisection to double precision. */
export function betaQuantile(probability: number, a: number, b: number): number {
  if (probability <= 0) return 0;
  if (probability >= 1) return 1;
  // Found in the half where the answer is small, so that it keeps its digits.
  if (probability > incompleteBeta(0.5, a, b)) return 1 - betaQuantile(1 - probability, b, a);
  let low = 0;
  let high = 0.5;
  for (let i = 0; i < 200 && high - low > 1e-17 * high; i++) {
    const middle = (low + high) / 2;
    if (incompleteBeta(middle, a, b) < probability) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** I_x(a, b) by its power series (Abramowitz & Stegun 26.5.4 and 6.6), for x ≤ 1/2. */
function incompleteBeta(x: number, a: number, b: number): number {
  let term = 1;
  let sum = 1 / a;
  for (let n = 1; Math.abs(term) > 1e-18; n++) {
    term *= ((n - b) * x) / n;
    sum += term / (a + n);
  }
  return (x ** a * sum) / Math.exp(logGamma(a) + logGamma(b) - logGamma(a + b));
}

/** log Γ(z) for z > 0: Stirling's series (Abramowitz & Stegun 6.1.41) after shifting z upwards. */
function logGamma(z: number): number {
  let shift = 0;
  let at = z;
  while (at < 12) shift += Math.log(at++);
  const r = 1 / (at * at);
  const series = (1 / 12 + r * (-1 / 360 + r * (1 / 1260 + r * (-1 / 1680 + r * (1 / 1188))))) / at;
  return (at - 0.5) * Math.log(at) - at + 0.5 * Math.log(2 * Math.PI) + series - shift;
}
