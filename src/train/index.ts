/** Training: recipes, the step as one graph, runs and their folders. */
export * from "./checkpoint.ts";
export { datasetOf } from "./dataset.ts";
export { imageDenoisingTask } from "./image-denoising.ts";
export { schedulerConfigOf, writeModel } from "./image-model-folder.ts";
export { networkFor, scheduleOf, type TrainedNetwork } from "./network.ts";
export * from "./objective.ts";
export { type MemoryEstimate, planTraining, type TimeEstimate, type TrainingPlan } from "./plan.ts";
export * from "./recipe.ts";
export * from "./replicated-step.ts";
export * from "./run.ts";
export { readMetrics, runPaths } from "./run-folder.ts";
export type { RunOptions } from "./run-options.ts";
export * from "./step.ts";
export * from "./step-runner.ts";
export type { Drawn, Preview, StepLoss, TaskData, TaskFeeds, TrainedWeights, TrainingTask } from "./task.ts";
export * from "./train.ts";
export { openTrainer, type StepMetrics, type Trainer } from "./trainer.ts";
