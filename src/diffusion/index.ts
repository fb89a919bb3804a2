export * from "./bound.ts";
export { groupOrders } from "./config/exponential.ts";
export { dynamicShiftMu } from "./config/flow.ts";
export {
  type ConfiguredSampler,
  defaultOptions,
  samplerFromConfig,
  schedulerConfig,
  type TrainedFor,
  trainedFor,
} from "./config/index.ts";
export { notesOnConfig } from "./config/notes.ts";
export { isSchedulerClass, parseSchedulerConfig, type SchedulerClass, type SchedulerConfig } from "./config/options.ts";
export type { PlanRequest, RunOptions, SamplingPlan } from "./config/plan.ts";
export * from "./denoiser.ts";
export * from "./editing.ts";
export * from "./first-step.ts";
export * from "./flow-path.ts";
export * from "./grids.ts";
export * from "./guidance.ts";
export * from "./named.ts";
export * from "./noise-source.ts";
export * from "./offset-noise.ts";
export * from "./prediction.ts";
export * from "./process.ts";
export * from "./sampler-table.ts";
export * from "./samplers/ddim.ts";
export * from "./samplers/ddpm.ts";
export * from "./samplers/deis.ts";
export * from "./samplers/dpm-solver.ts";
export * from "./samplers/dpm-solver-sde.ts";
export * from "./samplers/euler.ts";
export * from "./samplers/few-step.ts";
export * from "./samplers/heun.ts";
export * from "./samplers/linear-multistep.ts";
export * from "./samplers/midpoint.ts";
export * from "./samplers/pndm.ts";
export * from "./samplers/sa-solver.ts";
export * from "./samplers/sampler.ts";
export * from "./samplers/unipc.ts";
export * from "./schedule.ts";
export * from "./timestep-sampling.ts";
export * from "./weighting.ts";
