import { cp } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { float32, type HostTensor } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { input, type Tensor, toOnnx } from "../src/graph/index.ts";
import { readJsonObject, writeJsonObject, writeModelFolder, writePipelineFolder } from "../src/io/index.ts";
import {
  autoencoderKL,
  bindWeights,
  clipText,
  clipTextWithProjection,
  controlNet,
  dit,
  flux,
  initialize,
  pixart,
  sd3,
  t5Encoder,
  unet2dCondition,
  type Weighted,
} from "../src/models/index.ts";
import { type Feeds, inferenceTarget, openSession, type Session } from "../src/runtime/index.ts";
import { randomWeights } from "./original-files.ts";

// Folders of models that draw from words, with random weights: as diffusers saves them, and so small that a picture
// takes milliseconds.

const clipTokenizer = fileURLToPath(new URL("fixtures/reference/tokenizers/clip-small", import.meta.url));

/** A network with its weights, to be written and to be run by hand. */
export interface TinyPart<N extends Weighted = Weighted> {
  readonly className: string;
  readonly network: N & { readonly config: Readonly<Record<string, unknown>> };
  readonly tensors: ReadonlyMap<string, HostTensor<"float32">>;
}

function part<N extends Weighted>(className: string, network: N, seed: number): TinyPart<N> {
  return { className, network: network as TinyPart<N>["network"], tensors: randomWeights(network, seed) };
}

const sessions = new Map<string, Promise<Session>>();

/**
 * Runs a part: the outputs of a graph of its network. Opening a session takes longest, so it is kept for the same graph and
 * shapes until `closeRuns`.
 */
export async function run(
  { className, network, tensors }: TinyPart,
  feeds: Feeds,
  graph: (inputs: Readonly<Record<string, Tensor>>) => Readonly<Record<string, Tensor>>,
): Promise<Record<string, HostTensor<"float32">>> {
  const shapes = Object.entries(feeds).map(([name, { shape }]) => `${name} ${shape}`);
  const weights = JSON.stringify(network.config);
  const key = [className, weights, graph, ...shapes].join("; ");
  const open = () => {
    const inputs = Object.entries(feeds).map(([name, { shape, dtype }]) => [name, input(name, shape, dtype)] as const);
    const bind = bindWeights(network, tensors);
    const { bytes } = toOnnx(graph(Object.fromEntries(inputs)), { bind, target: inferenceTarget() });
    return openSession(bytes, { threads: 1 });
  };
  const session = sessions.get(key) ?? open();
  sessions.set(key, session);
  return (await (await session).run(feeds)) as Record<string, HostTensor<"float32">>;
}

/** Closes what `run` opened. */
export async function closeRuns(): Promise<void> {
  for (const session of sessions.values()) await (await session).close();
  sessions.clear();
}

/** Pieces of T5's kind: ids from 3 on, with their scores. */
const PIECES = [
  ...["▁", "▁a", "▁red", "▁cat", "▁dog", "▁in", "▁the", "▁fog", "▁blur", "ry", "▁castle", "s", "▁photo", "▁of"],
  ..."abcdefghijklmnopqrstuvwxyz,.!".split(""),
];

/** A tokenizer of T5's kind in small. */
export async function writeT5Tokenizer(folder: string): Promise<void> {
  const special = (content: string, id: number) => ({
    ...{ id, content, special: true, single_word: false, lstrip: false, rstrip: false, normalized: false },
  });
  const vocab = [
    ...["<pad>", "</s>", "<unk>"].map((piece) => [piece, 0]),
    ...PIECES.map((piece) => [piece, -2 - 1 / piece.length]),
  ];
  const space = { type: "Metaspace", replacement: "▁", add_prefix_space: true, prepend_scheme: "always" };
  await writeJsonObject(join(folder, "tokenizer.json"), {
    added_tokens: ["<pad>", "</s>", "<unk>"].map(special),
    normalizer: null,
    pre_tokenizer: space,
    decoder: space,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ Sequence: { id: "A", type_id: 0 } }, { SpecialToken: { id: "</s>", type_id: 0 } }],
      pair: [],
      special_tokens: { "</s>": { id: "</s>", ids: [1], tokens: ["</s>"] } },
    },
    model: { type: "Unigram", unk_id: 2, vocab },
  });
  await writeJsonObject(join(folder, "tokenizer_config.json"), {
    ...{ tokenizer_class: "T5Tokenizer", eos_token: "</s>", pad_token: "<pad>", unk_token: "<unk>" },
    model_max_length: 512,
  });
}

