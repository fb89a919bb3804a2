import { expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { input, type Tensor } from "../graph/index.ts";
import { namedParameters } from "../nn/module.ts";
import {
  autoencoderKL,
  clipText,
  clipTextWithProjection,
  controlNet,
  dit,
  networkName,
  networks,
  pixart,
  sd3,
  t5Encoder,
  unet2d,
  unet2dCondition,
  unet2dConfig,
  vqModel,
} from "./index.ts";

const small = { block_out_channels: [8, 8, 8], norm_num_groups: 4, layers_per_block: 1 };
const plain = {
  ...small,
  down_block_types: ["DownBlock2D", "DownBlock2D", "DownBlock2D"],
  up_block_types: ["UpBlock2D", "UpBlock2D", "UpBlock2D"],
};

test("fields that are not known are named, all of them", () => {
  expect(() => unet2d({ chanels: [1], layers: 2 })).toThrow(/"chanels", "layers": no such field/);
});

test("values that cannot be taken are named with what can", () => {
  expect(() => unet2d({ ...plain, time_embedding_type: "spiral" })).toThrow(
    /"time_embedding_type" is "spiral"; accepted: "positional", "fourier", "learned"/,
  );
  expect(() => unet2d({ ...plain, in_channels: 0 })).toThrow(/"in_channels" is 0; a whole number from 1/);
  expect(() => unet2d({ ...plain, act_fn: "sine" })).toThrow(/no activation function "sine"/);
  expect(() => unet2d({ ...plain, down_block_types: ["DownBlock2D", "SkipDownBlock2D", "DownBlock2D"] })).toThrow(
    /"down_block_types.1" is "SkipDownBlock2D"/,
  );
  expect(() => unet2dCondition({ dual_cross_attention: true })).toThrow(
    /"dual_cross_attention" is true; only false is supported/,
  );
});

test("a configuration of another class is refused", () => {
  expect(() => unet2d({ _class_name: "VQModel" })).toThrow(/a VQModel, not of a UNet2DModel/);
});

test("lists of different lengths and groups that do not divide are refused", () => {
  expect(() => unet2d({ ...plain, block_out_channels: [8, 8] })).toThrow(/lists of one length; theirs are 3, 3, 2/);
  expect(() => unet2d({ ...plain, norm_num_groups: 3 })).toThrow(/multiples of norm_num_groups \(3\)/);
  expect(() => unet2dCondition({ layers_per_block: [1, 2] })).toThrow(
    /layers_per_block must be one value or a list of 4/,
  );
});

/** The field that a configuration is refused for. */
function refused(build: () => unknown): string | undefined {
  try {
    build();
  } catch (error) {
    if (error instanceof UserError) return error.options.field;
    throw error;
  }
  return "none";
}

test("fields that contradict each other are refused by name when the configuration is read", () => {
  expect(refused(() => unet2dCondition({ norm_num_groups: 7 }))).toBe("norm_num_groups");
  expect(refused(() => controlNet({ norm_num_groups: 7 }))).toBe("norm_num_groups");
  expect(refused(() => autoencoderKL({ block_out_channels: [33] }))).toBe("norm_num_groups");
  expect(refused(() => vqModel({ norm_num_groups: 7 }))).toBe("norm_num_groups");
  const fourier = { time_embedding_type: "fourier", time_embedding_dim: 7 };
  expect(refused(() => unet2dCondition(fourier))).toBe("time_embedding_dim");
  expect(refused(() => unet2dCondition({ class_embeddings_concat: true }))).toBe("class_embeddings_concat");
  expect(refused(() => sd3({ caption_projection_dim: 100 }))).toBe("caption_projection_dim");
  expect(refused(() => pixart({ attention_head_dim: 4, cross_attention_dim: 64 }))).toBe("use_additional_conditions");
  expect(refused(() => pixart({ cross_attention_dim: 10, caption_channels: 8 }))).toBe("cross_attention_dim");
  expect(refused(() => autoencoderKL({ latents_mean: [1, 1, 1, 1] }))).toBe("latents_std");
  expect(refused(() => autoencoderKL({ latents_mean: [1], latents_std: [1] }))).toBe("latents_mean");
  expect(refused(() => autoencoderKL({ latents_mean: [0, 0, 0, 0], latents_std: [1, 1, 1, 1] }))).toBe("none");
});

test("a text encoder's configuration is that of its class, by transformers' way of naming it", () => {
  expect(refused(() => clipText({ architectures: ["T5EncoderModel"] }))).toBe("architectures");
  expect(refused(() => clipText({ architectures: ["CLIPTextModelWithProjection"] }))).toBe("architectures");
  expect(refused(() => clipTextWithProjection({ model_type: "t5" }))).toBe("model_type");
  expect(refused(() => t5Encoder({ architectures: "CLIPTextModel" }))).toBe("architectures");
  expect(refused(() => clipText({ architectures: null, model_type: "clip_text_model" }))).toBe("none");
  expect(refused(() => t5Encoder({ architectures: ["T5ForConditionalGeneration"], model_type: "t5" }))).toBe("none");
});

test("transformers without layers keep their normalization and projections, as in diffusers", () => {
  const two = {
    block_out_channels: [8, 16],
    down_block_types: ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    ...{ norm_num_groups: 4, layers_per_block: 1, attention_head_dim: 2, cross_attention_dim: 6 },
    transformer_layers_per_block: [0, 1],
  };
  const inside = (network: Parameters<typeof namedParameters>[0], block: string) =>
    [...namedParameters(network).keys()].filter((name) => name.startsWith(`${block}.attentions.0.`));
  const bare = ["norm", "proj_in", "proj_out"].flatMap((layer) => [`${layer}.weight`, `${layer}.bias`]);
  const control = controlNet(two);
  expect(inside(control, "down_blocks.0").sort()).toEqual(
    bare.map((name) => `down_blocks.0.attentions.0.${name}`).sort(),
  );
  expect(inside(control, "down_blocks.1").length).toBeGreaterThan(bare.length);
  const unet = unet2dCondition({
    ...{ ...two, transformer_layers_per_block: 0 },
    up_block_types: ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
  });
  expect(inside(unet, "up_blocks.1")).toHaveLength(6);
  const given = [input("x", [1, 4, 4, 4]), input("t", [1]), input("c", [1, 3, 6])] as const;
  expect(unet(...given).shape).toEqual([1, 4, 4, 4]);
  const { down, mid } = control(...given, input("p", [1, 3, 32, 32]));
  expect([...down, mid].map(({ shape }) => shape[2])).toEqual([4, 4, 2, 2, 2]);
  expect(refused(() => control(...given, input("p", [1, 3, 16, 32])))).toBe("picture");
});

test("what is saved holds every field, and reads back as the same", () => {
  const { config } = unet2d(plain);
  expect(config._class_name).toBe("UNet2DModel");
  expect(config.flip_sin_to_cos).toBe(true);
  expect(config.block_out_channels).toEqual([8, 8, 8]);
  expect(unet2d(config).config).toEqual(config);
});

test("a size that halving does not divide is refused with the sizes that are taken", () => {
  const network = unet2d(plain);
  const run = (size: number) => network(input("x", [1, 3, size, 8]), input("t", [1]));
  expect(run(12).shape).toEqual([1, 3, 12, 8]);
  expect(() => run(10)).toThrow(/multiples of 4; given 10×8/);
  expect(() => run(10)).toThrow(/nearest size it takes is 12×8/);
});

test("class labels are needed or refused as the network has classes", () => {
  const x = input("x", [1, 3, 8, 8]);
  const t = input("t", [1]);
  const labels = input("y", [1], "int64");
  expect(() => unet2d(plain)(x, t, labels)).toThrow(/without classes/);
  expect(() => unet2d({ ...plain, num_class_embeds: 3 })(x, t)).toThrow(/class labels are needed/);
  expect(unet2d({ ...plain, num_class_embeds: 3 })(x, t, labels).shape).toEqual([1, 3, 8, 8]);
});

test("dropout goes where Python's would, with the configuration's probability, and only when training asks for it", () => {
  const seen: number[] = [];
  const dropout = (x: Tensor, probability: number) => {
    seen.push(probability);
    return x;
  };
  const x = input("x", [1, 3, 8, 8]);
  const t = input("t", [1]);
  unet2d({ ...plain, dropout: 0.1 }, { dropout })(x, t);
  // Every residual block: 3 on the way down, 2 in the middle, 6 on the way up.
  expect(seen).toEqual(Array(11).fill(0.1));
  seen.length = 0;
  unet2d(plain, { dropout })(x, t);
  expect(seen).toEqual([]);
});

test("the friendly shape of a U-Net becomes a configuration that is taken", () => {
  const config = unet2dConfig({ size: 32, imageChannels: 1, channels: [24, 48], attentionAt: [16], classes: 10 });
  expect(config.down_block_types).toEqual(["DownBlock2D", "AttnDownBlock2D"]);
  expect(config.up_block_types).toEqual(["AttnUpBlock2D", "UpBlock2D"]);
  expect(config.norm_num_groups).toBe(6);
  expect(unet2d(config).config.num_class_embeds).toBe(10);
  expect(() => unet2dConfig({ size: 32, channels: [8, 8], attentionAt: [4] })).toThrow(/they have 32, 16/);
});

test("sizes that patches do not divide, or that have no positions, are refused", () => {
  const network = dit({ num_attention_heads: 1, attention_head_dim: 8, num_layers: 1, sample_size: 4 });
  const t = input("t", [1]);
  expect(() => network(input("x", [1, 4, 5, 4]), t, input("y", [1], "int64"))).toThrow(/multiples of its patch size 2/);
  const large = sd3({
    num_attention_heads: 1,
    attention_head_dim: 8,
    num_layers: 1,
    caption_projection_dim: 8,
    pos_embed_max_size: 2,
  });
  const run = () => large(input("x", [1, 16, 8, 4]), t, input("c", [1, 2, 4096]), input("p", [1, 2048]));
  expect(run).toThrow(/at most 2×2 patches; given 4×2/);
});

test("the registry finds a network by diffusers' and by transformers' way of naming it", () => {
  expect(networkName({ _class_name: "VQModel" })).toBe("VQModel");
  expect(networkName({ architectures: ["CLIPTextModel"] })).toBe("CLIPTextModel");
  const former = { _class_name: "Transformer2DModel", norm_type: "ada_norm_zero", num_vector_embeds: null };
  expect(networkName(former)).toBe("DiTTransformer2DModel");
  expect(dit({ ...former, num_layers: 1 }).config._class_name).toBe("DiTTransformer2DModel");
  const saved = { ...former, interpolation_scale: null, use_additional_conditions: null, caption_channels: null };
  expect(dit({ ...saved, num_layers: 1 }).config.num_layers).toBe(1);
  expect(() => dit({ ...saved, interpolation_scale: 2 })).toThrow(/"interpolation_scale" is 2; only null or 1/);
  expect(() => networkName({ _class_name: "Kandinsky3UNet" })).toThrow(UserError);
  expect(() => networkName({})).toThrow(/names no class/);
  expect(networks.VQModel).toBeTypeOf("function");
});
