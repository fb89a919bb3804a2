import type { SchedulerConfig } from "../../../diffusion/index.ts";
import type { Defaults } from "../family.ts";

export interface FewStepDefaults extends Defaults {
  /** Steps of the whole way, of which an image's strength leaves a part. */
  readonly stepsFromImage?: number;
}

/**
 * What a network that was distilled to few steps is drawn with: its guidance is in its weights. Nothing but a model's
 * scheduler says that it was, and that not of all: Lightning and Hyper-SD come as weights for another model's folder.
 *
 * - `LCMScheduler`, `TCDScheduler`: consistency distillation with one guidance (Luo et al. 2023, Zheng et al. 2024).
 * - Euler's steps with trailing timesteps and ε: adversarial diffusion distillation (Sauer et al. 2023), as the published
 *   folders of SD-Turbo and SDXL-Turbo have it. Others have trailing timesteps with a terminal SNR of zero, which goes with v.
 *
 * @returns undefined for a network of many steps
 */
export function fewStepDefaults(scheduler: SchedulerConfig): FewStepDefaults | undefined {
  const { _class_name: name, timestep_spacing: spacing, prediction_type: kind = "epsilon" } = scheduler;
  if (name === "LCMScheduler" || name === "TCDScheduler") return { steps: 4, guidance: 1, strength: 0.8 };
  const euler = name === "EulerDiscreteScheduler" || name === "EulerAncestralDiscreteScheduler";
  const zeroSnr = scheduler.rescale_betas_zero_snr === true;
  return euler && spacing === "trailing" && kind === "epsilon" && !zeroSnr ? TURBO : undefined;
}

/** One step draws; half of the way from an image is one of two, as the model cards of both have it. */
const TURBO: FewStepDefaults = {
  steps: 1,
  stepsFromImage: 2,
  guidance: 1,
  strength: 0.5,
};
