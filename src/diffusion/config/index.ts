import { UserError } from "../../core/errors.ts";
import { type FlowPath, flowPath } from "../flow-path.ts";
import type { NoiseSchedule } from "../schedule.ts";
import { planDpmSde, planEuler, planEulerAncestral, planHeun, planLms, planMidpoint } from "./exploding.ts";
import { planDeis, planDpmMultistep, planDpmSinglestep, planSaSolver, planUnipc } from "./exponential.ts";
import { planImprovedPndm, planLcm, planTcd } from "./few-step.ts";
import { planFlowEuler, planFlowHeun } from "./flow.ts";
import { planDpmInverse } from "./inverse.ts";
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
  DDPMParallelScheduler: planDdpm,
  DDIMScheduler: planDdim,
  DDIMParallelScheduler: planDdim,
  DDIMInverseScheduler: planDdimInverse,
  PNDMScheduler: planPndm,
  IPNDMScheduler: planImprovedPndm,
  EulerDiscreteScheduler: planEuler,
  EulerAncestralDiscreteScheduler: planEulerAncestral,
  HeunDiscreteScheduler: planHeun,
  KDPM2DiscreteScheduler: (config, request) => planMidpoint(config, request, false),
  KDPM2AncestralDiscreteScheduler: (config, request) => planMidpoint(config, request, true),
  DPMSolverSDEScheduler: planDpmSde,
  LMSDiscreteScheduler: planLms,
  DPMSolverMultistepScheduler: planDpmMultistep,
  DPMSolverMultistepInverseScheduler: planDpmInverse,
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
  FlowMatchLCMScheduler: planFlowEuler,
};

/** A sampler as a diffusers configuration describes it, before a number of steps is chosen. */
export interface ConfiguredSampler {
  readonly className: SchedulerClass;
  /** Every option, defaults filled in: what `schedulerConfig` writes. */
  readonly options: Readonly<Record<string, unknown>>;
  /** Options in the configuration that the class does not have; diffusers carries them along. */
  readonly ignored: readonly string[];
  /** A spread of the steps that no option stands for (`namedSampler`): it is not in the configuration. */
  readonly spread?: string;
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
      const run: SamplingPlan["run"] = (denoise, x, options) => {
        checkedFirst(options?.first, parts.steps);
        return parts.run(denoise, x, options);
      };
      return {
        ...parts,
        className,
        ignored,
        run,
        sample: (network, x, options) => run(parts.denoiser(network), x, options),
      };
    },
  };
}

/** The step a run begins with; with none left, it yields nothing. */
function checkedFirst(first: number | undefined, steps: number): void {
  if (first === undefined || (Number.isInteger(first) && first >= 0 && first <= steps)) return;
  throw new UserError(`A run of ${steps} steps cannot begin with step ${first}.`, {
    hint: `Give a whole number from 0 to ${steps}.`,
    field: "first",
  });
}

/**
 * The configuration to write next to a model, as diffusers' `save_pretrained` has it: the class and every option.
 * @throws UserError for a spread that diffusers has no option for, and for a class that it does not have
 */
export function schedulerConfig(sampler: Pick<ConfiguredSampler, "className" | "options" | "spread">): SchedulerConfig {
  if (sampler.spread !== undefined) {
    throw new UserError(`A scheduler configuration cannot say the spread "${sampler.spread}".`, {
      hint: "Choose one of linspace, leading, trailing, karras, exponential and beta.",
      field: "spread",
    });
  }
  if (sampler.className === "EDMHeunScheduler") {
    throw new UserError("Python's diffusers has no EDMHeunScheduler.", {
      hint: "Write the configuration of EDMEulerScheduler, which samples the same network.",
      field: "sampler",
    });
  }
  return { _class_name: sampler.className, ...sampler.options };
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