const T5 = { vocab_size: 64, d_model: 16, d_kv: 4, d_ff: 24, num_layers: 2, num_heads: 2 };
const CLIP = {
  ...{ vocab_size: 1000, intermediate_size: 24, num_hidden_layers: 2, num_attention_heads: 2 },
  ...{ max_position_embeddings: 77, eos_token_id: 999 },
};

const t5 = () => part("T5EncoderModel", t5Encoder({ ...T5, feed_forward_proj: "gated-gelu" }), 11);

/** An autoencoder of 4 latent channels that halves sides. */
function vae(options: object) {
  const network = autoencoderKL({
    block_out_channels: [8, 16],
    down_block_types: ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    up_block_types: ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    norm_num_groups: 4,
    latent_channels: 4,
    ...options,
  });
  return part("AutoencoderKL", network, 12);
}

const FLOW_VAE = { scaling_factor: 1.5305, shift_factor: 0.0609, use_quant_conv: false, use_post_quant_conv: false };

interface TinyModel {
  readonly className: string;
  readonly scheduler: Readonly<Record<string, unknown>> & { readonly _class_name: string };
  readonly parts: Readonly<Record<string, TinyPart>>;
  /** What else stands in model_index.json. */
  readonly options?: Readonly<Record<string, unknown>>;
}

/** Writes a folder, with a tokenizer for each text encoder. */
export async function writeTiny(folder: string, { className, scheduler, parts, options }: TinyModel): Promise<void> {
  const { _class_name, ...schedulerConfig } = scheduler;
  const written = Object.entries(parts).map(([name, { className, network, tensors }]) => {
    const library = name.startsWith("text_encoder") ? ("transformers" as const) : ("diffusers" as const);
    return [name, { className, config: network.config, tensors, library }] as const;
  });
  await writePipelineFolder(folder, className, {
    ...Object.fromEntries(written),
    scheduler: { className: _class_name, schedulerConfig },
  });
  const tokenizers: Record<string, readonly [string, string]> = {};
  for (const name of Object.keys(parts).filter((part) => part.startsWith("text_encoder"))) {
    const tokenizer = name.replace("text_encoder", "tokenizer");
    const isT5 = parts[name]!.className === "T5EncoderModel";
    if (isT5) await writeT5Tokenizer(join(folder, tokenizer));
    else await cp(clipTokenizer, join(folder, tokenizer), { recursive: true });
    tokenizers[tokenizer] = ["transformers", isT5 ? "T5TokenizerFast" : "CLIPTokenizer"];
  }
  const index = join(folder, "model_index.json");
  await writeJsonObject(index, { ...(await readJsonObject(index)), ...tokenizers, ...options });
}

/** PixArt-α or -Σ: α is told sizes, and both learned a variance. */
export function tinyPixArt(kind: "Alpha" | "Sigma") {
  const transformer = pixart({
    ...{ num_attention_heads: 2, attention_head_dim: 12, num_layers: 2, cross_attention_dim: 24 },
    ...{ in_channels: 4, out_channels: 8, sample_size: 8, caption_channels: T5.d_model },
    use_additional_conditions: kind === "Alpha",
  });
  return {
    className: `PixArt${kind}Pipeline`,
    scheduler: {
      ...{ _class_name: "DPMSolverMultistepScheduler", beta_schedule: "linear", beta_start: 0.0001, beta_end: 0.02 },
      ...{ algorithm_type: "dpmsolver++", solver_order: 2, prediction_type: "epsilon" },
    },
    parts: {
      transformer: part("PixArtTransformer2DModel", transformer, 1),
      vae: vae({ scaling_factor: 0.13025 }),
      text_encoder: t5(),
    },
  };
}

/** Stable Diffusion 3, with T5 or without it. */
export function tinySd3({ withT5 = true, dynamic = false } = {}) {
  const transformer = sd3({
    ...{ sample_size: 8, in_channels: 4, out_channels: 4, num_layers: 2, attention_head_dim: 8 },
    ...{ num_attention_heads: 2, joint_attention_dim: T5.d_model, caption_projection_dim: 16 },
    ...{ pooled_projection_dim: 11, pos_embed_max_size: 12, qk_norm: "rms_norm", dual_attention_layers: [0] },
  });
  const clip = (hidden_size: number, projection_dim: number, seed: number) =>
    part(
      "CLIPTextModelWithProjection",
      clipTextWithProjection({ ...CLIP, hidden_size, projection_dim, hidden_act: seed % 2 ? "gelu" : "quick_gelu" }),
      seed,
    );
  return {
    className: "StableDiffusion3Pipeline",
    scheduler: {
      ...{ _class_name: "FlowMatchEulerDiscreteScheduler", shift: 3 },
      ...(dynamic ? { use_dynamic_shifting: true, base_image_seq_len: 16, max_image_seq_len: 64 } : {}),
    },
    parts: {
      transformer: part("SD3Transformer2DModel", transformer, 2),
      vae: vae(FLOW_VAE),
      text_encoder: clip(4, 5, 3),
      text_encoder_2: clip(8, 6, 4),
      ...(withT5 ? { text_encoder_3: t5() } : {}),
    },
  };
}

