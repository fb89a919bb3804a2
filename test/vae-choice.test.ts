import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { readJsonObject, writeJsonObject, writeModelFolder, writeSafetensors } from "../src/io/index.ts";
import { autoencoderKL, autoencoderTiny, flux } from "../src/models/index.ts";
import { pipeline, type TextToImageOptions, type TextToImageState } from "../src/pipelines/index.ts";
import { originalVae, randomWeights } from "./original-files.ts";
import { tinyFlux, writeTiny } from "./tiny-models.ts";

// Another autoencoder in every form that it comes in, and what previews make of latents.

const reference = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
let folder: string;
let model: string;
const at = (...names: string[]) => join(folder, ...names);

/** An autoencoder such as a file of its authors may hold: its groups are 32 channels. */
const config = {
  block_out_channels: [32, 32],
  layers_per_block: 1,
  down_block_types: Array(2).fill("DownEncoderBlock2D"),
  up_block_types: Array(2).fill("UpDecoderBlock2D"),
  scaling_factor: 0.3,
};

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-vae-"));
  model = at("model");
  await cp(reference, model, { recursive: true });
  const own = join(model, "vae", "config.json");
  await writeJsonObject(own, { ...(await readJsonObject(own)), scaling_factor: 0.3 });
  const weights = randomWeights(autoencoderKL(config), 4);
  await writeModelFolder(at("other"), { className: "AutoencoderKL", config, tensors: weights });
  await writeSafetensors(at("original.safetensors"), originalVae(weights, config));
  const tiny = autoencoderTiny({
    ...{ encoder_block_out_channels: [8, 8], decoder_block_out_channels: [8, 8] },
    ...{ num_encoder_blocks: [1, 1], num_decoder_blocks: [1, 1] },
  });
  const { _class_name: _, ...tinyConfig } = tiny.config;
  await writeModelFolder(at("tiny"), {
    ...{ className: "AutoencoderTiny", config: tinyConfig, tensors: randomWeights(tiny, 5) },
  });
});
afterAll(() => rm(folder, { recursive: true }));

async function drawn(options: TextToImageOptions): Promise<TextToImageState[]> {
  const pipe = await pipeline("text-to-image", model, { threads: 1, ...options });
  const states: TextToImageState[] = [];
  for await (const state of pipe.stream({ prompt: "a cat", steps: 2, sampler: "euler" })) {
    // Before the pipeline is closed.
    const preview = await state.preview();
    states.push({ ...state, preview: async () => preview });
  }
  await pipe.close();
  return states;
}
const pictureOf = (states: readonly TextToImageState[]) => states.at(-1)!.images![0]!;

test("another autoencoder is a folder, a file in it, or its authors' file, which takes the model's scaling", async () => {
  const [plain, other, file, original, tiny] = [
    await drawn({}),
    await drawn({ vae: at("other") }),
    await drawn({ vae: at("other", "diffusion_pytorch_model.safetensors") }),
    await drawn({ vae: at("original.safetensors") }),
    await drawn({ vae: at("tiny") }),
  ].map(pictureOf);
  expect(other!.data).not.toEqual(plain!.data);
  expect(file!.float.data).toEqual(other!.float.data);
  expect(original!.float.data).toEqual(other!.float.data);
  expect(tiny).toMatchObject({ width: 24, height: 24 });
});

