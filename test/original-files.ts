import { type HostTensor, sizeOf } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import type { Config, Weighted } from "../src/models/index.ts";
import { namedParameters } from "../src/nn/module.ts";

// The inverse of what src/models/original-names.ts does, written from the modules that the original code builds, in the
// order it builds them, so that a mistake there does not repeat here.

/** Random numbers for every parameter: none is special, so that two exchanged ones show. */
export function randomWeights(network: Weighted, seed: number): Map<string, HostTensor<"float32">> {
  const random = seeded(seed);
  return new Map(
    [...namedParameters(network)].map(([name, { shape }]) => {
      const deviation = shape.length > 1 ? (sizeOf(shape) / shape[0]!) ** -0.5 : 0.2;
      return [name, random.normal(shape, { std: deviation })];
    }),
  );
}

type Weights = ReadonlyMap<string, HostTensor>;

/** Pairs of path prefixes: diffusers' and the original one. */
type Pairs = (readonly [string, string])[];

function renameBy(weights: Weights, pairs: Pairs, inner: (rest: string) => string): Map<string, HostTensor> {
  const result = new Map<string, HostTensor>();
  for (const [name, tensor] of weights) {
    const pair = pairs.find(([ours]) => name.startsWith(`${ours}.`));
    if (!pair) throw new Error(`nothing is known of ${name}`);
    result.set(`${pair[1]}.${inner(name.slice(pair[0].length + 1))}`, tensor);
  }
  return result;
}

const replaceAll = (table: Readonly<Record<string, string>>) => (name: string) =>
  Object.entries(table).reduce((text, [from, to]) => text.replace(new RegExp(`^${from}(?=\\.)`), to), name);

/** A U-Net as openaimodel.py builds it. */
export function originalUNet(weights: Weights, config: Config): Map<string, HostTensor> {
  const types = config.down_block_types as string[];
  const layers = config.layers_per_block as number;
  const pairs: Pairs = [
    ["conv_in", "input_blocks.0.0"],
    ["time_embedding.linear_1", "time_embed.0"],
    ["time_embedding.linear_2", "time_embed.2"],
    ["time_embedding.cond_proj", "time_embed.cond_proj"],
    ["add_embedding.linear_1", "label_emb.0.0"],
    ["add_embedding.linear_2", "label_emb.0.2"],
  ];
  let block = 1;
  types.forEach((type, level) => {
    for (let i = 0; i < layers; i++, block++) {
      pairs.push([`down_blocks.${level}.resnets.${i}`, `input_blocks.${block}.0`]);
      if (type.startsWith("Cross")) pairs.push([`down_blocks.${level}.attentions.${i}`, `input_blocks.${block}.1`]);
    }
    if (level < types.length - 1) {
      pairs.push([`down_blocks.${level}.downsamplers.0.conv`, `input_blocks.${block++}.0.op`]);
    }
  });
  pairs.push(["mid_block.resnets.0", "middle_block.0"]);
  pairs.push(["mid_block.attentions.0", "middle_block.1"]);
  pairs.push(["mid_block.resnets.1", "middle_block.2"]);
  block = 0;
  [...types].reverse().forEach((type, level) => {
    for (let i = 0; i <= layers; i++, block++) {
      let inside = 0;
      pairs.push([`up_blocks.${level}.resnets.${i}`, `output_blocks.${block}.${inside++}`]);
      if (type.startsWith("Cross")) {
        pairs.push([`up_blocks.${level}.attentions.${i}`, `output_blocks.${block}.${inside++}`]);
      }
      if (i === layers) pairs.push([`up_blocks.${level}.upsamplers.0`, `output_blocks.${block}.${inside}`]);
    }
  });
  pairs.push(["conv_norm_out", "out.0"], ["conv_out", "out.2"]);
  const layersInside = {
    norm1: "in_layers.0",
    conv1: "in_layers.2",
    time_emb_proj: "emb_layers.1",
    norm2: "out_layers.0",
    conv2: "out_layers.3",
    conv_shortcut: "skip_connection",
  };
  return renameBy(weights, pairs, replaceAll(layersInside));
}

