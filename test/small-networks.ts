import { concat, input, reshape, type Tensor } from "../src/graph/index.ts";
import {
  autoencoderKL,
  autoencoderTiny,
  clipText,
  clipTextWithProjection,
  controlNet,
  dit,
  flux,
  pixart,
  sd3,
  t5Encoder,
  unet2d,
  unet2dCondition,
  vqModel,
} from "../src/models/index.ts";
import type { PartGroup } from "../src/nn/module.ts";

/** A network so small that it runs in milliseconds, called once. */
export interface SmallNetwork {
  readonly network: PartGroup;
  readonly inputs: Readonly<Record<string, Tensor>>;
  readonly output: Tensor;
  /** Changes the values that a parameter starts with. */
  readonly arrange?: (name: string, values: Float32Array) => void;
}

const n = 2;
const flat = (...tensors: Tensor[]) =>
  concat(
    tensors.map((x) => reshape(x, [-1])),
    0,
  );
const named = (inputs: Record<string, Tensor>) => inputs;

const encoderConfig = {
  in_channels: 4,
  block_out_channels: [8, 12],
  down_block_types: ["CrossAttnDownBlock2D", "DownBlock2D"],
  layers_per_block: 1,
  norm_num_groups: 4,
  cross_attention_dim: 10,
  attention_head_dim: 2,
};

const twoLevels = {
  down_block_types: ["DownEncoderBlock2D", "DownEncoderBlock2D"],
  up_block_types: ["UpDecoderBlock2D", "UpDecoderBlock2D"],
};

const textConfig = {
  vocab_size: 9,
  hidden_size: 12,
  intermediate_size: 20,
  projection_dim: 6,
  num_hidden_layers: 2,
  num_attention_heads: 3,
  max_position_embeddings: 7,
  eos_token_id: 2,
};

