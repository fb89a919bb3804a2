import { invariant, UserError } from "../core/errors.ts";
import { float32, type HostTensor } from "../core/host-tensor.ts";
import type { NoiseSchedule } from "./schedule.ts";

/** Float32 images or latents with a leading batch axis, for example `[batch, channels, height, width]`. */
export type Samples = HostTensor<"float32">;

/**
 * The reparameterization trick: a draw from N(mean, std²) as a function of standard normal noise, so that gradients
 * pass through mean and std (Kingma & Welling 2014, section 2.4).
 */
export function reparameterized(mean: Samples, std: number, noise: Samples): Samples {
  return weighted(
    mean,
    () => 1,
    noise,
    () => std,
  );
}

/**
 * One step of the forward process, q(x_t | x_{t−1}) = N(√(1 − β_t) x_{t−1}, β_t I) (Ho et al. 2020, eq. 2).
 * @param noise standard normal, of the shape of `x`
 */
export function forwardStep(schedule: NoiseSchedule, x: Samples, noise: Samples, t: number): Samples {
  const beta = schedule.betas[checkedTimestep(schedule, t)]!;
  return weighted(
    x,
    () => Math.sqrt(1 - beta),
    noise,
    () => Math.sqrt(beta),
  );
}

/**
 * Any number of forward steps at once, q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I) (Ho et al. 2020, eq. 4).
 * @param timesteps one for all images or one per image
 */
export function addNoise(
  schedule: NoiseSchedule,
  x0: Samples,
  noise: Samples,
  timesteps: number | ArrayLike<number>,
): Samples {
  const alphaBar = alphaBarPerImage(schedule, x0, timesteps);
  return weighted(
    x0,
    (n) => Math.sqrt(alphaBar(n)),
    noise,
    (n) => Math.sqrt(Math.fround(1 - alphaBar(n))),
  );
}

/** The velocity v = √ᾱ_t ε − √(1 − ᾱ_t) x_0, a training target (Salimans & Ho 2022, eq. 12 and appendix D). */
export function velocity(
  schedule: NoiseSchedule,
  x0: Samples,
  noise: Samples,
  timesteps: number | ArrayLike<number>,
): Samples {
  const alphaBar = alphaBarPerImage(schedule, x0, timesteps);
  return weighted(
    x0,
    (n) => -Math.sqrt(Math.fround(1 - alphaBar(n))),
    noise,
    (n) => Math.sqrt(alphaBar(n)),
  );
}

/** Where x_{t−1} lies, given x_t and x_0. */
export interface Posterior {
  /** μ̃ = x0Weight · x_0 + xWeight · x_t. */
  readonly x0Weight: number;
  readonly xWeight: number;
  /** β̃, the variance of q(x_{t−1} | x_t, x_0), at least 1e-20 so that it has a logarithm. */
  readonly variance: number;
  /** β of the step: of several training steps at once, when the previous timestep is not t − 1. */
  readonly beta: number;
}

/**
 * The posterior of the forward process q(x_{t−1} | x_t, x_0) = N(μ̃, β̃ I) (Ho et al. 2020, eq. 6–7):
 * μ̃ = (√ᾱ_{t−1} β_t x_0 + √α_t (1 − ᾱ_{t−1}) x_t) / (1 − ᾱ_t) and β̃ = β_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t).
 *
 * It holds for any earlier timestep in the place of t − 1, with α_t = ᾱ_t / ᾱ_previous.
 * @param previous the timestep stepped to; −1 (no noise) comes before 0
 */
export function posterior(schedule: NoiseSchedule, t: number, previous = t - 1): Posterior {
  return posteriorBetween(schedule.alphasCumprod[checkedTimestep(schedule, t)]!, alphaBarAt(schedule, previous));
}

/** `posterior` from ᾱ_t and ᾱ_previous. Rounded to float32 where torch's scalars are. */
export function posteriorBetween(alphaBar: number, alphaBarPrevious: number): Posterior {
  const f = Math.fround;
  const left = f(1 - alphaBar);
  const leftPrevious = f(1 - alphaBarPrevious);
  const alpha = f(alphaBar / alphaBarPrevious);
  const beta = f(1 - alpha);
  return {
    x0Weight: f(f(f(Math.sqrt(alphaBarPrevious)) * beta) / left),
    xWeight: f(f(f(Math.sqrt(alpha)) * leftPrevious) / left),
    variance: Math.max(f(f(leftPrevious / left) * beta), 1e-20),
    beta,
  };
}

