import { describe, expect, test } from "vitest";
import { type PartGroup, parameterCount } from "../nn/module.ts";
import {
  autoencoderKL,
  autoencoderTiny,
  clipText,
  clipTextWithProjection,
  controlNet,
  flux,
  sd3,
  t5Encoder,
  unet2d,
  unet2dCondition,
} from "./index.ts";

const repeated = (name: string, times = 4) => Array<string>(times).fill(name);

/** Networks as they were released, and how many parameters their authors' files hold. */
const published: Readonly<Record<string, readonly [number, () => PartGroup]>> = {
  "google/ddpm-cifar10-32": [
    35_746_307,
    () =>
      unet2d({
        block_out_channels: [128, 256, 256, 256],
        attention_head_dim: null,
        down_block_types: ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        up_block_types: ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        downsample_padding: 0,
      }),
  ],
  "Stable Diffusion 1.5's U-Net": [859_520_964, () => unet2dCondition({ cross_attention_dim: 768 })],
  "Stable Diffusion 2.1's U-Net": [
    865_910_724,
    () =>
      unet2dCondition({
        cross_attention_dim: 1024,
        attention_head_dim: [5, 10, 20, 20],
        use_linear_projection: true,
      }),
  ],
  "Stable Diffusion XL's U-Net": [
    2_567_463_684,
    () =>
      unet2dCondition({
        block_out_channels: [320, 640, 1280],
        down_block_types: ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types: ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim: 2048,
        attention_head_dim: [5, 10, 20],
        use_linear_projection: true,
        transformer_layers_per_block: [1, 2, 10],
        addition_embed_type: "text_time",
        addition_time_embed_dim: 256,
        projection_class_embeddings_input_dim: 2816,
      }),
  ],
  "Stable Diffusion's autoencoder": [
    83_653_863,
    () =>
      autoencoderKL({
        block_out_channels: [128, 256, 512, 512],
        layers_per_block: 2,
        down_block_types: repeated("DownEncoderBlock2D"),
        up_block_types: repeated("UpDecoderBlock2D"),
      }),
  ],
  TAESD: [2_445_063, () => autoencoderTiny()],
  "a ControlNet for Stable Diffusion 1.5": [361_279_120, () => controlNet({ cross_attention_dim: 768 })],
  "CLIP ViT-L/14's text encoder": [
    123_060_480,
    () => clipText({ hidden_size: 768, intermediate_size: 3072, num_attention_heads: 12 }),
  ],
  "OpenCLIP ViT-bigG/14's text encoder": [
    694_659_840,
    () =>
      clipTextWithProjection({
        hidden_size: 1280,
        intermediate_size: 5120,
        num_attention_heads: 20,
        num_hidden_layers: 32,
        projection_dim: 1280,
        hidden_act: "gelu",
      }),
  ],
  "Stable Diffusion 3 medium's transformer, with its table of 192² positions": [
    2_028_328_000 + 192 * 192 * 1536,
    () => sd3({ num_layers: 24, num_attention_heads: 24, caption_projection_dim: 1536, pos_embed_max_size: 192 }),
  ],
  "FLUX.1 dev's transformer": [11_901_408_320, () => flux({ guidance_embeds: true })],
  "T5 v1.1 XXL's encoder": [
    4_762_310_656,
    () =>
      t5Encoder({
        d_model: 4096,
        d_kv: 64,
        d_ff: 10240,
        num_layers: 24,
        num_heads: 64,
        feed_forward_proj: "gated-gelu",
      }),
  ],
};

describe("released networks have as many parameters as their files:", () => {
  for (const [name, [count, build]] of Object.entries(published)) {
    test(name, () => {
      expect(parameterCount(build())).toBe(count);
    });
  }
});
