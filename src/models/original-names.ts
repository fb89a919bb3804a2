// The names that the original code of Stable Diffusion (CompVis/latent-diffusion, Stability-AI/stablediffusion and
// /generative-models, mlfoundations/open_clip) gives to what diffusers and transformers call otherwise. All functions go
// from the names of diffusers to the original ones, from nothing but the list of a network's parameter names.

/** Where a parameter lies in an original checkpoint. */
export interface OriginalPlace {
  readonly name: string;
  /** The weight is this third, by rows, of the stored one: queries, keys and values in one matrix. */
  readonly third?: 0 | 1 | 2;
  /** Stored with rows and columns swapped. */
  readonly transposed?: boolean;
}

const RESNET: Readonly<Record<string, string>> = {
  norm1: "in_layers.0",
  conv1: "in_layers.2",
  time_emb_proj: "emb_layers.1",
  norm2: "out_layers.0",
  conv2: "out_layers.3",
  conv_shortcut: "skip_connection",
};

const UNET_ENDS: Readonly<Record<string, string>> = {
  conv_in: "input_blocks.0.0",
  conv_norm_out: "out.0",
  conv_out: "out.2",
  "time_embedding.linear_1": "time_embed.0",
  "time_embedding.linear_2": "time_embed.2",
  // Of latent consistency models, whose U-Net is told the guidance.
  "time_embedding.cond_proj": "time_embed.cond_proj",
  "add_embedding.linear_1": "label_emb.0.0",
  "add_embedding.linear_2": "label_emb.0.2",
  "class_embedding.linear_1": "label_emb.0.0",
  "class_embedding.linear_2": "label_emb.0.2",
};

/**
 * The U-Net: its blocks are one list on the way down and one on the way up; the first entry of the list on the way down is
 * the first convolution.
 *
 * @param names of a `UNet2DConditionModel`'s parameters
 * @returns the original name of each that has one (without `model.diffusion_model.`)
 */
export function originalUNetNames(names: Iterable<string>): Map<string, string> {
  const all = [...names];
  const down = layersOf(all, "down_blocks");
  const up = layersOf(all, "up_blocks");
  // A level of the way down takes one entry more, for halving the size.
  const downEntry = (level: number, layer: number) => 1 + sum(down.slice(0, level)) + level + layer;
  const upEntry = (level: number, layer: number) => sum(up.slice(0, level)) + layer;
  const attends = (level: number) => all.some((name) => name.startsWith(`up_blocks.${level}.attentions.`));

  const original = (name: string): string | undefined => {
    const [, way, block, kind, index, rest] =
      /^(?:(down|up)_blocks\.(\d+)|mid_block)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)$/.exec(name) ??
      [];
    if (kind === undefined) return renamed(name, UNET_ENDS);
    const level = Number(block);
    const layer = Number(index);
    const inner = kind === "resnets" ? renamed(rest!, RESNET) : rest!;
    if (inner === undefined) return undefined;
    if (way === undefined) return `middle_block.${kind === "resnets" ? 2 * layer : 2 * layer + 1}.${inner}`;
    if (kind === "downsamplers")
      return `input_blocks.${downEntry(level, down[level]!)}.0.${inner.replace("conv", "op")}`;
    if (kind === "upsamplers")
      return `output_blocks.${upEntry(level, up[level]! - 1)}.${attends(level) ? 2 : 1}.${inner}`;
    const list = way === "down" ? `input_blocks.${downEntry(level, layer)}` : `output_blocks.${upEntry(level, layer)}`;
    return `${list}.${kind === "resnets" ? 0 : 1}.${inner}`;
  };
  return mapped(all, original);
}

const VAE_ATTENTION: Readonly<Record<string, string>> = {
  group_norm: "norm",
  to_q: "q",
  to_k: "k",
  to_v: "v",
  "to_out.0": "proj_out",
};

/**
 * The autoencoder: levels of the decoder are counted from the finest.
 *
 * @param names of an `AutoencoderKL`'s parameters
 * @returns the original name of each (without `first_stage_model.`)
 */
