/** Training: recipes, the step as one graph, runs and their folders. */
export { autoencoderTask, type SplitData, trainAutoencoder } from "./autoencoder.ts";
export {
  type AutoencoderRecipe,
  type AutoencoderRecipeInput,
  autoencoderRecipeSchema,
  readAutoencoderRecipe,
} from "./autoencoder-recipe.ts";
export { type AutoencoderSession, openAutoencoder } from "./autoencoder-session.ts";
export * from "./checkpoint.ts";
export * from "./condition.ts";
export { datasetOf } from "./dataset.ts";
export * from "./denoisers.ts";
export {
  type EncodeOptions,
  type EncodeProgress,
  type EncodeResult,
  encodeDataset,
  recordScaling,
  type ScalingSource,
} from "./encode.ts";
export { type EncodeControl, type EncodeInput, encode, encodeSchema } from "./encode-recipe.ts";
export { type FineTuneOptions, fineTune } from "./fine-tune.ts";
export {
  type FineTuneRecipe,
  type FineTuneRecipeInput,
  fineTuneRecipeSchema,
  readFineTuneRecipe,
} from "./fine-tune-recipe.ts";
export { type FrozenTextOptions, frozenText } from "./frozen-text.ts";
export { imageDenoisingTask } from "./image-denoising.ts";
export { writeModel } from "./image-model-folder.ts";
export { networkFor, type TrainedNetwork } from "./network.ts";
export { scheduleOf, schedulerConfigOf } from "./noise-fields.ts";
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
export * from "./text-condition.ts";
export {
  type TextToImageRecipe,
  type TextToImageRecipeInput,
  textToImageRecipeSchema,
} from "./text-to-image-recipe.ts";
export * from "./train.ts";
export {
  type TextToImageControl,
  type TextToImageEvent,
  type TextToImageStage,
  trainTextToImage,
} from "./train-text-to-image.ts";
export { openTrainer, type StepMetrics, type Trainer } from "./trainer.ts";