/** FLUX.1 dev, which is told its guidance, or schnell. */
export function tinyFlux(kind: "dev" | "schnell") {
  const transformer = flux({
    ...{ in_channels: 16, num_layers: 1, num_single_layers: 2, attention_head_dim: 12, num_attention_heads: 2 },
    ...{ joint_attention_dim: T5.d_model, pooled_projection_dim: 8, axes_dims_rope: [4, 4, 4] },
    guidance_embeds: kind === "dev",
  });
  const clip = clipText({ ...CLIP, hidden_size: 8, hidden_act: "quick_gelu" });
  return {
    className: "FluxPipeline",
    scheduler: {
      _class_name: "FlowMatchEulerDiscreteScheduler",
      ...(kind === "dev"
        ? { use_dynamic_shifting: true, shift: 3, base_shift: 0.5, max_shift: 1.15 }
        : { shift: 1, use_dynamic_shifting: false }),
      ...{ base_image_seq_len: 256, max_image_seq_len: 4096 },
    },
    parts: {
      transformer: part("FluxTransformer2DModel", transformer, 5),
      vae: vae({ ...FLOW_VAE, scaling_factor: 0.3611, shift_factor: 0.1159 }),
      text_encoder: part("CLIPTextModel", clip, 6),
      text_encoder_2: t5(),
    },
  };
}

/** SDXL's base with two text encoders, or its refiner with the second alone, which is told an aesthetic score. */
export function tinyXl(kind: "base" | "refiner") {
  const refiner = kind === "refiner";
  const unet = unet2dCondition({
    ...{ sample_size: 8, in_channels: 4, out_channels: 4, block_out_channels: [8, 16], layers_per_block: 1 },
    ...{
      down_block_types: ["DownBlock2D", "CrossAttnDownBlock2D"],
      up_block_types: ["CrossAttnUpBlock2D", "UpBlock2D"],
    },
    ...{ norm_num_groups: 4, attention_head_dim: [2, 2], use_linear_projection: true },
    ...{ cross_attention_dim: refiner ? 8 : 12, addition_embed_type: "text_time", addition_time_embed_dim: 4 },
    projection_class_embeddings_input_dim: 6 + (refiner ? 5 : 6) * 4,
  });
  const clip = clipText({ ...CLIP, hidden_size: 4, hidden_act: "quick_gelu" });
  const second = clipTextWithProjection({ ...CLIP, hidden_size: 8, projection_dim: 6, hidden_act: "gelu" });
  return {
    className: refiner ? "StableDiffusionXLImg2ImgPipeline" : "StableDiffusionXLPipeline",
    scheduler: {
      ...{
        _class_name: "EulerDiscreteScheduler",
        beta_schedule: "scaled_linear",
        beta_start: 0.00085,
        beta_end: 0.012,
      },
      ...{ timestep_spacing: "leading", steps_offset: 1, interpolation_type: "linear", prediction_type: "epsilon" },
    },
    parts: {
      unet: part("UNet2DConditionModel", unet, refiner ? 8 : 7),
      vae: vae({ scaling_factor: 0.13025 }),
      ...(refiner ? {} : { text_encoder: part("CLIPTextModel", clip, 9) }),
      text_encoder_2: part("CLIPTextModelWithProjection", second, 10),
    },
    options: {
      force_zeros_for_empty_prompt: true,
      ...(refiner ? { requires_aesthetics_score: true, text_encoder: [null, null], tokenizer: [null, null] } : {}),
    },
  };
}