export function originalVaeNames(names: Iterable<string>): Map<string, string> {
  const all = [...names];
  const levels = layersOf(all, "decoder.up_blocks").length;
  const layer = (kind: string, index: number, rest: string): string | undefined => {
    if (kind === "downsamplers") return `downsample.${rest}`;
    if (kind === "upsamplers") return `upsample.${rest}`;
    const inner = kind === "attentions" ? renamed(rest, VAE_ATTENTION) : rest.replace("conv_shortcut", "nin_shortcut");
    return inner && `${kind === "attentions" ? "attn" : "block"}.${index}.${inner}`;
  };
  const original = (name: string): string | undefined => {
    const [, half, way, block, kind, index, rest] =
      /^(encoder|decoder)\.(?:(down|up)_blocks\.(\d+)|mid_block)\.(\w+)\.(\d+)\.(.+)$/.exec(name) ?? [];
    if (half === undefined) return name.replace("conv_norm_out", "norm_out");
    const inner = layer(kind!, Number(index) + (way ? 0 : 1), rest!);
    if (way) return inner && `${half}.${way}.${way === "down" ? block : levels - 1 - Number(block)}.${inner}`;
    // In the middle: block_1, attn_1, block_2.
    return inner && `${half}.mid.${inner.replace(/^(block|attn)\.(\d+)/, "$1_$2")}`;
  };
  return mapped(all, original);
}

const CLIP_LAYER: Readonly<Record<string, string>> = {
  layer_norm1: "ln_1",
  layer_norm2: "ln_2",
  "mlp.fc1": "mlp.c_fc",
  "mlp.fc2": "mlp.c_proj",
  "self_attn.out_proj": "attn.out_proj",
};

const CLIP_ENDS: Readonly<Record<string, string>> = {
  "text_model.embeddings.token_embedding": "token_embedding",
  "text_model.final_layer_norm": "ln_final",
};

/**
 * OpenCLIP's text encoder: queries, keys and values lie in one matrix, the projection is transposed.
 *
 * @param names of a `CLIPTextModel`'s or `CLIPTextModelWithProjection`'s parameters
 * @returns the place of each (without `cond_stage_model.model.`)
 */
export function openClipPlaces(names: Iterable<string>): Map<string, OriginalPlace> {
  const original = (name: string): OriginalPlace | undefined => {
    if (name === "text_model.embeddings.position_embedding.weight") return { name: "positional_embedding" };
    if (name === "text_projection.weight") return { name: "text_projection", transposed: true };
    const [, layer, rest] = /^text_model\.encoder\.layers\.(\d+)\.(.+)$/.exec(name) ?? [];
    if (rest === undefined) return named(renamed(name, CLIP_ENDS));
    const block = `transformer.resblocks.${layer}`;
    const [, which, kind] = /^self_attn\.([qkv])_proj\.(weight|bias)$/.exec(rest) ?? [];
    if (which) return { name: `${block}.attn.in_proj_${kind}`, third: "qkv".indexOf(which) as 0 | 1 | 2 };
    const inner = renamed(rest, CLIP_LAYER);
    return named(inner && `${block}.${inner}`);
  };
  return mapped(names, original);
}

const named = (name: string | undefined) => (name === undefined ? undefined : { name });

/** The name with its layer's path replaced by that of the table; undefined where the table has none. */
function renamed(name: string, table: Readonly<Record<string, string>>): string | undefined {
  const dot = name.lastIndexOf(".");
  const path = table[name.slice(0, dot)];
  return path === undefined ? undefined : path + name.slice(dot);
}

/** How many residual blocks each block of a list has. */
function layersOf(names: readonly string[], list: string): number[] {
  const counts: number[] = [];
  const pattern = new RegExp(`^${list.replaceAll(".", "\\.")}\\.(\\d+)\\.resnets\\.(\\d+)\\.`);
  for (const name of names) {
    const match = pattern.exec(name);
    if (match) counts[Number(match[1])] = Math.max(counts[Number(match[1])] ?? 0, Number(match[2]) + 1);
  }
  return counts;
}

const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);

function mapped<T>(names: Iterable<string>, place: (name: string) => T | undefined): Map<string, T> {
  const result = new Map<string, T>();
  for (const name of names) {
    const found = place(name);
    if (found !== undefined) result.set(name, found);
  }
  return result;
}
