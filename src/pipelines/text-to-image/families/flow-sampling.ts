import { dynamicShiftMu, linspace, type SchedulerConfig } from "../../../diffusion/index.ts";
import { chooseSampler } from "../../choose-sampler.ts";
import type { Sampling } from "../family.ts";
import type { ResolvedRequest } from "../pipeline-types.ts";

/** How a model of flow matching is sampled. */
export interface FlowSamplingOptions {
  /** Patches of the picture, by which a dynamic shift goes. */
  readonly patches: number;
  /** FlowMatchEulerDiscreteScheduler goes from 1 to 1/steps before the shift, and not to the last training timestep. */
  readonly toOneStep?: boolean;
}

/**
 * The sampler of a request for a model of flow matching. Where the model's shift depends on the size of the picture
 * (Esser et al. 2024, section 5.3.2), the sampler is told of it; one that knows no dynamic shift gets the one of this size.
 */
export function flowSampling(
  { sampler: name, spread, steps }: ResolvedRequest,
  scheduler: SchedulerConfig,
  { patches, toOneStep = false }: FlowSamplingOptions,
): Sampling {
  const numbers = ["base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift"].flatMap((option) => {
    const value = scheduler[option];
    return typeof value === "number" ? [[option, value] as const] : [];
  });
  const mu = dynamicShiftMu(patches, Object.fromEntries(numbers));
  const dynamic = scheduler.use_dynamic_shifting === true;
  const knows =
    "use_dynamic_shifting" in chooseSampler({ ...scheduler, use_dynamic_shifting: false }, name, spread).options;
  // The same curve: e^μ stands where the shift does, and with a linear shift μ itself.
  const shift = scheduler.time_shift_type === "linear" ? mu : Math.exp(mu);
  const told = dynamic && !knows ? { ...scheduler, use_dynamic_shifting: false, shift } : scheduler;
  const sampler = chooseSampler(told, name, spread);
  const euler = ["FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler"].includes(sampler.className);
  return {
    sampler,
    levels: {
      ...(dynamic && knows ? { mu } : {}),
      ...(toOneStep && euler ? { sigmas: linspace(1, 1 / steps, steps) } : {}),
    },
  };
}
