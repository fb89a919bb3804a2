import type { HostTensor } from "../src/core/host-tensor.ts";
import { writeSafetensors } from "../src/io/index.ts";
import { autoencoderKL, clipText, unet2dCondition } from "../src/models/index.ts";
import { originalUNet, originalVae, randomWeights, under } from "./original-files.ts";

const vaeConfig = {
  block_out_channels: [32, 32],
  layers_per_block: 1,
  down_block_types: Array(2).fill("DownEncoderBlock2D"),
  up_block_types: Array(2).fill("UpDecoderBlock2D"),
};

/** Writes a checkpoint of Stable Diffusion 1.x in small, as the original code does; inpainting models take 9 channels. */
export async function writeTinyFile(path: string, { inputs = 4 } = {}): Promise<void> {
  const unetConfig = {
    in_channels: inputs,
    block_out_channels: [32, 64],
    down_block_types: ["CrossAttnDownBlock2D", "DownBlock2D"],
    up_block_types: ["UpBlock2D", "CrossAttnUpBlock2D"],
    layers_per_block: 1,
    cross_attention_dim: 64,
    attention_head_dim: 8,
  };
  const text = clipText({
    ...{ vocab_size: 1000, hidden_size: 64, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 1 },
    ...{ max_position_embeddings: 77, hidden_act: "quick_gelu" },
  });
  const file = new Map<string, HostTensor>([
    ...under("model.diffusion_model.", originalUNet(randomWeights(unet2dCondition(unetConfig), 1), unetConfig)),
    ...under("first_stage_model.", originalVae(randomWeights(autoencoderKL(vaeConfig), 2), vaeConfig)),
    ...under("cond_stage_model.transformer.", randomWeights(text, 3)),
  ]);
  await writeSafetensors(path, file);
}

/** Its autoencoder alone. */
export async function writeTinyVaeFile(path: string): Promise<void> {
  await writeSafetensors(path, originalVae(randomWeights(autoencoderKL(vaeConfig), 2), vaeConfig));
}