/** One of every class, with the variants that exercise the most kinds of layers. */
export const smallNetworks: Readonly<Record<string, () => SmallNetwork>> = {
  "UNet2DModel, attention and class labels"() {
    const network = unet2d({
      in_channels: 2,
      out_channels: 2,
      block_out_channels: [8, 12],
      down_block_types: ["DownBlock2D", "AttnDownBlock2D"],
      up_block_types: ["AttnUpBlock2D", "UpBlock2D"],
      layers_per_block: 1,
      norm_num_groups: 4,
      attention_head_dim: 6,
      num_class_embeds: 8,
    });
    const inputs = named({ x: input("x", [n, 2, 6, 4]), t: input("t", [n]), y: input("y", [n], "int64") });
    return { network, inputs, output: network(inputs.x!, inputs.t!, inputs.y!) };
  },
  "UNet2DModel, scale and shift, resampling in residual blocks"() {
    const network = unet2d({
      in_channels: 1,
      out_channels: 2,
      block_out_channels: [6, 12],
      down_block_types: ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
      up_block_types: ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
      layers_per_block: 1,
      norm_num_groups: 3,
      attention_head_dim: null,
      resnet_time_scale_shift: "scale_shift",
      time_embedding_type: "fourier",
      mid_block_scale_factor: 1.5,
      act_fn: "mish",
    });
    const inputs = named({ x: input("x", [n, 1, 4, 4]), t: input("t", [n]) });
    return { network, inputs, output: network(inputs.x!, inputs.t!) };
  },
  "UNet2DConditionModel, odd size, linear projections, all conditions"() {
    const network = unet2dCondition({
      ...encoderConfig,
      up_block_types: ["UpBlock2D", "CrossAttnUpBlock2D"],
      out_channels: 3,
      use_linear_projection: true,
      addition_embed_type: "text_time",
      addition_time_embed_dim: 4,
      projection_class_embeddings_input_dim: 14,
      time_cond_proj_dim: 5,
      class_embed_type: "timestep",
      encoder_hid_dim: 6,
    });
    const inputs = named({
      x: input("x", [n, 4, 5, 3]),
      t: input("t", [n]),
      text: input("text", [n, 3, 6]),
      pooled: input("pooled", [n, 6]),
      ids: input("ids", [n, 2]),
      guidance: input("guidance", [n, 5]),
      label: input("label", [n]),
      mid: input("mid", [n, 12, 3, 2]),
    });
    const output = network(inputs.x!, inputs.t!, inputs.text!, {
      textEmbeds: inputs.pooled,
      timeIds: inputs.ids,
      timestepCondition: inputs.guidance,
      classLabels: inputs.label,
      midResidual: inputs.mid,
    });
    return { network, inputs, output };
  },
  ControlNetModel() {
    const network = controlNet({ ...encoderConfig, conditioning_embedding_out_channels: [4, 6] });
    const inputs = named({
      x: input("x", [n, 4, 4, 4]),
      t: input("t", [n]),
      text: input("text", [n, 3, 10]),
      picture: input("picture", [n, 3, 8, 8]),
    });
    const { down, mid } = network(inputs.x!, inputs.t!, inputs.text!, inputs.picture!, { guessMode: true });
    return { network, inputs, output: flat(...down, mid) };
  },
  AutoencoderKL() {
    const network = autoencoderKL({
      block_out_channels: [6, 12],
      down_block_types: ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
      up_block_types: ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
      norm_num_groups: 3,
      latent_channels: 2,
    });
    const inputs = named({ x: input("x", [n, 3, 6, 6]), noise: input("noise", [n, 2, 3, 3]) });
    return { network, inputs, output: network(inputs.x!, inputs.noise!) };
  },
  AutoencoderTiny() {
    const network = autoencoderTiny({
      encoder_block_out_channels: [4, 4],
      decoder_block_out_channels: [4, 4],
      num_encoder_blocks: [1, 1],
      num_decoder_blocks: [1, 1],
      act_fn: "silu",
    });
    const inputs = named({ x: input("x", [n, 3, 4, 4]) });
    // Blocks end with ReLU whatever act_fn says, and finite differences say nothing across its kink: half of the
    // channels are moved far to either side.
    const arrange = (name: string, values: Float32Array) => {
      if (!name.endsWith("conv.4.bias")) return;
      values.forEach((value, i) => {
        values[i] = value + (i % 2 === 0 ? 5 : -5);
      });
    };
    return { network, inputs, output: network(inputs.x!), arrange };
  },
  "VQModel, encoder and decoder"() {
    const network = vqModel({ block_out_channels: [4, 8], norm_num_groups: 2, num_vq_embeddings: 5, ...twoLevels });
    const inputs = named({ x: input("x", [n, 3, 4, 4]) });
    // Past the codebook: the gradient through the nearest entry is an estimate by design, not the slope.
    return { network, inputs, output: network.decode(network.encode(inputs.x!)) };
  },
  DiTTransformer2DModel() {
    const network = dit({
      num_attention_heads: 2,
      attention_head_dim: 4,
      in_channels: 2,
      num_layers: 2,
      sample_size: 4,
      num_embeds_ada_norm: 7,
    });
    const inputs = named({ x: input("x", [n, 2, 4, 4]), t: input("t", [n]), y: input("y", [n], "int64") });
    return { network, inputs, output: network(inputs.x!, inputs.t!, inputs.y!) };
  },
  PixArtTransformer2DModel() {
    const network = pixart({
      num_attention_heads: 3,
      attention_head_dim: 4,
      in_channels: 2,
      out_channels: 4,
      num_layers: 2,
      cross_attention_dim: 12,
      sample_size: 4,
      caption_channels: 6,
      use_additional_conditions: true,
    });
    const inputs = named({
      x: input("x", [n, 2, 4, 4]),
      t: input("t", [n]),
      text: input("text", [n, 3, 6]),
      size: input("size", [n, 2]),
      ratio: input("ratio", [n, 1]),
    });
    const sizes = { resolution: inputs.size, aspectRatio: inputs.ratio };
    return { network, inputs, output: network(inputs.x!, inputs.t!, inputs.text!, sizes) };
  },
  "SD3Transformer2DModel, dual attention and normalized queries"() {
    const network = sd3({
      sample_size: 4,
      in_channels: 2,
      out_channels: 2,
      num_layers: 2,
      attention_head_dim: 4,
      num_attention_heads: 2,
      joint_attention_dim: 6,
      caption_projection_dim: 8,
      pooled_projection_dim: 5,
      pos_embed_max_size: 3,
      dual_attention_layers: [0],
      qk_norm: "rms_norm",
    });
    const inputs = named({
      x: input("x", [n, 2, 4, 4]),
      t: input("t", [n]),
      text: input("text", [n, 3, 6]),
      pooled: input("pooled", [n, 5]),
    });
    return { network, inputs, output: network(inputs.x!, inputs.t!, inputs.text!, inputs.pooled!) };
  },
  FluxTransformer2DModel() {
    const network = flux({
      in_channels: 4,
      num_layers: 1,
      num_single_layers: 1,
      attention_head_dim: 6,
      num_attention_heads: 2,
      joint_attention_dim: 5,
      pooled_projection_dim: 3,
      guidance_embeds: true,
      axes_dims_rope: [2, 2, 2],
    });
    const inputs = named({
      x: input("x", [n, 4, 4]),
      t: input("t", [n]),
      text: input("text", [n, 3, 5]),
      pooled: input("pooled", [n, 3]),
      where: input("where", [4, 3]),
      textWhere: input("textWhere", [3, 3]),
      guidance: input("guidance", [n]),
    });
    const output = network(inputs.x!, {
      timestep: inputs.t!,
      text: inputs.text!,
      pooled: inputs.pooled!,
      imagePositions: inputs.where!,
      textPositions: inputs.textWhere!,
      guidance: inputs.guidance,
    });
    return { network, inputs, output };
  },
  CLIPTextModel() {
    const network = clipText({ ...textConfig, hidden_act: "quick_gelu" });
    const inputs = named({ ids: input("ids", [n, 5], "int64") });
    const { last, hidden } = network(inputs.ids!);
    return { network, inputs, output: flat(last, hidden[1]!) };
  },
  CLIPTextModelWithProjection() {
    const network = clipTextWithProjection({ ...textConfig, hidden_act: "gelu" });
    const inputs = named({ ids: input("ids", [n, 5], "int64") });
    return { network, inputs, output: network(inputs.ids!).pooled };
  },
  T5EncoderModel() {
    const network = t5Encoder({
      vocab_size: 9,
      d_model: 8,
      d_kv: 3,
      d_ff: 10,
      num_layers: 2,
      num_heads: 2,
      feed_forward_proj: "gated-gelu",
    });
    const inputs = named({ ids: input("ids", [n, 5], "int64") });
    return { network, inputs, output: network(inputs.ids!).last };
  },
};