test("a file of 16 latent channels is scaled, shifted and normalized as the model's own autoencoder is", async () => {
  const { parts, ...rest } = tinyFlux("schnell");
  const transformer = flux({ ...parts.transformer.network.config, in_channels: 64 });
  const wide = { ...config, latent_channels: 16, use_quant_conv: false, use_post_quant_conv: false };
  const values = (start: number) => Array.from({ length: 16 }, (_, i) => start + i / 20);
  for (const [name, scaling] of [
    ["shift", { scaling_factor: 0.3611, shift_factor: 0.1159 }],
    ["channels", { scaling_factor: 1, latents_mean: values(-0.4), latents_std: values(0.5) }],
  ] as const) {
    const network = autoencoderKL({ ...wide, ...scaling });
    const weights = randomWeights(network, 6);
    await writeTiny(at(name), {
      ...rest,
      parts: {
        ...parts,
        transformer: { ...parts.transformer, network: transformer, tensors: randomWeights(transformer, 5) },
        vae: { className: "AutoencoderKL", network, tensors: weights },
      },
    });
    await writeSafetensors(at(`${name}.safetensors`), originalVae(weights, wide));
    const pipes = await Promise.all(
      [{}, { vae: at(`${name}.safetensors`) }].map((options) =>
        pipeline("text-to-image", at(name), { threads: 1, ...options }),
      ),
    );
    expect(pipes[1]!.model.vae.network.config).toMatchObject(scaling);
    if (name === "shift") {
      const request = { prompt: "a cat", steps: 1, width: 16, height: 16 };
      const [own, file] = await Promise.all(pipes.map(async (pipe) => (await pipe.generate(request))[0]!.float.data));
      expect(file).toEqual(own);
    }
    for (const pipe of pipes) await pipe.close();
  }
});

test("previews are decoded where an autoencoder for them is given, and do not change the picture", async () => {
  const [plain, finer] = [await drawn({}), await drawn({ previewVae: at("tiny") })];
  expect((await plain[0]!.preview())[0]).toMatchObject({ width: 12, height: 12 });
  const previews = await Promise.all(finer.map((state) => state.preview()));
  expect(previews.map(([image]) => image!.width)).toEqual([24, 24]);
  expect(pictureOf(finer).data).toEqual(pictureOf(plain).data);
  // At the end the estimate is the latents themselves, and the preview what that autoencoder makes of them.
  expect(previews[1]![0]!.data).toEqual(pictureOf(await drawn({ vae: at("tiny") })).data);
});

test("without one they are fitted to what the model's own autoencoder decodes", async () => {
  const pipe = await pipeline("text-to-image", model, { threads: 1 });
  const error = async (seed: number) => {
    let difference = Number.NaN;
    for await (const state of pipe.stream({ prompt: "a cat", steps: 2, sampler: "euler", seed })) {
      if (!state.images) continue;
      const [preview] = await state.preview();
      const { data } = state.images[0]!;
      // The mean of the four pixels that a latent pixel becomes.
      const shrunk = (i: number, c: number) => {
        const from = (Math.floor(i / 12) * 2 * 24 + (i % 12) * 2) * 3 + c;
        return (data[from]! + data[from + 3]! + data[from + 72]! + data[from + 75]!) / 4;
      };
      difference = 0;
      for (let i = 0; i < 144; i++) {
        for (let c = 0; c < 3; c++) difference += Math.abs(preview!.data[i * 3 + c]! - shrunk(i, c)) / 432;
      }
    }
    return difference;
  };
  // The picture itself is decoded before its last preview is asked for; another one then fits, too.
  expect(await error(1)).toBeLessThan(20);
  expect(await error(2)).toBeLessThan(20);
  await pipe.close();
});

test("what is no autoencoder for the model is refused, by the option's name", async () => {
  await writeFile(at("weights.bin"), "x");
  await writeSafetensors(at("alone.safetensors"), randomWeights(autoencoderKL(config), 4));
  const wide = { ...config, latent_channels: 8 };
  await writeModelFolder(at("wide"), {
    ...{ className: "AutoencoderKL", config: wide, tensors: randomWeights(autoencoderKL(wide), 1) },
  });
  for (const [options, field, message] of [
    [{ vae: join(model, "unet") }, "vae", /holds a UNet2DConditionModel/],
    [{ previewVae: join(model, "unet") }, "previewVae", /An AutoencoderKL or an AutoencoderTiny is needed/],
    [{ vae: at("weights.bin") }, "vae", /no safetensors file/],
    [{ vae: at("alone.safetensors") }, "vae", /no config.json beside it/],
    [{ previewVae: at("wide") }, "previewVae", /8 latent channels, the denoising network 4/],
    [{ vae: at("nothing") }, "vae", /There is no folder/],
  ] as const) {
    const opening = pipeline("text-to-image", model, options);
    await expect(opening).rejects.toMatchObject({ options: { field }, message: expect.stringMatching(message) });
  }
});
