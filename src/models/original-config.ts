import { UserError } from "../core/errors.ts";
import type { Shape } from "../core/host-tensor.ts";
import type { Config } from "./config.ts";

// Original checkpoints have no config.json: what a network is can be told from its weights' names and shapes, and a few
// numbers (heads, groups) from the published models of the family.

/** The shape of a weight by its original name within a component, or undefined where there is none. */
export type ShapeOf = (name: string) => Shape | undefined;

/** How wide an attention head of 2.x and XL is. 1.x has eight heads at every width instead. */
const HEAD_WIDTH = 64;

/** Which Stable Diffusion: by the width of the text that the U-Net attends to. */
export type OriginalFamily = "1.x" | "2.x" | "XL" | "XL refiner";

/** The family of a U-Net by the width of its text: 768, 1024, 2048 or 1280. Others are told by their additional conditions. */
export function familyOf(shape: ShapeOf): OriginalFamily {
  const width = textWidth(shape);
  if (shape("label_emb.0.0.weight") && width !== 1024) return width === 1280 ? "XL refiner" : "XL";
  return linearProjection(shape) ? "2.x" : "1.x";
}

const textWidth = (shape: ShapeOf) =>
  needed(shape, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", "U-Net")[1]!;

const linearProjection = (shape: ShapeOf) => needed(shape, "middle_block.1.proj_in.weight", "U-Net").length === 2;

/** One level of the way down. */
interface Level {
  channels: number;
  layers: number;
  /** Transformer layers after each residual block; 0: no attention. */
  depth: number;
}

/**
 * The configuration of an original U-Net.
 *
 * @param given fields that are known otherwise; they win
 * @throws UserError for what is no U-Net of this kind, and where the number of heads cannot be known
 */
export function unetConfig(shape: ShapeOf, family: OriginalFamily, given: Config = {}): Config {
  const levels = levelsOf(shape);
  const middle = count((i) => `middle_block.1.transformer_blocks.${i}.norm1.weight`, shape);
  const last = levels.at(-1)!;
  if (last.depth > 0 && last.depth !== middle) {
    throw new UserError(
      `The middle of this U-Net has ${middle} transformer layers, the block before it ${last.depth}; networks like that are not built.`,
    );
  }
  const depths = levels.map(({ depth }, i) => depth || (i === levels.length - 1 ? middle : 1));
  const attends = levels.map(({ depth }) => depth > 0);
  const channels = levels.map((level) => level.channels);
  const label = shape("label_emb.0.0.weight");
  const xl = family === "XL" || family === "XL refiner";
  // Of latent consistency models (Luo et al. 2023): how wide the embedding of the guidance is.
  const told = shape("time_embed.cond_proj.weight")?.[1];
  return {
    _class_name: "UNet2DConditionModel",
    sample_size: xl ? 128 : family === "2.x" ? 96 : 64,
    in_channels: needed(shape, "input_blocks.0.0.weight", "U-Net")[1]!,
    out_channels: needed(shape, "out.2.weight", "U-Net")[0]!,
    block_out_channels: channels,
    layers_per_block: same(levels.map(({ layers }) => layers)),
    down_block_types: attends.map((yes) => (yes ? "CrossAttnDownBlock2D" : "DownBlock2D")),
    up_block_types: [...attends].reverse().map((yes) => (yes ? "CrossAttnUpBlock2D" : "UpBlock2D")),
    transformer_layers_per_block: same(depths),
    cross_attention_dim: textWidth(shape),
    use_linear_projection: linearProjection(shape),
    ...(given.attention_head_dim === undefined ? { attention_head_dim: heads(channels, family) } : {}),
    ...(xl
      ? {
          addition_embed_type: "text_time",
          addition_time_embed_dim: 256,
          projection_class_embeddings_input_dim: needed(shape, "label_emb.0.0.weight", "U-Net")[1]!,
        }
      : label
        ? { class_embed_type: "projection", projection_class_embeddings_input_dim: label[1]! }
        : {}),
    ...(told === undefined ? {} : { time_cond_proj_dim: told }),
    ...given,
  };
}

function levelsOf(shape: ShapeOf): Level[] {
  const levels: Level[] = [];
  let level: Level = { channels: 0, layers: 0, depth: 0 };
  for (let n = 1; ; n++) {
    const block = `input_blocks.${n}`;
    const convolution = shape(`${block}.0.out_layers.3.weight`);
    if (convolution) {
      level.channels = convolution[0]!;
      level.layers++;
      level.depth = count((i) => `${block}.1.transformer_blocks.${i}.norm1.weight`, shape);
    } else {
      if (level.layers > 0) levels.push(level);
      level = { channels: 0, layers: 0, depth: 0 };
      if (!shape(`${block}.0.op.weight`)) break;
    }
  }
  if (levels.length === 0) throw new UserError("The U-Net has no blocks (input_blocks.1.0.out_layers.3.weight).");
  return levels;
}

function heads(channels: readonly number[], family: OriginalFamily): number | number[] {
  if (family === "1.x") return 8;
  const wrong = channels.find((width) => width % HEAD_WIDTH !== 0);
  if (wrong === undefined) return channels.map((width) => width / HEAD_WIDTH);
  throw new UserError(
    `The number of attention heads cannot be told from this U-Net: ${wrong} channels are no multiple of ${HEAD_WIDTH}.`,
    { hint: "Give attention_head_dim in its configuration.", field: "attention_head_dim" },
  );
}

/** How latents are scaled, as the models' own configurations have it. */
const SCALINGS = {
  stable: { scaling_factor: 0.18215 },
  xl: { scaling_factor: 0.13025 },
  flux: { scaling_factor: 0.3611, shift_factor: 0.1159 },
};

/** Latent channels of the autoencoders of Stable Diffusion 3 and FLUX.1, which are built alike. */
const WIDE_LATENTS = 16;
const latentChannels = (shape: ShapeOf) => needed(shape, "decoder.conv_in.weight", "autoencoder")[1]!;

/** What is assumed of an autoencoder alone, whose file does not say how latents are scaled. */
export function scalingNote(shape: ShapeOf): string {
  return latentChannels(shape) === WIDE_LATENTS
    ? "An autoencoder alone does not say how its latents are scaled; taken are the scaling_factor 0.3611 and shift_factor 0.1159 of FLUX.1 (Stable Diffusion 3 has 1.5305 and 0.0609)."
    : "An autoencoder alone does not say its scaling_factor; taken is 0.18215 (XL has 0.13025).";
}

/** The configuration of an original autoencoder. */
export function vaeConfig(shape: ShapeOf, family: OriginalFamily | undefined, given: Config = {}): Config {
  const channels: number[] = [];
  let layers = 0;
  for (let level = 0; shape(`encoder.down.${level}.block.0.conv2.weight`); level++) {
    layers = count((i) => `encoder.down.${level}.block.${i}.conv2.weight`, shape);
    channels.push(shape(`encoder.down.${level}.block.${layers - 1}.conv2.weight`)![0]!);
  }
  const xl = family === "XL" || family === "XL refiner";
  const latent = latentChannels(shape);
  const scaling = xl ? SCALINGS.xl : !family && latent === WIDE_LATENTS ? SCALINGS.flux : SCALINGS.stable;
  return {
    _class_name: "AutoencoderKL",
    sample_size: family === "XL" ? 1024 : family === "2.x" ? 768 : 512,
    in_channels: needed(shape, "encoder.conv_in.weight", "autoencoder")[1]!,
    out_channels: needed(shape, "decoder.conv_out.weight", "autoencoder")[0]!,
    latent_channels: latent,
    block_out_channels: channels,
    layers_per_block: layers,
    down_block_types: channels.map(() => "DownEncoderBlock2D"),
    up_block_types: channels.map(() => "UpDecoderBlock2D"),
    use_quant_conv: shape("quant_conv.weight") !== undefined,
    use_post_quant_conv: shape("post_quant_conv.weight") !== undefined,
    // A factor that is given comes with its own shift, or with none.
    ...(given.scaling_factor === undefined ? scaling : {}),
    ...given,
  };
}

/** The configuration of OpenAI's CLIP text encoder as transformers names its weights. */
export function clipConfig(shape: ShapeOf, given: Config = {}): Config {
  const prefix = shape("text_model.final_layer_norm.weight") ? "text_model." : "";
  const [vocabulary, width] = needed(shape, `${prefix}embeddings.token_embedding.weight`, "text encoder");
  return {
    architectures: ["CLIPTextModel"],
    vocab_size: vocabulary!,
    hidden_size: width!,
    intermediate_size: needed(shape, `${prefix}encoder.layers.0.mlp.fc1.weight`, "text encoder")[0]!,
    num_hidden_layers: count((i) => `${prefix}encoder.layers.${i}.mlp.fc1.weight`, shape),
    num_attention_heads: Math.max(1, Math.floor(width! / HEAD_WIDTH)),
    max_position_embeddings: needed(shape, `${prefix}embeddings.position_embedding.weight`, "text encoder")[0]!,
    projection_dim: width!,
    hidden_act: "quick_gelu",
    // As published: the end is then the token with the highest id.
    eos_token_id: 2,
    ...given,
  };
}

/**
 * The configuration of an OpenCLIP text encoder.
 *
 * @param unused how many layers at the end are not used: 2.x takes the states of the last but one
 */
export function openClipConfig(
  shape: ShapeOf,
  { projected, unused }: { projected: boolean; unused: number },
  given: Config = {},
): Config {
  const [vocabulary, width] = needed(shape, "token_embedding.weight", "text encoder");
  return {
    architectures: [projected ? "CLIPTextModelWithProjection" : "CLIPTextModel"],
    vocab_size: vocabulary!,
    hidden_size: width!,
    intermediate_size: needed(shape, "transformer.resblocks.0.mlp.c_fc.weight", "text encoder")[0]!,
    num_hidden_layers: count((i) => `transformer.resblocks.${i}.mlp.c_fc.weight`, shape) - unused,
    num_attention_heads: Math.max(1, Math.floor(width! / HEAD_WIDTH)),
    max_position_embeddings: needed(shape, "positional_embedding", "text encoder")[0]!,
    projection_dim: projected ? needed(shape, "text_projection", "text encoder")[1]! : 512,
    hidden_act: "gelu",
    eos_token_id: 2,
    ...given,
  };
}

/** What the files say of their schedule, or what else is known of it. */
export interface OriginalSchedule {
  readonly prediction: string;
  /** Trained to a signal-to-noise ratio of zero at the last timestep. */
  readonly zeroSnr: boolean;
  /** A latent consistency model. */
  readonly consistency: boolean;
}

/** What the files are sampled with, as diffusers publishes it for the family. */
export function originalSchedulerConfig(family: OriginalFamily, schedule: OriginalSchedule): Config {
  const { prediction, zeroSnr, consistency } = schedule;
  const common = {
    beta_schedule: "scaled_linear",
    beta_start: 0.00085,
    beta_end: 0.012,
    num_train_timesteps: 1000,
    steps_offset: 1,
    prediction_type: prediction,
  };
  if (consistency) {
    // As diffusers' class has it where a scheduler_config.json says nothing.
    const { steps_offset: _, ...betas } = common;
    return { _class_name: "LCMScheduler", ...betas, original_inference_steps: 50, clip_sample: false };
  }
  if (family === "1.x" || family === "2.x") {
    return {
      _class_name: family === "1.x" ? "PNDMScheduler" : "DDIMScheduler",
      ...common,
      set_alpha_to_one: false,
      ...(family === "1.x" ? { skip_prk_steps: true } : { clip_sample: false }),
    };
  }
  return {
    _class_name: "EulerDiscreteScheduler",
    ...common,
    timestep_spacing: zeroSnr ? "trailing" : "leading",
    ...(zeroSnr ? { rescale_betas_zero_snr: true } : {}),
  };
}

function needed(shape: ShapeOf, name: string, what: string): Shape {
  const found = shape(name);
  if (!found) throw new UserError(`The ${what} of this checkpoint has no ${name}; it is of a kind that is not built.`);
  return found;
}

/** How many numbered weights there are without a gap. */
function count(name: (i: number) => string, shape: ShapeOf): number {
  let n = 0;
  while (shape(name(n))) n++;
  return n;
}

/** One value where all are equal. */
function same(values: readonly number[]): number | readonly number[] {
  return values.every((value) => value === values[0]) ? values[0]! : values;
}
