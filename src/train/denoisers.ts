import { invariant, UserError } from "../core/errors.ts";
import type { HostTensor } from "../core/host-tensor.ts";
import type { Tensor } from "../graph/index.ts";
import type { ComponentToWrite } from "../io/index.ts";
import {
  type Config,
  dit,
  pixart,
  sd3,
  unet2d,
  unet2dCondition,
  unet2dConditionConfig,
  unet2dConfig,
  type Weighted,
} from "../models/index.ts";
import { group, type PartGroup } from "../nn/module.ts";
import type { Condition, ConditionShape, ConditionStates } from "./condition.ts";
import { weightsOf } from "./text-condition.ts";

/** A network that denoises under a condition, and how it is called. */
export interface Denoiser {
  /** Its folder in a pipeline, which also begins the names of its parameters: `unet` or `transformer`. */
  readonly part: "unet" | "transformer";
  readonly className: string;
  readonly network: Weighted;
  readonly config: Config;
  /**
   * What it predicts of noisy images [n, channels, h, w] at timesteps [n] (float32): the shape of the images.
   * @throws UserError for a condition that it was not built for
   */
  call(x: Tensor, timesteps: Tensor, condition: ConditionStates): Tensor;
}

/** What any denoiser is built for. */
export interface DenoiserInputs {
  /** What it sees of one image: [channels, height, width]. */
  readonly sample: readonly [channels: number, height: number, width: number];
  /** Default: none. */
  readonly condition?: ConditionShape;
}

/** A convolutional denoiser. */
export interface UNetOptions extends DenoiserInputs {
  /** Channels at each level; height and width halve from one level to the next. */
  readonly channels?: readonly number[];
  /** Residual blocks a level. */
  readonly layers?: number;
  /** Heights at which pixels attend to each other, and to the text. */
  readonly attentionAt?: readonly number[];
  readonly middleAttention?: boolean;
  readonly headWidth?: number;
  readonly scaleShift?: boolean;
  /** Transformer blocks at each place of attention; only with a text. */
  readonly transformerLayers?: number;
}

/**
 * A U-Net: with captions the one of latent diffusion, whose pixels attend to the text (Rombach et al. 2022, section 3.3:
 * `UNet2DConditionModel`); with class labels or without a condition `UNet2DModel`.
 */
export function unetDenoiser({
  sample,
  condition = {},
  middleAttention = true,
  transformerLayers = 1,
  ...shape
}: UNetOptions): Denoiser {
  const [channels, height, width] = sample;
  const common = {
    ...shape,
    size: height === width ? height : ([height, width] as const),
    imageChannels: channels,
    attentionInMiddle: middleAttention,
  };
  if (condition.text) {
    const { text } = condition;
    const network = unet2dCondition(unet2dConditionConfig({ ...common, textWidth: text.width, transformerLayers }));
    return {
      ...described(network, "unet", "UNet2DConditionModel"),
      call: (x, t, states) => network(x, t, needed(states, "sequence"), { contextMask: states.mask }),
    };
  }
  const network = unet2d(unet2dConfig({ ...common, classes: condition.labels }));
  return {
    ...described(network, "unet", "UNet2DModel"),
    call: (x, t, states) => network(x, t, condition.labels === undefined ? undefined : needed(states, "labels")),
  };
}

/** A transformer over patches. */
export interface TransformerOptions extends DenoiserInputs {
  /** Side of the square of pixels that is one token. */
  readonly patch?: number;
  readonly width?: number;
  /** Blocks. */
  readonly depth?: number;
  /** Default: heads of 64 channels, or one. */
  readonly heads?: number;
}

/**
 * A diffusion transformer. With class labels DiT itself (Peebles & Xie 2023: `DiTTransformer2DModel`, whose blocks are
 * modulated by timestep and class, adaLN-zero); with captions PixArt-α (Chen et al. 2024: `PixArtTransformer2DModel`, one
 * modulation by the timestep for all blocks, adaLN-single, and cross-attention to the text).
 */
export function ditDenoiser(options: TransformerOptions): Denoiser {
  const { condition = {}, sample } = options;
  const { common, width, depth, heads } = transformerShape(options);
  const own = {
    ...common,
    sample_size: Math.max(sample[1], sample[2]),
    num_layers: depth,
    num_attention_heads: heads,
    attention_head_dim: width / heads,
  };
  if (condition.text) {
    const network = pixart({
      ...own,
      cross_attention_dim: width,
      caption_channels: condition.text.width,
      use_additional_conditions: false,
    });
    return {
      ...described(network, "transformer", "PixArtTransformer2DModel"),
      call: (x, t, states) => network(x, t, needed(states, "sequence"), { contextMask: states.mask }),
    };
  }
  if (condition.labels === undefined) throw unconditional("DiT");
  // Its table has a row for "no class" after those of the classes.
  const network = dit({ ...own, num_embeds_ada_norm: condition.labels - 1 });
  return {
    ...described(network, "transformer", "DiTTransformer2DModel"),
    call: (x, t, states) => network(x, t, needed(states, "labels")),
  };
}

