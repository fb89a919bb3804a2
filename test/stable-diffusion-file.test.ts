import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { HostTensor } from "../src/core/host-tensor.ts";
import { writeSafetensors } from "../src/io/index.ts";
import { autoencoderKL, clipText, clipTextWithProjection, unet2dCondition } from "../src/models/index.ts";
import { pictureNotes, pipeline, readPictureNotes } from "../src/pipelines/index.ts";
import { openSingleFile } from "../src/pipelines/single-file.ts";
import { writeSingleFileAsFolder } from "../src/pipelines/single-file-folder.ts";
import { openClip, originalUNet, originalVae, randomWeights, under } from "./original-files.ts";

const tokenizers = fileURLToPath(new URL("fixtures/reference/tokenizers", import.meta.url));
const tokenizer = join(tokenizers, "clip-small");
let folder: string;
let file: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-file-"));
  file = join(folder, "xl.safetensors");
  await writeSafetensors(file, tinyXl());
});
afterAll(() => rm(folder, { recursive: true }));

/** A checkpoint of Stable Diffusion XL in small, as the original code writes it. */
function tinyXl(): Map<string, HostTensor> {
  const unetConfig = {
    block_out_channels: [64, 64],
    down_block_types: ["DownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types: ["CrossAttnUpBlock2D", "UpBlock2D"],
    layers_per_block: 1,
    cross_attention_dim: 256,
    attention_head_dim: [1, 1],
    use_linear_projection: true,
    transformer_layers_per_block: [1, 1],
    addition_embed_type: "text_time",
    addition_time_embed_dim: 256,
    projection_class_embeddings_input_dim: 96 + 6 * 256,
  };
  const vaeConfig = {
    block_out_channels: [32, 32],
    layers_per_block: 1,
    down_block_types: Array(2).fill("DownEncoderBlock2D"),
    up_block_types: Array(2).fill("UpDecoderBlock2D"),
  };
  const text = { vocab_size: 1000, hidden_size: 128, intermediate_size: 64, num_hidden_layers: 2 };
  const common = { ...text, num_attention_heads: 2, max_position_embeddings: 77 };
  const clip = clipText({ ...common, hidden_act: "quick_gelu" });
  const bigConfig = { ...common, hidden_act: "gelu", projection_dim: 96 };
  return new Map<string, HostTensor>([
    ...under("model.diffusion_model.", originalUNet(randomWeights(unet2dCondition(unetConfig), 1), unetConfig)),
    ...under("first_stage_model.", originalVae(randomWeights(autoencoderKL(vaeConfig), 2), vaeConfig)),
    ...under("conditioner.embedders.0.transformer.", randomWeights(clip, 3)),
    ...under(
      "conditioner.embedders.1.model.",
      openClip(randomWeights(clipTextWithProjection(bigConfig), 4), bigConfig),
    ),
  ]);
}

test("a single-file checkpoint of XL draws what its folder in diffusers' layout draws", async () => {
  const path = join(folder, "xl");
  expect(await writeSingleFileAsFolder(path, await openSingleFile(file), { tokenizer })).toEqual({
    ...{ className: "StableDiffusionXLPipeline", missing: [] },
  });
  const request = { prompt: "wow! a red cat", width: 16, height: 16, steps: 2, seed: 3 };
  const drawn = await Promise.all(
    [pipeline("text-to-image", path, { threads: 1 }), pipeline("text-to-image", file, { threads: 1, tokenizer })].map(
      async (opening) => {
        const pipe = await opening;
        const ids = pipe.text.tokens([request.prompt, request.prompt]);
        const [image] = await pipe.generate(request);
        await pipe.close();
        return { ids, image: image!.float.data };
      },
    ),
  );
  expect(drawn[1]).toEqual(drawn[0]);
  // The second encoder is padded with "!", which is a special token there.
  expect(drawn[0]!.ids.map((ids) => ids.at(-1))).toEqual([999, 0]);
});

test("what a file's U-Net predicts can be said; a folder's scheduler says it, as one that is given does", async () => {
  const pipe = await pipeline("text-to-image", file, { tokenizer, prediction: "v_prediction" });
  expect(pipe.model.scheduler).toMatchObject({ prediction_type: "v_prediction" });
  await pipe.close();
  // A picture keeps it, so that it can be drawn again.
  const opened = { prediction: "v_prediction" } as const;
  const notes = pictureNotes({ model: file, opened, request: { prompt: "a cat" }, size: [8, 8] });
  expect(readPictureNotes(notes)).toMatchObject({ opened });
  const sd15 = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
  const scheduler = { _class_name: "DDIMScheduler" };
  for (const [path, options, message] of [
    [sd15, {}, /is a folder, whose scheduler says it/],
    [file, { scheduler }, /beside `scheduler`/],
    [file, { prediction: "sample" as "epsilon" }, /predicts no "sample"/],
  ] as const) {
    const opening = pipeline("text-to-image", path, { tokenizer, prediction: "epsilon", ...options });
    await expect(opening).rejects.toMatchObject({
      ...{ name: "UserError", options: { field: "prediction" }, message: expect.stringMatching(message) },
    });
  }
});

test("one without a tokenizer, or without a U-Net, is refused", async () => {
  await expect(pipeline("text-to-image", file)).rejects.toMatchObject({
    name: "UserError",
    options: { field: "tokenizer" },
  });
  const alone = join(folder, "vae.safetensors");
  await writeSafetensors(alone, new Map([...tinyXl()].filter(([name]) => name.startsWith("first_stage_model."))));
  await expect(pipeline("text-to-image", alone, { tokenizer })).rejects.toThrow(/holds no U-Net, only vae/);
});
