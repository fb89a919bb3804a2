import type { FamilyKind } from "../family.ts";
import { flux1 } from "./flux.ts";
import { pixart } from "./pixart.ts";
import { stableDiffusion } from "./stable-diffusion.ts";
import { stableDiffusion3 } from "./stable-diffusion-3.ts";

/** The kinds of models that draw from words, by the class of the network that denoises. */
export const FAMILIES: Readonly<Record<string, FamilyKind>> = {
  UNet2DConditionModel: stableDiffusion,
  PixArtTransformer2DModel: pixart,
  // What PixArt was once saved as.
  Transformer2DModel: pixart,
  SD3Transformer2DModel: stableDiffusion3,
  FluxTransformer2DModel: flux1,
};
