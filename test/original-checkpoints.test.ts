import { mkdtemp, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { UserError } from "../src/core/errors.ts";
import { float32, type HostTensor, int64 } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { input, type Tensor, toOnnx } from "../src/graph/index.ts";
import {
  convertFloat,
  readModelFolder,
  readPipelineFolder,
  readSafetensors,
  writeSafetensors,
} from "../src/io/index.ts";
import {
  autoencoderKL,
  type Bind,
  bindWeights,
  type Config,
  clipText,
  clipTextWithProjection,
  type OriginalPart,
  unet2dCondition,
  type Weighted,
} from "../src/models/index.ts";
import { openSingleFile } from "../src/pipelines/single-file.ts";
import { writeSingleFileAsFolder } from "../src/pipelines/single-file-folder.ts";
import { inferenceTarget, openSession } from "../src/runtime/index.ts";
import { openClip, originalUNet, originalVae, randomWeights, under } from "./original-files.ts";

// Whole checkpoints in small, with everything that can be told from names and shapes as in the published ones.

let folder: string;
beforeAll(async () => {
  folder = await realpath(await mkdtemp(join(tmpdir(), "allegory-original-")));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const cross = "CrossAttnDownBlock2D";
const plain = "DownBlock2D";

const unetConfigs = {
  "1.x": {
    block_out_channels: [32, 64, 64],
    down_block_types: [cross, cross, plain],
    cross_attention_dim: 128,
    attention_head_dim: 8,
  },
  "2.x": {
    block_out_channels: [64, 128],
    down_block_types: [cross, plain],
    cross_attention_dim: 128,
    attention_head_dim: [1, 2],
    use_linear_projection: true,
  },
  XL: {
    block_out_channels: [64, 64, 128],
    down_block_types: [plain, cross, cross],
    cross_attention_dim: 256,
    attention_head_dim: [1, 1, 2],
    use_linear_projection: true,
    transformer_layers_per_block: [1, 2, 3],
    addition_embed_type: "text_time",
    addition_time_embed_dim: 256,
    projection_class_embeddings_input_dim: 96 + 6 * 256,
  },
};

function unetConfig(family: keyof typeof unetConfigs) {
  const own = unetConfigs[family];
  return {
    ...own,
    layers_per_block: 2,
    up_block_types: [...own.down_block_types].reverse().map((type) => type.replace("Down", "Up")),
  };
}

const vaeConfig = {
  block_out_channels: [32, 64, 64],
  layers_per_block: 1,
  down_block_types: Array(3).fill("DownEncoderBlock2D"),
  up_block_types: Array(3).fill("UpDecoderBlock2D"),
};

const textConfig = {
  vocab_size: 30,
  hidden_size: 128,
  intermediate_size: 160,
  num_hidden_layers: 3,
  num_attention_heads: 2,
  max_position_embeddings: 9,
  eos_token_id: 2,
};
const clip = { ...textConfig, hidden_act: "quick_gelu", projection_dim: 128 };
const bigClip = { ...textConfig, hidden_act: "gelu", projection_dim: 96 };

/** A network of a checkpoint, and how it is run. */
interface Part {
  readonly network: Weighted & { readonly config: Readonly<Record<string, unknown>> };
  readonly weights: ReadonlyMap<string, HostTensor<"float32">>;
  readonly feeds: Readonly<Record<string, HostTensor>>;
  build(network: never, given: (name: string) => Tensor): Record<string, Tensor>;
}

const random = seeded(5);
const ids = int64([2, 9], [3, 7, 1, 29, 2, 0, 0, 0, 0, 5, 8, 28, 4, 4, 9, 29, 1, 1]);

function unet(family: keyof typeof unetConfigs): Part {
  const network = unet2dCondition(unetConfig(family));
  const xl = family === "XL";
  return {
    network,
    weights: randomWeights(network, 1),
    feeds: {
      x: random.normal([1, 4, 8, 8]),
      t: float32([1], [321]),
      text: random.normal([1, 5, network.config.cross_attention_dim as number]),
      ...(xl ? { pooled: random.normal([1, 96]), ids: float32([1, 6], [64, 64, 0, 0, 64, 64]) } : {}),
    },
    build: (made: typeof network, given) => ({
      y: made(given("x"), given("t"), given("text"), xl ? { textEmbeds: given("pooled"), timeIds: given("ids") } : {}),
    }),
  };
}

function vae(): Part {
  const network = autoencoderKL(vaeConfig);
  return {
    network,
    weights: randomWeights(network, 2),
    feeds: { image: random.normal([1, 3, 16, 16]), latent: random.normal([1, 4, 4, 4]) },
    build: (made: typeof network, given) => ({
      moments: made.encode(given("image")),
      decoded: made.decode(given("latent")),
    }),
  };
}

function text(network: ReturnType<typeof clipText>): Part {
  return {
    network,
    weights: randomWeights(network, 3),
    feeds: { ids },
    build: (made: typeof network, given) => {
      const { last, hidden, pooled } = made(given("ids"));
      return { last, before: hidden.at(-2)!, pooled };
    },
  };
}

async function run(part: Part, network: Weighted, bind: Bind, externalData?: string) {
  const given = (name: string) => input(name, part.feeds[name]!.shape, part.feeds[name]!.dtype);
  const graph = toOnnx(part.build(network as never, given), { bind, target: inferenceTarget() });
  const session = await openSession(graph.bytes, { threads: 1, externalData });
  try {
    return await session.run(part.feeds);
  } finally {
    await session.close();
  }
}

const builders = {
  UNet2DConditionModel: unet2dCondition,
  AutoencoderKL: autoencoderKL,
  CLIPTextModel: clipText,
  CLIPTextModelWithProjection: clipTextWithProjection,
};

const loose = (numbers: number[]): HostTensor => float32([numbers.length], numbers);

interface Checkpoint {
  readonly parts: Partial<Record<OriginalPart, Part>>;
  readonly file: ReadonlyMap<string, HostTensor>;
}

function sd1(): Checkpoint {
  const parts = { unet: unet("1.x"), vae: vae(), text_encoder: text(clipText(clip)) };
  const file = new Map<string, HostTensor>([
    ...under("model.diffusion_model.", originalUNet(parts.unet.weights, parts.unet.network.config)),
    ...under("first_stage_model.", originalVae(parts.vae.weights, vaeConfig)),
    ...under("cond_stage_model.transformer.", parts.text_encoder.weights),
    ["cond_stage_model.transformer.text_model.embeddings.position_ids", int64([1, 9], [0, 1, 2, 3, 4, 5, 6, 7, 8])],
    ["alphas_cumprod", loose([0.9, 0.5])],
    ["model_ema.decay", loose([0.99])],
  ]);
  return { parts, file };
}

function sd2(): Checkpoint {
  const textNetwork = clipText({ ...bigClip, projection_dim: 512 });
  const parts = { unet: unet("2.x"), vae: vae(), text_encoder: text(textNetwork) };
  // The file has a layer more than is used.
  const deeper = clipText({ ...bigClip, num_hidden_layers: 4 });
  const all = new Map([...randomWeights(deeper, 9), ...parts.text_encoder.weights]);
  const file = new Map<string, HostTensor>([
    ...under("model.diffusion_model.", originalUNet(parts.unet.weights, parts.unet.network.config)),
    ...under("first_stage_model.", originalVae(parts.vae.weights, vaeConfig)),
    ...under("cond_stage_model.model.", openClip(all, { ...bigClip, num_hidden_layers: 4 })),
    ["cond_stage_model.model.logit_scale", loose([4.6])],
    ["cond_stage_model.model.text_projection", float32([128, 96], new Float32Array(128 * 96))],
  ]);
  return { parts, file };
}

function xl(): Checkpoint {
  const parts = {
    unet: unet("XL"),
    vae: vae(),
    text_encoder: text(clipText(clip)),
    text_encoder_2: text(clipTextWithProjection(bigClip)),
  };
  const file = new Map<string, HostTensor>([
    ...under("model.diffusion_model.", originalUNet(parts.unet.weights, parts.unet.network.config)),
    ...under("first_stage_model.", originalVae(parts.vae.weights, vaeConfig)),
    ...under("conditioner.embedders.0.transformer.", parts.text_encoder.weights),
    ...under("conditioner.embedders.1.model.", openClip(parts.text_encoder_2.weights, bigClip)),
    ["denoiser.sigmas", loose([1, 2])],
  ]);
  return { parts, file };
}

describe.each([
  ["1.x", sd1, "PNDMScheduler"],
  ["2.x", sd2, "DDIMScheduler"],
  ["XL", xl, "EulerDiscreteScheduler"],
] as const)("a single-file checkpoint of Stable Diffusion %s", (family, make, scheduler) => {
  const { parts, file } = make();

  test("gives the same outputs as its networks, its configurations found from names and shapes", async () => {
    const path = join(folder, `${family}.safetensors`);
    await writeSafetensors(path, file);
    const single = await openSingleFile(path);
    expect(single.family).toBe(family);
    expect(single.scheduler).toMatchObject({ _class_name: scheduler });
    expect(Object.keys(single.parts).sort()).toEqual(Object.keys(parts).sort());
    for (const [name, part] of Object.entries(parts)) {
      const component = single.parts[name as OriginalPart]!;
      const network = builders[component.className](component.config as never);
      const hints = { sample_size: 0, scaling_factor: 0, architectures: 0 };
      expect({ ...network.config, ...hints }).toEqual({ ...part.network.config, ...hints });
      for (const weight of component.weights.values()) expect(weight).toHaveProperty("file");
      const expected = await run(part, part.network, bindWeights(part.network, part.weights));
      const found = await run(part, network, bindWeights(network, component.weights), single.externalData);
      expect(found).toEqual(expected);
    }
  });

  test("is written as a folder with the weights it stands for", async () => {
    const path = join(folder, `${family}-half.safetensors`);
    const half = new Map(
      [...file].map(([name, tensor]) => [name, tensor.dtype === "float32" ? convertFloat(tensor, "float16") : tensor]),
    );
    await writeSafetensors(path, half);
    const target = join(folder, family);
    await writeSingleFileAsFolder(target, await openSingleFile(path), { dtype: "float32" });
    const { components } = await readPipelineFolder(target, { needs: ["scheduler", ...Object.keys(parts)] });
    for (const [name, part] of Object.entries(parts)) {
      const { className, weights } = await readModelFolder(components.get(name)!.path);
      expect(className).toBe(part.network.config._class_name ?? (part.network.config.architectures as string[])[0]);
      const written = await readSafetensors(weights.files[0]!);
      expect([...written.keys()].sort()).toEqual([...part.weights.keys()].sort());
      for (const [weight, tensor] of part.weights) {
        const rounded = convertFloat(convertFloat(tensor, "float16"), "float32");
        // expect() compares long arrays slowly.
        const found = written.get(weight)!.data as Float32Array;
        expect(
          found.every((value, i) => value === rounded.data[i]) && found.length === rounded.data.length,
          weight,
        ).toBe(true);
      }
    }
  });
});

async function refusal(name: string, file: ReadonlyMap<string, HostTensor>): Promise<string> {
  const path = join(folder, `${name}.safetensors`);
  await writeSafetensors(path, file);
  const error = await openSingleFile(path).catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(UserError);
  return (error as Error).message;
}

test("what is missing, unknown or cannot be cut is listed in one error", async () => {
  const file = new Map(sd2().file);
  file.delete("model.diffusion_model.input_blocks.1.0.in_layers.0.bias");
  file.set("model.diffusion_model.adapter.weight", loose([1]));
  file.set("cond_stage_model.model.transformer.resblocks.1.attn.in_proj_bias", loose([1, 2]));
  const message = await refusal("damaged", file);
  expect(message).toContain("1 weights are missing:\n  model.diffusion_model.input_blocks.1.0.in_layers.0.bias");
  expect(message).toContain("1 weights are not known:\n  model.diffusion_model.adapter.weight");
  expect(message).toContain("in_proj_bias [2]");
});

test("files of other kinds are told apart", async () => {
  const kinds = [
    ["transformer_blocks.0.norm.weight", "in the naming of diffusers"],
    ["model.diffusion_model.joint_blocks.0.weight", "Stable Diffusion 3"],
    ["double_blocks.0.img_attn.qkv.weight", "Flux"],
    ["lora_unet_x.lora_down.weight", "a LoRA"],
    ["something", "no checkpoint of Stable Diffusion"],
  ] as const;
  for (const [name, words] of kinds) expect(await refusal("other", new Map([[name, loose([1])]]))).toContain(words);
});

/** A U-Net alone, in the file of its authors. */
async function unetFile(family: keyof typeof unetConfigs, options: Config) {
  const config = { ...unetConfig(family), ...options };
  const weights = randomWeights(unet2dCondition(config), 1);
  const path = join(folder, "unet.safetensors");
  await writeSafetensors(path, new Map(under("model.diffusion_model.", originalUNet(weights, config))));
  return { path, weights };
}

test("a U-Net that is told the guidance is that of a latent consistency model", async () => {
  const { path, weights } = await unetFile("1.x", { time_cond_proj_dim: 24 });
  const { family, parts, scheduler } = await openSingleFile(path);
  expect(family).toBe("1.x");
  expect(parts.unet!.config).toMatchObject({ time_cond_proj_dim: 24 });
  expect(new Set(parts.unet!.weights.keys())).toEqual(new Set(weights.keys()));
  expect(scheduler).toMatchObject({ _class_name: "LCMScheduler", prediction_type: "epsilon" });
});

test("files of 2.x predict v, those of its inpainting model the noise, and what is given otherwise", async () => {
  const { path } = await unetFile("2.x", {});
  const [usual, given] = [await openSingleFile(path), await openSingleFile(path, { prediction: "epsilon" })];
  expect(usual.scheduler).toMatchObject({ prediction_type: "v_prediction" });
  expect(usual.notes).toEqual([expect.stringContaining("--prediction epsilon")]);
  expect([given.scheduler!.prediction_type, given.notes]).toEqual(["epsilon", []]);
  const inpainting = await openSingleFile((await unetFile("2.x", { in_channels: 9 })).path);
  expect([inpainting.scheduler!.prediction_type, inpainting.notes]).toEqual(["epsilon", []]);
});

test("an autoencoder alone of 16 latent channels has the scaling of FLUX.1 until it is told another", async () => {
  const config = { ...vaeConfig, latent_channels: 16, use_quant_conv: false, use_post_quant_conv: false };
  const path = join(folder, "ae.safetensors");
  await writeSafetensors(path, originalVae(randomWeights(autoencoderKL(config), 2), config));
  const { parts, notes } = await openSingleFile(path);
  expect(parts.vae!.config).toMatchObject({ scaling_factor: 0.3611, shift_factor: 0.1159, use_quant_conv: false });
  expect(notes).toEqual([expect.stringContaining("Stable Diffusion 3 has 1.5305 and 0.0609")]);
  const known = await openSingleFile(path, { configs: { vae: { scaling_factor: 0.5 } } });
  expect(known.notes).toEqual([]);
  expect(known.parts.vae!.config).toMatchObject({ scaling_factor: 0.5 });
  expect(known.parts.vae!.config).not.toHaveProperty("shift_factor");
});

test("an autoencoder alone is read, and says that its scaling factor is a guess", async () => {
  const part = vae();
  const path = join(folder, "vae.safetensors");
  await writeSafetensors(path, originalVae(part.weights, vaeConfig));
  const single = await openSingleFile(path);
  expect(single.notes).toEqual([expect.stringContaining("scaling_factor")]);
  expect(single.scheduler).toBeUndefined();
  expect([...single.parts.vae!.weights.keys()]).toEqual([...part.weights.keys()]);
  const known = await openSingleFile(path, { configs: { vae: { scaling_factor: 0.13025 } } });
  expect(known.notes).toEqual([]);
  expect(known.parts.vae!.config.scaling_factor).toBe(0.13025);
});
