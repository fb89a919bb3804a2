/**
 * Allegory: diffusion models in TypeScript. This is what most programs need; every part of the house has a sub-path of
 * its own (`allegory/graph`, `allegory/diffusion`, `allegory/io` …) with all that it offers.
 */
export { UserError } from "./core/errors.ts";
export type { DType, HostTensor, Shape } from "./core/host-tensor.ts";
export { type Random, type RandomState, restored, seeded } from "./core/random.ts";
export {
  type BatchPosition,
  batches,
  type CaptionSource,
  type Dataset,
  type EmojiOptions,
  emoji,
  type ImageFolderOptions,
  idxFiles,
  imageFolder,
  type LatentDataset,
  latentBatches,
  measureScaling,
  mnistDigits,
  mnistLike,
  openLatents,
  type WebDatasetOptions,
  webDataset,
} from "./data/index.ts";
export {
  BETA_SCHEDULES,
  cosineSchedule,
  customSchedule,
  GRIDS,
  laplaceSchedule,
  linearSchedule,
  type NoiseSchedule,
  namedSampler,
  namedSchedule,
  SAMPLERS,
  type SamplerName,
  samplerFromConfig,
  scaledLinearSchedule,
  sigmoidSchedule,
} from "./diffusion/index.ts";
export {
  type AnimationOptions,
  copyPipelineFolder,
  decodeImage,
  encodeImage,
  type GridOptions,
  type HostImage,
  imageGrid,
  saveAnimation,
  saveGrid,
  saveImage,
  terminalImage,
} from "./io/index.ts";
export { unet2d, unet2dConfig } from "./models/index.ts";
export { adamw } from "./optim/index.ts";
export {
  type GeneratedImage,
  type GenerateOptions,
  type GenerationState,
  openSingleFile,
  pipeline,
  type SingleFile,
  type Task,
  type TextToImageOptions,
  type TextToImagePicture,
  type TextToImagePipeline,
  type TextToImageRequest,
  type TextToImageRequestInput,
  type TextToImageState,
  textToImageRequest,
  type UnconditionalOptions,
  type UnconditionalPipeline,
  type UnconditionalRequest,
  type UnconditionalRequestInput,
  unconditionalRequest,
  type WriteSingleFileOptions,
  writeSingleFileAsFolder,
} from "./pipelines/index.ts";
export {
  type EncodeOptions,
  encodeDataset,
  planTraining,
  type Recipe,
  type RecipeInput,
  readRecipe,
  recipeSchema,
  recordScaling,
  type TrainingEvent,
  type TrainingPlan,
  type TrainingResult,
  type TrainOptions,
  train,
  trainAutoencoder,
  trainTextToImage,
} from "./train/index.ts";
