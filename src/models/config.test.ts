import { expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { input, type Tensor } from "../graph/index.ts";
import { dit, networkName, networks, sd3, unet2d, unet2dCondition, unet2dConfig } from "./index.ts";

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
  expect(() => networkName({ _class_name: "Kandinsky3UNet" })).toThrow(UserError);
  expect(() => networkName({})).toThrow(/names no class/);
  expect(networks.VQModel).toBeTypeOf("function");
});