/**
 * The transformer of Stable Diffusion 3 (Esser et al. 2024, MM-DiT: `SD3Transformer2DModel`): tokens of image and text
 * attend to each other in one attention, and blocks are modulated by timestep and pooled text (adaLN-zero).
 */
export function mmditDenoiser(options: TransformerOptions): Denoiser {
  const { condition = {}, sample } = options;
  const { common, patch, width, depth, heads } = transformerShape(options);
  const { text } = condition;
  if (!text) throw unconditional("MM-DiT");
  if (text.pooledWidth === undefined) {
    throw new UserError("MM-DiT needs the text as one vector, which this text encoder does not give.", {
      hint: "Take a CLIP text encoder, or the denoiser dit or unet.",
      field: "denoiser",
    });
  }
  if (text.masked) {
    throw new UserError("MM-DiT cannot leave out tokens of a text, as this text encoder's padding needs.", {
      hint: "Take a CLIP text encoder, or the denoiser dit or unet.",
      field: "denoiser",
    });
  }
  const side = Math.max(sample[1], sample[2]);
  const network = sd3({
    ...common,
    sample_size: side,
    num_layers: depth,
    num_attention_heads: heads,
    attention_head_dim: width / heads,
    joint_attention_dim: text.width,
    caption_projection_dim: width,
    pooled_projection_dim: text.pooledWidth,
    pos_embed_max_size: side / patch,
    // Keeps the scores of queries and keys bounded while learning (the same, section 5.3.2).
    qk_norm: "rms_norm",
  });
  return {
    ...described(network, "transformer", "SD3Transformer2DModel"),
    call: (x, t, states) => network(x, t, needed(states, "sequence"), needed(states, "pooled")),
  };
}

/** The denoisers by the names that recipes give them. */
export const DENOISERS = { unet: unetDenoiser, dit: ditDenoiser, mmdit: mmditDenoiser } as const;
export type DenoiserName = keyof typeof DENOISERS;

/** A denoiser and what is trained together with it, as one network: parameter names begin with those of the folders. */
export function conditionedNetwork<Given>(
  denoiser: Pick<Denoiser, "part" | "network">,
  condition?: Pick<Condition<Given>, "parts">,
): PartGroup {
  return group({ ...condition?.parts, [denoiser.part]: denoiser.network });
}

/** A denoiser with trained weights as a folder of a pipeline, by the names that {@link conditionedNetwork} gives them. */
export function denoiserComponent(
  { part, className, config }: Denoiser,
  weights: ReadonlyMap<string, HostTensor>,
): Record<string, ComponentToWrite> {
  return { [part]: { className, library: "diffusers", config, tensors: weightsOf(part, weights) } };
}

function transformerShape({ sample, patch = 2, width = 256, depth = 8, heads }: TransformerOptions) {
  const [channels, height, columns] = sample;
  if (height % patch !== 0 || columns % patch !== 0) {
    throw new UserError(`Images of ${height}×${columns} cannot be cut into patches of ${patch}.`, {
      hint: "Both sides must be multiples of the patch.",
      field: "patch",
    });
  }
  const chosen = heads ?? Math.max(1, Math.round(width / 64));
  if (width % chosen !== 0 || width % 4 !== 0) {
    throw new UserError(`A transformer of width ${width} cannot have ${chosen} heads.`, {
      hint: "The width must be a multiple of the number of heads and of 4.",
      field: "width",
    });
  }
  const common = { in_channels: channels, out_channels: channels, patch_size: patch };
  return { common, patch, width, depth, heads: chosen };
}

function described(network: Weighted & { readonly config: Config }, part: Denoiser["part"], className: string) {
  return { part, className, network, config: network.config };
}

function needed<Name extends keyof ConditionStates>(states: ConditionStates, name: Name): Tensor {
  const state = states[name];
  invariant(state, `the condition gives no ${name}`);
  return state;
}

function unconditional(name: string): UserError {
  return new UserError(`${name} is trained with captions or classes; there are none here.`, {
    hint: "Give captions or classes, or take the denoiser unet.",
    field: "denoiser",
  });
}
