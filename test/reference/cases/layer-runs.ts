import type { Tensor } from "../../../src/graph/index.ts";
import { attention, type QueryKeyNorm } from "../../../src/nn/attention.ts";
import { feedForward } from "../../../src/nn/feed-forward.ts";
import { groupNorm, layerNorm } from "../../../src/nn/layers.ts";
import { module, type PartGroup } from "../../../src/nn/module.ts";
import { downsample, upsample } from "../../../src/nn/resampling.ts";
import { resnetBlock } from "../../../src/nn/resnet-block.ts";
import { sinusoids, timestepEmbedding } from "../../../src/nn/timestep-embedding.ts";
import { transformer2d } from "../../../src/nn/transformer-2d.ts";
import { transformerBlock } from "../../../src/nn/transformer-block.ts";

type Inputs = Readonly<Record<string, Tensor>>;

/** A layer and how a case calls it. */
export interface LayerRun {
  readonly network: PartGroup;
  call(inputs: Inputs, kwargs: Readonly<Record<string, unknown>>): Tensor;
}

/** Python's constructor arguments, of which every one must be looked at. */
class Arguments {
  private readonly seen = new Set<string>();

  constructor(private readonly values: Readonly<Record<string, unknown>>) {}

  /** The argument, or undefined where it is not given or null. */
  get<T>(name: string): T | undefined {
    this.seen.add(name);
    return (this.values[name] ?? undefined) as T | undefined;
  }

  given(name: string): boolean {
    return name in this.values;
  }

  number(name: string): number {
    const value = this.get<number>(name);
    if (typeof value !== "number") throw new Error(`the argument ${name} is missing`);
    return value;
  }

  /** Arguments that say nothing about the result in float32. */
  ignore(...names: string[]): void {
    for (const name of names) this.seen.add(name);
  }

  finish(): void {
    const unused = Object.keys(this.values).filter((name) => !this.seen.has(name));
    if (unused.length > 0) throw new Error(`the case has arguments that are not known: ${unused.join(", ")}`);
  }
}

type Builder = (args: Arguments) => LayerRun;

const timeEmbedding: Builder = (args) => {
  const channels = args.number("num_channels");
  const waves = {
    flipSinToCos: args.get<boolean>("flip_sin_to_cos"),
    frequencyShift: args.get<number>("downscale_freq_shift"),
    scale: args.get<number>("scale"),
  };
  const embed = timestepEmbedding(channels, args.number("time_embed_dim"), {
    act: args.get("act_fn"),
    outputs: args.get("out_dim"),
    postAct: args.get("post_act_fn"),
    conditionWidth: args.get("cond_proj_dim"),
    bias: args.get("sample_proj_bias"),
  });
  return {
    network: module({ time_embedding: embed }, () => undefined),
    call: ({ timesteps, condition }) => embed(sinusoids(timesteps!, channels, waves), condition),
  };
};

const resnet: Builder = (args) => {
  const inputs = args.number("in_channels");
  const up = args.get<boolean>("up");
  const network = resnetBlock(inputs, args.get("out_channels") ?? inputs, {
    timeChannels: args.given("temb_channels") ? args.get("temb_channels") : 512,
    timeScaleShift: args.get("time_embedding_norm"),
    skipTimeAct: args.get("skip_time_act"),
    groups: args.get("groups"),
    groupsOut: args.get("groups_out"),
    epsilon: args.get("eps"),
    act: args.get("non_linearity"),
    outputScale: args.get("output_scale_factor"),
    shortcut: args.get("use_in_shortcut"),
    shortcutBias: args.get("conv_shortcut_bias"),
    resample: args.get<boolean>("down") ? "down" : up ? "up" : undefined,
  });
  // pre_norm is overwritten by true in Python; dropout does nothing in eval mode.
  args.ignore("pre_norm", "dropout", "conv_shortcut");
  return { network, call: ({ input_tensor, temb }) => network(input_tensor!, temb) };
};

