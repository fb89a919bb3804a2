import type { Denoiser, Network } from "../denoiser.ts";
import type { NoiseSource } from "../noise-source.ts";
import type { Level } from "../prediction.ts";
import type { Samples } from "../process.ts";
import type { Churn } from "../samplers/euler.ts";
import type { SamplerRun } from "../samplers/sampler.ts";
import type { SchedulerClass } from "./options.ts";

/** What one run asks of a configured sampler. Which of these a sampler takes depends on its class. */
export interface PlanRequest {
  readonly steps?: number;
  /** Custom timesteps in falling order, among those of training, in the place of a number of steps. */
  readonly timesteps?: readonly number[];
  /**
   * Custom σ in falling order, in the place of a number of steps. EulerDiscreteScheduler takes the one to end at too, 0
   * usually; flow matching takes times up to 1; EDMEulerScheduler takes rising places on its grid, 0 being the largest σ.
   */
  readonly sigmas?: readonly number[];
  /** The logarithm of the resolution-dependent shift of flow matching. */
  readonly mu?: number;
  /** How many steps an LCM or TCD was distilled with. */
  readonly originalSteps?: number;
  /** Where LCM and TCD start, as a share of their timesteps. Others start late by `SamplingRun.first`. */
  readonly strength?: number;
  /** DDIM: share of fresh noise, from 0 to 1. TCD: γ. */
  readonly eta?: number;
  /** DDIM: uses the noise that belongs to the clipped x0. */
  readonly clippedNoise?: boolean;
  readonly churn?: Churn;
  /** LMS: how many slopes are used. */
  readonly order?: number;
}

export interface RunOptions {
  /** Where stochastic samplers draw; one source per image keeps an image independent of its batch. */
  readonly noise?: NoiseSource;
  /** The step to begin with, from 0; see `firstStep`. */
  readonly first?: number;
  /**
   * PNDM: a late start as diffusers' pipelines make it. They count the twofold call of the first step as a timestep, so x
   * is to be at `timesteps[first]`, one step earlier than the others, and the first step has two calls again.
   */
  readonly restart?: boolean;
}

/** A sampler with its levels laid out: everything about a run but the network and the numbers. */
export interface SamplingPlan {
  readonly className: SchedulerClass;
  /** How many steps; each yields a state. */
  readonly steps: number;
  /** What the network is told at each of its calls, in order. */
  readonly timesteps: readonly number[];
  /** σ as diffusers lists them, the final one included; null where the class has none. */
  readonly sigmas: Float32Array | null;
  /** The standard deviation of the x to start with. */
  readonly initNoiseSigma: number;
  /** Whether the sampler draws noise. */
  readonly stochastic: boolean;
  /** Options of the configuration that its class does not have. */
  readonly ignored: readonly string[];
  /** The level a step starts from: x there is α x0 + σ noise. */
  levelBefore(step: number): Level;
  /** α x0 + σ noise at a timestep of the plan (of training, where the class has no σ): the start of image-to-image. */
  addNoise(x0: Samples, noise: Samples, timestep: number): Samples;
  /** The raw network as this sampler's denoiser: input scaling, kind of prediction, clipping. */
  denoiser(network: Network): Denoiser;
  /** Runs the sampler on a denoiser, which may be wrapped further. */
  run(denoise: Denoiser, x: Samples, options?: RunOptions): SamplerRun;
  /** `run` of `denoiser(network)`. */
  sample(network: Network, x: Samples, options?: RunOptions): SamplerRun;
}

/** What each class says about its runs; the rest of a plan is alike for all. */
export type PlanParts = Omit<SamplingPlan, "sample" | "className" | "ignored">;
