import { UserError } from "../../core/errors.ts";
import { type FlowPath, flowPath } from "../flow-path.ts";
import type { NoiseSchedule } from "../schedule.ts";
import { planEuler, planEulerAncestral, planHeun, planLms, planMidpoint } from "./exploding.ts";
import { planDeis, planDpmMultistep, planDpmSinglestep, planSaSolver, planUnipc } from "./exponential.ts";
import { planImprovedPndm, planLcm, planTcd } from "./few-step.ts";
import { planFlowEuler, planFlowHeun } from "./flow.ts";
import { planConsistency, planEdmDpm, planEdmEuler, planEdmHeun } from "./karras.ts";
import {
  type ReadConfig,
  readConfig,
  SCHEDULER_OPTIONS,
  type SchedulerClass,
  type SchedulerConfig,
} from "./options.ts";
import type { PlanParts, PlanRequest, SamplingPlan } from "./plan.ts";
import { planDdim, planDdimInverse, planDdpm, planPndm } from "./preserving.ts";
import { predictionOf, scheduleOf } from "./shared.ts";

const PLANS: Readonly<Record<SchedulerClass, (config: ReadConfig, request: PlanRequest) => PlanParts>> = {
  DDPMScheduler: planDdpm,
  DDIMScheduler: planDdim,
  DDIMInverseScheduler: planDdimInverse,
  PNDMScheduler: planPndm,
  IPNDMScheduler: planImprovedPndm,
  EulerDiscreteScheduler: planEuler,
  EulerAncestralDiscreteScheduler: planEulerAncestral,
  HeunDiscreteScheduler: planHeun,
  KDPM2DiscreteScheduler: (config, request) => planMidpoint(config, request, false),
  KDPM2AncestralDiscreteScheduler: (config, request) => planMidpoint(config, request, true),
  LMSDiscreteScheduler: planLms,
  DPMSolverMultistepScheduler: planDpmMultistep,
  DPMSolverSinglestepScheduler: planDpmSinglestep,
  DEISMultistepScheduler: planDeis,
  UniPCMultistepScheduler: planUnipc,
  SASolverScheduler: planSaSolver,
  EDMEulerScheduler: planEdmEuler,
  EDMHeunScheduler: planEdmHeun,
  EDMDPMSolverMultistepScheduler: planEdmDpm,
  LCMScheduler: planLcm,
  TCDScheduler: planTcd,
  CMStochasticIterativeScheduler: planConsistency,
  FlowMatchEulerDiscreteScheduler: planFlowEuler,
  FlowMatchHeunDiscreteScheduler: planFlowHeun,
};

/** A sampler as a diffusers configuration describes it, before a number of steps is chosen. */
export interface ConfiguredSampler {
  readonly className: SchedulerClass;
  /** Every option, defaults filled in: what `schedulerConfig` writes. */
  readonly options: Readonly<Record<string, unknown>>;
  /** Options in the configuration that the class does not have; diffusers carries them along. */
  readonly ignored: readonly string[];
  /** Lays out the levels of a run. What the class does not take is a `UserError` that names it. */
  plan(request: PlanRequest): SamplingPlan;
}

/**
 * Reads any supported diffusers scheduler configuration (the content of scheduler_config.json).
 *
 * Throws a `UserError` that names an unknown class, an unknown option or a value that is not accepted.
 */
export function samplerFromConfig(config: SchedulerConfig): ConfiguredSampler {
  const read = readConfig(config);
  const { className, options, ignored } = read;
  return {
    className,
    options,
    ignored,
    plan(request) {
      const parts = PLANS[className](read, request);
      return {
        ...parts,
        className,
        ignored,
        sample: (network, x, run) => parts.run(parts.denoiser(network), x, run),
      };
    },
  };
}

/**
 * The configuration to write next to a model, as diffusers' `save_pretrained` has it: the class and every option.
 * Infinite numbers become strings, which `samplerFromConfig` reads back.
 */
export function schedulerConfig(sampler: Pick<ConfiguredSampler, "className" | "options">): SchedulerConfig {
  const written = Object.entries(sampler.options).map(([name, value]) => [
    name,
    typeof value === "number" && !Number.isFinite(value) ? String(value) : value,
  ]);
  return { _class_name: sampler.className, ...Object.fromEntries(written) };
}

/** What a network was trained for. */
export type TrainedFor =
  | { readonly schedule: NoiseSchedule; readonly predict: "noise" | "x0" | "v" }
  | { readonly schedule: FlowPath; readonly predict: "flow" };

/**
 * What the network beside a scheduler configuration was trained for, to train it further.
 * @throws UserError for configurations of EDM and of consistency models
 */
export function trainedFor(config: SchedulerConfig): TrainedFor {
  const read = readConfig(config);
  const { className, options } = read;
  if (className.startsWith("FlowMatch")) {
    return { schedule: flowPath({ steps: options.num_train_timesteps as number }), predict: "flow" };
  }
  if (!("beta_schedule" in options)) {
    throw new UserError(`A ${className} does not say on which noise schedule its network was trained.`, {
      hint: "Schedulers with a beta_schedule do, and those of flow matching.",
      field: "model",
    });
  }
  const predict = predictionOf(read, ["epsilon", "sample", "v_prediction"]);
  if (predict === "flow") throw new UserError(`A ${className} of a flow network cannot be trained with.`);
  return { schedule: scheduleOf(read), predict };
}

/** The defaults of a class, for listings. */
export function defaultOptions(className: SchedulerClass): Readonly<Record<string, unknown>> {
  return SCHEDULER_OPTIONS[className];
}
