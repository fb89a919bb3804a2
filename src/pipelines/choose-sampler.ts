import { UserError } from "../core/errors.ts";
import {
  type ConfiguredSampler,
  type GridName,
  namedSampler,
  type SamplerName,
  type SamplingPlan,
  type SchedulerConfig,
  samplerFromConfig,
  tooLargeFirstStep,
} from "../diffusion/index.ts";

/**
 * The sampler of a request: the one of the model's scheduler configuration, or a named one for the same training.
 *
 * @param spread how a named sampler's steps are spread: one of `GRIDS`
 * @throws UserError for a spread of steps without a sampler, and for what the sampler cannot do
 */
export function chooseSampler(
  config: SchedulerConfig,
  name: SamplerName | undefined,
  spread: GridName | undefined,
): ConfiguredSampler {
  if (name !== undefined) return namedSampler(name, config, { spread });
  if (spread !== undefined) {
    throw new UserError(`The spread "${spread}" was given without a sampler.`, {
      hint: "Name the sampler it is for, for example euler.",
      field: "spread",
    });
  }
  return samplerFromConfig(config);
}

/**
 * What should be said of a run before it draws: undefined where there is nothing.
 *
 * @param name what the request calls the sampler
 * @param first the step that the run begins with
 */
export function noteOnPlan(plan: SamplingPlan, name: string | undefined, first?: number): string | undefined {
  const step = tooLargeFirstStep(plan, first);
  if (!step) return undefined;
  const [from, to] = [step.from, step.to].map((sigma) => Number(sigma.toPrecision(3)));
  const levels = `from σ ${from} to ${to}`;
  return `the first step of ${name ?? plan.className}, ${levels}, is too large for its second call (the schedule ends in nearly pure noise); euler-ancestral or dpm++2m draw better here.`;
}