/** A transformer that was trained here, with one text encoder: CLIP's for "mmdit", T5's for "dit". */
export function tinyTrained(kind: "dit" | "mmdit") {
  const clip = clipText({ ...CLIP, hidden_size: 8, hidden_act: "quick_gelu" });
  const parts =
    kind === "dit"
      ? {
          transformer: part(
            "PixArtTransformer2DModel",
            pixart({
              ...{ num_attention_heads: 2, attention_head_dim: 12, num_layers: 2, cross_attention_dim: 24 },
              ...{ in_channels: 4, out_channels: 4, sample_size: 8, caption_channels: T5.d_model },
              use_additional_conditions: false,
            }),
            13,
          ),
          text_encoder: t5(),
        }
      : {
          transformer: part(
            "SD3Transformer2DModel",
            sd3({
              ...{ sample_size: 8, in_channels: 4, out_channels: 4, num_layers: 2, attention_head_dim: 8 },
              ...{ num_attention_heads: 2, joint_attention_dim: 8, caption_projection_dim: 16 },
              ...{ pooled_projection_dim: 8, pos_embed_max_size: 8 },
            }),
            14,
          ),
          text_encoder: part("CLIPTextModel", clip, 15),
        };
  return {
    className: "AllegoryTextToImagePipeline",
    scheduler: { _class_name: "FlowMatchEulerDiscreteScheduler", shift: 1 },
    parts: { ...parts, vae: vae({ scaling_factor: 0.9 }) },
  };
}

/** A diffusion transformer over latents, of three classes. */
export function tinyDit() {
  const transformer = dit({
    ...{ num_attention_heads: 2, attention_head_dim: 8, num_layers: 2, in_channels: 4, out_channels: 8 },
    ...{ sample_size: 8, patch_size: 2, num_embeds_ada_norm: 3 },
  });
  return {
    className: "DiTPipeline",
    scheduler: { _class_name: "DDIMScheduler", beta_schedule: "linear", beta_start: 0.0001, beta_end: 0.02 },
    parts: {
      transformer: part("DiTTransformer2DModel", transformer, 16),
      vae: vae({ scaling_factor: 0.18215 }),
    },
    options: { id2label: { 0: "tench, Tinca tinca", 1: "cock", 2: "golden retriever" } },
  };
}

/** A control network for a model's folder: as new, where it says nothing yet, or with random numbers throughout. */
export async function writeTinyControlNet(path: string, model: string, { asNew = false } = {}): Promise<void> {
  const unet = await readJsonObject(join(model, "unet", "config.json"));
  const names = ["block_out_channels", "cross_attention_dim", "attention_head_dim", "down_block_types"];
  const { config, ...network } = controlNet({
    ...Object.fromEntries([...names, "layers_per_block", "norm_num_groups"].map((name) => [name, unet[name]])),
    conditioning_embedding_out_channels: [4, 8],
  });
  const tensors = new Map<string, HostTensor>(initialize(network, seeded(1)));
  if (!asNew) {
    const random = seeded(2);
    for (const [name, { shape }] of tensors) {
      if (/zero|controlnet_(down|mid)|cond_embedding/.test(name)) tensors.set(name, random.normal(shape, { std: 0.3 }));
    }
  }
  await writeModelFolder(path, { className: "ControlNetModel", config, tensors });
}

/** A copy of a model's folder as a latent consistency model, whose U-Net is told the guidance scale. */
export async function writeTinyConsistency(folder: string, model: string): Promise<void> {
  await cp(model, folder, { recursive: true });
  const network = unet2dCondition({
    ...(await readJsonObject(join(model, "unet", "config.json"))),
    time_cond_proj_dim: 16,
  });
  const { config } = network;
  await writeModelFolder(join(folder, "unet"), {
    ...{ className: "UNet2DConditionModel", config, tensors: randomWeights(network, 1) },
  });
  const betas = { beta_schedule: "scaled_linear", beta_start: 0.00085, beta_end: 0.012 };
  const scheduler = { _class_name: "LCMScheduler", ...betas, clip_sample: false };
  await writeJsonObject(join(folder, "scheduler", "scheduler_config.json"), scheduler);
}

/** A picture by hand: latents [1, 4, h, w] through the autoencoder, from 0 to 1. */
export async function decoded(
  tiny: TinyPart<ReturnType<typeof autoencoderKL>>,
  { shape, data }: HostTensor<"float32">,
): Promise<Float32Array> {
  const { scaling_factor: factor, shift_factor: shift } = tiny.network.config as Record<string, number | null>;
  const latents = float32(
    shape,
    data.map((value) => value / factor! + (shift ?? 0)),
  );
  const { picture } = await run(tiny, { latents }, (inputs) => ({ picture: tiny.network.decode(inputs.latents!) }));
  return picture!.data.map((value) => Math.min(Math.max(value / 2 + 0.5, 0), 1));
}

/** The largest difference of two lists of numbers. */
export function farthest(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`${a.length} numbers and ${b.length}`);
  return Array.from(a).reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);
}