/**
 * Which variance the reverse process has: `small` is β̃_t and `large` β_t (Ho et al. 2020, section 3.2), `learned` what
 * the network says, `learned_range` an interpolation between the logarithms of both (Nichol & Dhariwal 2021, eq. 15).
 */
export type ReverseVariance = "small" | "large" | "learned" | "learned_range";

/** The fixed variance of a reverse step; log variants of it are its logarithm and need no kind of their own. */
export function fixedVariance(kind: "small" | "large", { variance, beta }: Posterior): number {
  return kind === "small" ? variance : beta;
}

/**
 * log σ² = v log β_t + (1 − v) log β̃_t, where the network's output in [−1, 1] is v in [0, 1] (Nichol & Dhariwal 2021,
 * eq. 15).
 */
export function learnedRangeLogVariance(output: number, { variance, beta }: Posterior): number {
  const v = (output + 1) / 2;
  return v * Math.log(beta) + (1 - v) * Math.log(variance);
}

/** The standard deviation of each element of a reverse step whose variance the network predicts. */
export function learnedDeviation(kind: "learned" | "learned_range", output: Float32Array, at: Posterior): Float32Array {
  if (kind === "learned") return output.map(Math.sqrt);
  const minimum = Math.log(at.variance);
  const range = Math.log(at.beta) - minimum;
  return output.map((value) => Math.exp(0.5 * (minimum + ((value + 1) / 2) * range)));
}

/**
 * One step of the reverse process (Ho et al. 2020, Algorithm 2, line 4, by way of eq. 7): μ̃(x_t, x_0) + σ z.
 * @param std σ, one number or one per element; 0 in the last step
 */
export function reverseStep(
  x: Samples,
  x0: Samples,
  at: Posterior,
  std: number | Float32Array,
  noise: Samples | null,
): Samples {
  const out = new Float32Array(x.data.length);
  for (let i = 0; i < out.length; i++) out[i] = at.x0Weight * x0.data[i]! + at.xWeight * x.data[i]!;
  if (noise) {
    if (typeof std === "number") for (let i = 0; i < out.length; i++) out[i]! += std * noise.data[i]!;
    else for (let i = 0; i < out.length; i++) out[i]! += std[i]! * noise.data[i]!;
  }
  return float32(x.shape, out);
}

/** ᾱ at a timestep; 1 (no noise) before the first. */
export function alphaBarAt(schedule: NoiseSchedule, t: number): number {
  return t < 0 ? 1 : schedule.alphasCumprod[checkedTimestep(schedule, t)]!;
}

/** Throws unless `t` is a training timestep of the schedule. */
export function checkedTimestep(schedule: NoiseSchedule, t: number): number {
  if (!Number.isInteger(t) || t < 0 || t >= schedule.steps) {
    throw new UserError(`${t} is not a training timestep.`, {
      hint: `This schedule has the timesteps 0 to ${schedule.steps - 1}.`,
      field: "timestep",
    });
  }
  return t;
}

function alphaBarPerImage(
  schedule: NoiseSchedule,
  x: Samples,
  timesteps: number | ArrayLike<number>,
): (n: number) => number {
  if (typeof timesteps === "number") {
    const alphaBar = schedule.alphasCumprod[checkedTimestep(schedule, timesteps)]!;
    return () => alphaBar;
  }
  invariant(timesteps.length === x.shape[0], `${timesteps.length} timesteps given for ${x.shape[0]} images`);
  return (n) => schedule.alphasCumprod[checkedTimestep(schedule, timesteps[n]!)]!;
}

/** a(n) · x + b(n) · y with weights per image n. */
function weighted(x: Samples, a: (n: number) => number, y: Samples, b: (n: number) => number): Samples {
  invariant(x.data.length === y.data.length, `noise of ${y.data.length} elements given for ${x.data.length}`);
  const images = x.shape[0] ?? 1;
  const size = x.data.length / images;
  const out = new Float32Array(x.data.length);
  for (let n = 0; n < images; n++) {
    const ofX = Math.fround(a(n));
    const ofY = Math.fround(b(n));
    for (let i = n * size; i < (n + 1) * size; i++) out[i] = ofX * x.data[i]! + ofY * y.data[i]!;
  }
  return float32(x.shape, out);
}
