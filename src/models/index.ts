/** Networks in diffusers' layout: configuration, parameter names and weights. */
export { type Config, readConfig } from "./config.ts";
export { type UNet2D, type UNet2DConfig, unet2d } from "./unet-2d.ts";
export { type UNet2DShape, unet2dConfig } from "./unet-2d-shape.ts";
export {
  type Bind,
  bindWeights,
  initialize,
  matchWeights,
  type StoredWeight,
  type Weighted,
  type WeightSource,
} from "./weights.ts";
