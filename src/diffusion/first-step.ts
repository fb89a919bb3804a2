import type { SchedulerClass } from "./config/options.ts";
import type { SamplingPlan } from "./config/plan.ts";

/** The noise levels, σ per unit of signal, that a step goes from and to. */
export interface StepSize {
  readonly from: number;
  readonly to: number;
}

/**
 * Solvers in σ that call the network a second time where a step has brought them, and how many times smaller σ may become in
 * a step from nearly pure noise. Measured on the demo's digits (docs/choose-a-sampler.md): with larger steps they draw worse
 * than solvers of one call with the same calls. The midpoint, halfway in log σ, bears more: 10 steps from σ = 20,291.
 */
const LARGEST_STEP: { readonly [name in SchedulerClass]?: number } = {
  HeunDiscreteScheduler: 4,
  KDPM2DiscreteScheduler: 4000,
  KDPM2AncestralDiscreteScheduler: 4,
};

/** Above the largest σ of published schedules with noise left at their end: 157 of DDPM's linear one, 14.6 of Stable Diffusion's. */
const NEARLY_PURE_NOISE = 200;

/**
 * The first step of a plan where it is too large for a solver that calls twice in a step; undefined where it is not.
 *
 * In σ, Heun's step is x + (σ₁ − σ₀) (ε₀ + ε₁) / 2 (Karras et al. 2022, Algorithm 1): what the network gets wrong by δ
 * moves x by about δ σ₀. From nearly pure noise, where a cosine schedule ends (σ₀ is 20,291 with 1,000 timesteps), to the σ₁
 * of a few steps that is far more than the noise which is left to correct it. Solvers of one call begin there with x₀ alone.
 *
 * @param first the step that the run begins with
 */
export function tooLargeFirstStep(plan: SamplingPlan, first = 0): StepSize | undefined {
  const largest = LARGEST_STEP[plan.className];
  // The last step goes to σ = 0 with one call.
  if (largest === undefined || first >= plan.steps - 1) return undefined;
  const ratio = ({ alpha, sigma }: { readonly alpha: number; readonly sigma: number }) => sigma / alpha;
  const [from, to] = [ratio(plan.levelBefore(first)), ratio(plan.levelBefore(first + 1))];
  return from > NEARLY_PURE_NOISE && from > largest * to ? { from, to } : undefined;
}
