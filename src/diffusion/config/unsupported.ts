import { UserError } from "../../core/errors.ts";

const TOKENS = "it samples discrete tokens, not a diffusion of numbers";
const VIDEO = "it is a sampler of video models";

/** Scheduler classes of diffusers that are not read, and why. */
const REASONS: Readonly<Record<string, string>> = {
  AmusedScheduler: TOKENS,
  BlockRefinementScheduler: TOKENS,
  DiscreteDDIMScheduler: TOKENS,
  EntropyBoundScheduler: TOKENS,
  VQDiffusionScheduler: TOKENS,
  CogVideoXDDIMScheduler: VIDEO,
  CogVideoXDPMScheduler: VIDEO,
  HeliosScheduler: VIDEO,
  HeliosDMDScheduler: VIDEO,
  LTXEulerAncestralRFScheduler: VIDEO,
  MiniMaxH3Scheduler: VIDEO,
  CosineDPMSolverMultistepScheduler: "it is a sampler of audio models",
  ConsistencyDecoderScheduler: "it belongs to a decoder of latents that is not built",
  DDPMWuerstchenScheduler: "it belongs to the networks of Würstchen, which are not built",
  FlowMapEulerDiscreteScheduler: "its networks are told two times, where a step starts and where it ends",
  KarrasVeScheduler: "diffusers has given it up; EDMHeunScheduler is the method, with Karras et al.'s preconditioning",
  RePaintScheduler: "it is in-painting by going back and forth; give a mask to another sampler",
  SCMScheduler: "its networks, those of SANA-Sprint, predict on a trigonometric path",
  ScoreSdeVeScheduler: "its networks predict the score of Song et al.'s variance-exploding process",
  ScoreSdeVpScheduler: "diffusers has given it up; its networks predict the score of Song et al.'s continuous process",
  UnCLIPScheduler: "it belongs to the networks of Karlo, which are not built; its method is DDPMScheduler's",
};

/** The classes of diffusers that are known and not read. */
export const UNSUPPORTED_SCHEDULERS: readonly string[] = Object.keys(REASONS);

/** What is wrong with a scheduler class that is not read. */
export function unsupportedScheduler(className: unknown, supported: readonly string[]): UserError {
  const name = typeof className === "string" ? className : "";
  const field = "_class_name";
  if (Object.hasOwn(REASONS, name)) {
    return new UserError(`The scheduler class "${name}" of diffusers is not supported: ${REASONS[name]}.`, {
      hint: `Supported are ${supported.join(", ")}.`,
      field,
    });
  }
  const plain = name.replace(/^Flax/, "");
  if (plain !== name && supported.includes(plain)) {
    return new UserError(`The scheduler class "${name}" of diffusers for JAX is not supported.`, {
      hint: `Its options are those of ${plain}: name that as _class_name.`,
      field,
    });
  }
  return new UserError(`The scheduler class ${JSON.stringify(className)} is not supported.`, {
    hint: `Supported are ${supported.join(", ")}.`,
    field,
  });
}