/** An autoencoder as model.py of the diffusion modules builds it; attention as 1×1 convolutions. */
export function originalVae(weights: Weights, config: Config): Map<string, HostTensor> {
  const levels = (config.block_out_channels as number[]).length;
  const layers = config.layers_per_block as number;
  const pairs: Pairs = [
    ["quant_conv", "quant_conv"],
    ["post_quant_conv", "post_quant_conv"],
  ];
  for (const half of ["encoder", "decoder"]) {
    pairs.push([`${half}.conv_in`, `${half}.conv_in`], [`${half}.conv_norm_out`, `${half}.norm_out`]);
    pairs.push([`${half}.conv_out`, `${half}.conv_out`]);
    pairs.push([`${half}.mid_block.resnets.0`, `${half}.mid.block_1`]);
    pairs.push([`${half}.mid_block.attentions.0`, `${half}.mid.attn_1`]);
    pairs.push([`${half}.mid_block.resnets.1`, `${half}.mid.block_2`]);
  }
  for (let level = 0; level < levels; level++) {
    const up = `decoder.up.${levels - level - 1}`;
    for (let i = 0; i <= layers; i++) {
      pairs.push([`encoder.down_blocks.${level}.resnets.${i}`, `encoder.down.${level}.block.${i}`]);
      pairs.push([`decoder.up_blocks.${level}.resnets.${i}`, `${up}.block.${i}`]);
    }
    pairs.push([`encoder.down_blocks.${level}.downsamplers.0`, `encoder.down.${level}.downsample`]);
    pairs.push([`decoder.up_blocks.${level}.upsamplers.0`, `${up}.upsample`]);
  }
  const inside = {
    group_norm: "norm",
    to_q: "q",
    to_k: "k",
    to_v: "v",
    "to_out\\.0": "proj_out",
    conv_shortcut: "nin_shortcut",
  };
  const renamed = renameBy(weights, pairs, replaceAll(inside));
  for (const [name, tensor] of renamed) {
    if (/attn_1\.(q|k|v|proj_out)\.weight$/.test(name))
      renamed.set(name, { ...tensor, shape: [...tensor.shape, 1, 1] });
  }
  return renamed;
}

/** A text encoder as open_clip saves it. */
export function openClip(weights: Weights, config: Config): Map<string, HostTensor> {
  const result = new Map<string, HostTensor>();
  const float = (name: string) => weights.get(name) as HostTensor<"float32">;
  const width = config.hidden_size as number;
  result.set("positional_embedding", float("text_model.embeddings.position_embedding.weight"));
  result.set("token_embedding.weight", float("text_model.embeddings.token_embedding.weight"));
  for (const kind of ["weight", "bias"]) {
    result.set(`ln_final.${kind}`, float(`text_model.final_layer_norm.${kind}`));
    for (let i = 0; i < (config.num_hidden_layers as number); i++) {
      const ours = `text_model.encoder.layers.${i}`;
      const theirs = `transformer.resblocks.${i}`;
      const qkv = ["q", "k", "v"].map((each) => float(`${ours}.self_attn.${each}_proj.${kind}`));
      const data = new Float32Array(3 * qkv[0]!.data.length);
      for (const [j, each] of qkv.entries()) data.set(each.data, j * each.data.length);
      const shape = kind === "weight" ? [3 * width, width] : [3 * width];
      result.set(`${theirs}.attn.in_proj_${kind}`, { dtype: "float32", shape, data });
      result.set(`${theirs}.attn.out_proj.${kind}`, float(`${ours}.self_attn.out_proj.${kind}`));
      result.set(`${theirs}.ln_1.${kind}`, float(`${ours}.layer_norm1.${kind}`));
      result.set(`${theirs}.ln_2.${kind}`, float(`${ours}.layer_norm2.${kind}`));
      result.set(`${theirs}.mlp.c_fc.${kind}`, float(`${ours}.mlp.fc1.${kind}`));
      result.set(`${theirs}.mlp.c_proj.${kind}`, float(`${ours}.mlp.fc2.${kind}`));
    }
  }
  const projection = weights.get("text_projection.weight") as HostTensor<"float32"> | undefined;
  if (projection) {
    const [outputs, inputs] = projection.shape as [number, number];
    const data = new Float32Array(outputs * inputs);
    for (let o = 0; o < outputs; o++) {
      for (let i = 0; i < inputs; i++) data[i * outputs + o] = projection.data[o * inputs + i]!;
    }
    result.set("text_projection", { dtype: "float32", shape: [inputs, outputs], data });
  }
  return result;
}

/** The same weights under a prefix. */
export function under(prefix: string, weights: Weights): (readonly [string, HostTensor])[] {
  return [...weights].map(([name, tensor]) => [`${prefix}${name}`, tensor]);
}
