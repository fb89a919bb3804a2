export { type Append, writeAtomically, writeFileAtomically } from "./atomic-file.ts";
export { blurImage } from "./blur.ts";
export { type ChosenVariants, chosenVariants, withoutVariant } from "./chosen-variants.ts";
export { type ClipVocabulary, clipVocabulary, UNMERGED, WORD_END, writeClipTokenizer } from "./clip-vocabulary.ts";
export { type ContactSheetOptions, contactSheet } from "./contact-sheet.ts";
export { type CopyOptions, copyModelFolder, copyPipelineFolder } from "./copy-pipeline.ts";
export {
  bfloat16Bits,
  bfloat16Value,
  convertFloat,
  type Float8DType,
  type FloatDType,
  float16Bits,
  float16Value,
  isFloat,
} from "./half-precision.ts";
export { type HeatMapOptions, heatMap } from "./heat-map.ts";
export {
  asGray,
  asRgb,
  type HostImage,
  hostImage,
  imagesFromBytes,
  imagesFromTensor,
  tensorFromImages,
} from "./host-image.ts";
export { type HubOptions, type HubProgress, hubAddition, hubFile, hubPlace, modelFolder } from "./hub.ts";
export { UNUSED_COMPONENTS } from "./hub-files.ts";
export { type AnimationOptions, type GridOptions, imageGrid, saveAnimation, saveGrid } from "./image-grid.ts";
export {
  type DecodedImage,
  type DecodeOptions,
  decodeImage,
  type EncodeOptions,
  encodeImage,
  type ImageFormat,
  type ImageSize,
  imageText,
  resizeImage,
  saveImage,
} from "./images.ts";
export { type JsonObject, readJsonObject, writeJsonObject } from "./json-file.ts";
export {
  type ComponentToWrite,
  isPipelineFolder,
  type ModelFolder,
  type ModelToWrite,
  type PipelineComponent,
  type PipelineFolder,
  readModelFolder,
  readPipelineFolder,
  readSchedulerConfig,
  type WriteModelOptions,
  writeDdpmPipeline,
  writeModelFolder,
  writePipelineFolder,
} from "./model-folder.ts";
export {
  type ModelWeights,
  openWeightFile,
  openWeights,
  type PlacedWeight,
  placedWeights,
  type WeightLocation,
  weightVariants,
} from "./model-weights.ts";
export { withNewWords } from "./new-words.ts";
export { assemblePatches, splitPatches } from "./patches.ts";
export { linePlot, type PlotOptions, type Series, savePlot } from "./plot.ts";
export { pngText } from "./png-text.ts";
export { resizePlanes } from "./resize-planes.ts";
export {
  type LazyTensor,
  readSafetensors,
  readSafetensorsHeader,
  readTensor,
  type SafetensorsFile,
  writeSafetensors,
} from "./safetensors.ts";
export {
  encodeSafetensors,
  parseSafetensors,
  parseSafetensorsHeader,
  type SafetensorsHeader,
  type TensorDescription,
  type TensorEntry,
} from "./safetensors-format.ts";
export { type TerminalImageOptions, terminalImage } from "./terminal-image.ts";
export { clipTokenizerOf, type EncodedPrompt, openTokenizer, type TextTokenizer } from "./tokenizer.ts";
