export {
  type Batch,
  type Batches,
  type BatchImages,
  type BatchOptions,
  batches,
} from "./batches.ts";
export { cacheFolder } from "./cache.ts";
export {
  type Dataset,
  fingerprint,
  imagesAt,
  type NetworkInput,
  picturesAt,
  requireFit,
  sliceOf,
  subsetOf,
} from "./dataset.ts";
export { type EmojiOptions, emoji } from "./emoji.ts";
export { findImages } from "./find-images.ts";
export type { CaptionSource } from "./folder-captions.ts";
export { type IdxArray, type IdxOptions, idxFiles, parseIdx, readIdx } from "./idx-files.ts";
export { type ImageFolderOptions, imageFolder } from "./image-folder.ts";
export { type LatentIndex, type LatentScaling, readLatentIndex, rescaleLatents } from "./latent-format.ts";
export { type LatentDescription, type LatentShard, type LatentWriter, latentWriter } from "./latent-writer.ts";
export {
  type LatentBatch,
  type LatentDataset,
  latentBatches,
  type MeasuredScaling,
  measureScaling,
  openLatents,
  openShards,
} from "./latents.ts";
export { mirror } from "./mirror.ts";
export {
  FASHION_CLASSES,
  type MnistOptions,
  mnistDigits,
  mnistLike,
  mnistPackageDigits,
} from "./named-sets.ts";
export type { BatchPosition } from "./shuffled.ts";
export { isTarName } from "./tar-shards.ts";
export { learnVocabulary } from "./vocabulary.ts";
export { type WebDatasetOptions, webDataset } from "./web-dataset.ts";
