import { UserError } from "../core/errors.ts";
import { autoencoderKL } from "./autoencoder-kl.ts";
import { autoencoderTiny } from "./autoencoder-tiny.ts";
import { clipText, clipTextWithProjection } from "./clip-text.ts";
import { controlNet } from "./controlnet.ts";
import { dit } from "./dit.ts";
import { flux } from "./flux.ts";
import { pixart } from "./pixart.ts";
import { sd3 } from "./sd3.ts";
import { t5Encoder } from "./t5-encoder.ts";
import { unet2d } from "./unet-2d.ts";
import { unet2dCondition } from "./unet-2d-condition.ts";
import { vqModel } from "./vq-model.ts";

export { type CircularAxes, withCircularPadding } from "../nn/circular-padding.ts";
/** Networks in diffusers' and transformers' layout: configuration, parameter names and weights. */
export { type Adapter, type AdapterLayer, type AdapterOptions, readAdapter } from "./adapter.ts";
export { type AutoencoderKL, type AutoencoderKLConfig, diagonalGaussian } from "./autoencoder-kl.ts";
export type { AutoencoderTiny, AutoencoderTinyConfig } from "./autoencoder-tiny.ts";
export type { ClipText, ClipTextConfig, TextStates } from "./clip-text.ts";
export { type Config, readConfig } from "./config.ts";
export type { ControlNet, ControlNetConfig, ControlNetInputs } from "./controlnet.ts";
export type { DiT, DiTConfig } from "./dit.ts";
export type { Flux, FluxConfig, FluxInputs } from "./flux.ts";
export { type AdapterUse, type Lora, lora } from "./lora.ts";
export { kohyaTensors, peftTensors } from "./lora-names.ts";
export { estimateMemory, type InferenceMemory, isLarge } from "./memory.ts";
export {
  isOriginalCheckpoint,
  type OriginalCheckpoint,
  type OriginalComponent,
  type OriginalOptions,
  type OriginalPart,
  originalCheckpoint,
} from "./original-checkpoint.ts";
export type { OriginalFamily } from "./original-config.ts";
export {
  type PatchDiscriminator,
  type PatchDiscriminatorOptions,
  patchDiscriminator,
  smallestSide,
} from "./patch-discriminator.ts";
export type { PeftConfig } from "./peft-config.ts";
export {
  linearName,
  type PerceptualDistance,
  perceptualDistance,
  SMALLEST_PERCEIVED,
  VGG16_WIDTHS,
} from "./perceptual-distance.ts";
export type { PixArt, PixArtConfig, PixArtInputs } from "./pixart.ts";
export {
  bindPacked,
  bindRounded,
  bytesPerRounded,
  linearWeights,
  packedBytes,
  type QuantizeOptions,
  quantizeMatrix,
} from "./quantize.ts";
export type { SD3, SD3Config } from "./sd3.ts";
export type { T5Encoder, T5EncoderConfig } from "./t5-encoder.ts";
export {
  bindTextEmbeddings,
  embeddingIds,
  readTextEmbedding,
  type TextEmbedding,
  textEmbeddingBinding,
} from "./text-embedding.ts";
export { inTiles, type TileOptions } from "./tiles.ts";
export type { UNet2D, UNet2DConfig } from "./unet-2d.ts";
export type { WayUp } from "./unet-2d-blocks.ts";
export type { UNet2DCondition, UNet2DConditionConfig, UNet2DConditionInputs } from "./unet-2d-condition.ts";
export { type UNet2DConditionShape, type UNet2DShape, unet2dConditionConfig, unet2dConfig } from "./unet-2d-shape.ts";
export type { VQModel, VQModelConfig } from "./vq-model.ts";
export {
  type Bind,
  bindWeights,
  initialize,
  matchWeights,
  type StoredWeight,
  type Weighted,
  type WeightSource,
} from "./weights.ts";
export {
  autoencoderKL,
  autoencoderTiny,
  clipText,
  clipTextWithProjection,
  controlNet,
  dit,
  flux,
  pixart,
  sd3,
  t5Encoder,
  unet2d,
  unet2dCondition,
  vqModel,
};

/** Every network by the class name that model folders give. */
export const networks = {
  AutoencoderKL: autoencoderKL,
  AutoencoderTiny: autoencoderTiny,
  CLIPTextModel: clipText,
  CLIPTextModelWithProjection: clipTextWithProjection,
  ControlNetModel: controlNet,
  DiTTransformer2DModel: dit,
  FluxTransformer2DModel: flux,
  PixArtTransformer2DModel: pixart,
  SD3Transformer2DModel: sd3,
  T5EncoderModel: t5Encoder,
  UNet2DConditionModel: unet2dCondition,
  UNet2DModel: unet2d,
  VQModel: vqModel,
} as const;

/** The name of a network's class. */
export type NetworkName = keyof typeof networks;

/**
 * The class of a `config.json`: diffusers' `_class_name`, or the first of transformers' `architectures`.
 *
 * @throws UserError where there is none, or none that is built
 */
export function networkName(config: Readonly<Record<string, unknown>>): NetworkName {
  const architectures = config.architectures;
  // DiT and PixArt were once saved under one name, told apart by their normalization.
  if (config._class_name === "Transformer2DModel") {
    if (config.norm_type === "ada_norm_zero") return "DiTTransformer2DModel";
    if (config.norm_type === "ada_norm_single") return "PixArtTransformer2DModel";
  }
  const name = config._class_name ?? (Array.isArray(architectures) ? architectures[0] : undefined);
  if (typeof name === "string" && Object.hasOwn(networks, name)) return name as NetworkName;
  const known = Object.keys(networks).join(", ");
  throw new UserError(
    name === undefined
      ? "The configuration names no class (neither _class_name nor architectures)."
      : `There is no network of class ${String(name)}; there are ${known}.`,
    { field: "_class_name" },
  );
}