const attend: Builder = (args) => {
  const network = attention(args.number("query_dim"), {
    heads: args.get("heads") ?? 8,
    headWidth: args.get("dim_head") ?? 64,
    contextWidth: args.get("cross_attention_dim"),
    bias: args.get("bias"),
    outBias: args.get("out_bias"),
    normGroups: args.get("norm_num_groups"),
    epsilon: args.get("eps"),
    qkNorm: args.get<QueryKeyNorm>("qk_norm"),
    residual: args.get("residual_connection"),
    rescale: args.get("rescale_output_factor"),
    contextNorm: args.get("cross_attention_norm"),
    addedWidth: args.get("added_kv_proj_dim"),
    onlyAdded: args.get("only_cross_attention"),
    scaled: args.get("scale_qk"),
  });
  args.ignore("upcast_softmax", "upcast_attention", "_from_deprecated_attn_block", "dropout");
  return {
    network,
    call: ({ hidden_states, encoder_hidden_states, attention_mask }) =>
      network(hidden_states!, { context: encoder_hidden_states, mask: attention_mask }),
  };
};

const blockOptions = (args: Arguments) => {
  args.ignore("upcast_attention", "dropout", "final_dropout");
  return {
    heads: args.number("num_attention_heads"),
    headWidth: args.number("attention_head_dim"),
    contextWidth: args.get<number>("cross_attention_dim"),
    doubleSelfAttention: args.get<boolean>("double_self_attention"),
    onlyCrossAttention: args.get<boolean>("only_cross_attention"),
    act: args.get<string>("activation_fn"),
    attentionBias: args.get<boolean>("attention_bias"),
    epsilon: args.get<number>("norm_eps"),
    affine: args.get<boolean>("norm_elementwise_affine"),
  };
};

const BUILDERS: Readonly<Record<string, Builder>> = {
  "time_proj: Timesteps; time_embedding: TimestepEmbedding": timeEmbedding,
  "time_proj: Timesteps; time_embedding: TimestepEmbedding (cond_proj_dim)": timeEmbedding,
  ResnetBlock2D: resnet,
  Attention: attend,
  Downsample2D: (args) => {
    const network = downsample(args.number("channels"), {
      conv: args.get<boolean>("use_conv") ?? false,
      outputs: args.get("out_channels"),
      padding: args.get("padding"),
    });
    args.ignore("name");
    return { network, call: ({ hidden_states }) => network(hidden_states!) };
  },
  Upsample2D: (args) => {
    const network = upsample(args.number("channels"), {
      conv: args.get<boolean>("use_conv") ?? false,
      outputs: args.get("out_channels"),
    });
    args.ignore("name");
    return {
      network,
      call: ({ hidden_states }, kwargs) => network(hidden_states!, kwargs.output_size as [number, number] | undefined),
    };
  },
  FeedForward: (args) => {
    const network = feedForward(args.number("dim"), {
      outputs: args.get("dim_out"),
      mult: args.get("mult"),
      act: args.get("activation_fn"),
      inner: args.get("inner_dim"),
      bias: args.get("bias"),
    });
    args.ignore("dropout", "final_dropout");
    return { network, call: ({ hidden_states }) => network(hidden_states!) };
  },
  BasicTransformerBlock: (args) => {
    const network = transformerBlock(args.number("dim"), blockOptions(args));
    return {
      network,
      call: (inputs) =>
        network(inputs.hidden_states!, {
          context: inputs.encoder_hidden_states,
          mask: inputs.attention_mask,
          contextMask: inputs.encoder_attention_mask,
        }),
    };
  },
  Transformer2DModel: (args) => {
    const network = transformer2d(args.number("in_channels"), {
      ...blockOptions(args),
      layers: args.get("num_layers"),
      groups: args.get("norm_num_groups"),
      linearProjection: args.get("use_linear_projection"),
    });
    args.ignore("out_channels");
    return {
      network,
      call: (inputs) => network(inputs.hidden_states!, { context: inputs.encoder_hidden_states }),
    };
  },
  GroupNorm: (args) => {
    const network = groupNorm(args.number("num_groups"), args.number("num_channels"), { epsilon: args.get("eps") });
    return { network, call: ({ input }) => network(input!) };
  },
  LayerNorm: (args) => {
    const network = layerNorm(args.number("normalized_shape"), {
      epsilon: args.get("eps"),
      affine: args.get("elementwise_affine"),
    });
    return { network, call: ({ input }) => network(input!) };
  },
};

/** The layer of Python's class and constructor arguments. */
export function buildLayer(className: string, values: Readonly<Record<string, unknown>>): LayerRun {
  const builder = BUILDERS[className];
  if (!builder) throw new Error(`the layer ${className} is not built yet`);
  const args = new Arguments(values);
  const run = builder(args);
  args.finish();
  return run;
}
