/**
 * Writes a model of Stable Diffusion 1.5's architecture with random weights as a folder in diffusers' layout, one weight
 * at a time, or a whole pipeline: `tsx bench/sd15-weights.ts <unet|vae|pipeline> <folder> <float32|float16> [tiny]`.
 *
 * The numbers say nothing; they are there for measuring time and memory.
 */
import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { float32, sizeOf } from "../src/core/host-tensor.ts";
import {
  clipVocabulary,
  type FloatDType,
  type LazyTensor,
  writeClipTokenizer,
  writeModelFolder,
} from "../src/io/index.ts";
import { autoencoderKL, type Config, clipText, unet2dCondition } from "../src/models/index.ts";
import { namedParameters, type Parameter, type PartGroup } from "../src/nn/module.ts";

/** Which network, and how large. */
export interface Architecture {
  readonly part: "unet" | "vae" | "pipeline";
  readonly tiny: boolean;
}

/** The U-Net of Stable Diffusion 1.5, or one with the same blocks and a few channels. */
export function sd15Unet(tiny: boolean) {
  return unet2dCondition({
    sample_size: tiny ? 8 : 64,
    block_out_channels: tiny ? [32, 32, 64, 64] : [320, 640, 1280, 1280],
    cross_attention_dim: tiny ? 32 : 768,
    attention_head_dim: 8,
  });
}

/** Its autoencoder. */
export function sd15Vae(tiny: boolean) {
  return autoencoderKL({
    sample_size: tiny ? 64 : 512,
    block_out_channels: tiny ? [32, 32, 64, 64] : [128, 256, 512, 512],
    layers_per_block: 2,
    down_block_types: Array(4).fill("DownEncoderBlock2D"),
    up_block_types: Array(4).fill("UpDecoderBlock2D"),
  });
}

/** Its text encoder, whose vocabulary is of characters only but has as many rows. */
function sd15TextEncoder(tiny: boolean) {
  const { tokens } = clipVocabulary();
  return clipText({
    vocab_size: tiny ? tokens.length : 49408,
    hidden_size: tiny ? 32 : 768,
    intermediate_size: tiny ? 64 : 3072,
    num_hidden_layers: tiny ? 2 : 12,
    num_attention_heads: tiny ? 4 : 12,
    max_position_embeddings: TEXT_TOKENS,
    eos_token_id: tokens.length - 1,
  });
}

const TEXT_TOKENS = 77;

/** Whether the folder holds such a model: its configuration is written last. */
export const isWritten = (folder: string) =>
  existsSync(join(folder, "config.json")) || existsSync(join(folder, "model_index.json"));

async function write(architecture: Architecture, folder: string, dtype: FloatDType): Promise<void> {
  const { part, tiny } = architecture;
  if (part === "unet") return writeNetwork(sd15Unet(tiny), folder, dtype);
  if (part === "vae") return writeNetwork(sd15Vae(tiny), folder, dtype);
  await writeNetwork(sd15Unet(tiny), join(folder, "unet"), dtype);
  await writeNetwork(sd15Vae(tiny), join(folder, "vae"), dtype);
  await writeNetwork(sd15TextEncoder(tiny), join(folder, "text_encoder"), dtype, "CLIPTextModel");
  await writeClipTokenizer(join(folder, "tokenizer"), clipVocabulary(), { maxLength: TEXT_TOKENS });
  const scheduler = {
    _class_name: "DDIMScheduler",
    ...{ beta_start: 0.00085, beta_end: 0.012, beta_schedule: "scaled_linear", num_train_timesteps: 1000 },
    ...{ clip_sample: false, set_alpha_to_one: false, steps_offset: 1, prediction_type: "epsilon" },
  };
  await mkdir(join(folder, "scheduler"), { recursive: true });
  await writeFile(join(folder, "scheduler", "scheduler_config.json"), JSON.stringify(scheduler));
  const index = {
    _class_name: "StableDiffusionPipeline",
    scheduler: ["diffusers", "DDIMScheduler"],
    text_encoder: ["transformers", "CLIPTextModel"],
    tokenizer: ["transformers", "CLIPTokenizer"],
    unet: ["diffusers", "UNet2DConditionModel"],
    vae: ["diffusers", "AutoencoderKL"],
  };
  await writeFile(join(folder, "model_index.json"), JSON.stringify(index));
}

interface Network extends PartGroup {
  readonly config: Config;
}

async function writeNetwork({ config, parts }: Network, folder: string, dtype: FloatDType, textModel?: string) {
  const { _class_name: className = textModel, ...fields } = config;
  let index = 0;
  const tensors = new Map<string, LazyTensor>();
  for (const [name, parameter] of namedParameters({ parts })) {
    const seed = ++index;
    tensors.set(name, { dtype: "float32", shape: parameter.shape, read: async () => start(parameter, seed) });
  }
  const library = textModel ? "transformers" : "diffusers";
  await writeModelFolder(folder, { className: String(className), config: fields, tensors }, { dtype, library });
}

/** A parameter's start, drawn faster than by the generator that matches torch's. */
function start({ shape, initial }: Parameter, seed: number) {
  const data = new Float32Array(sizeOf(shape));
  // Layers that start at zero would make every result zero, and errors relative to it meaningless.
  const zeroLayer = initial.kind === "constant" && shape.length > 1;
  if (initial.kind === "values") return float32(shape, initial.values());
  if (initial.kind === "constant" && !zeroLayer) return float32(shape, data.fill(initial.value));
  const deviation = initial.kind === "normal" ? initial.deviation : Math.sqrt(1 / sizeOf(shape.slice(1)));
  const bound = initial.kind === "uniform" ? initial.bound : deviation * Math.sqrt(3);
  // mulberry32 (T. Ettinger): a counter and a hash of it. Generators whose seeds are related linearly, such as xorshift,
  // give layers that amplify each other's numbers.
  let state = Math.imul(seed, 0x9e3779b1);
  for (let i = 0; i < data.length; i++) {
    state = (state + 0x6d2b79f5) | 0;
    let hash = Math.imul(state ^ (state >>> 15), state | 1);
    hash ^= hash + Math.imul(hash ^ (hash >>> 7), hash | 61);
    data[i] = ((hash ^ (hash >>> 14)) / 2 ** 31) * bound;
  }
  return float32(shape, data);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const [part, folder, dtype, size] = process.argv.slice(2) as [Architecture["part"], string, FloatDType, string?];
  await write({ part, tiny: size === "tiny" }, folder, dtype);
}
