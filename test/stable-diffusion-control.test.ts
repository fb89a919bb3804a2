import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { HostTensor } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { hostImage, readJsonObject, writeModelFolder } from "../src/io/index.ts";
import { controlNet, initialize } from "../src/models/index.ts";
import { pipeline, type TextToImagePipeline } from "../src/pipelines/index.ts";

const model = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
let folder: string;
let plain: TextToImagePipeline;
let zero: TextToImagePipeline;
let trained: TextToImagePipeline;

/** A control network for the tiny model: as new, where it says nothing yet, or with random numbers throughout. */
async function writeControlNet(path: string, asNew: boolean): Promise<void> {
  const unet = await readJsonObject(join(model, "unet", "config.json"));
  const names = ["block_out_channels", "cross_attention_dim", "attention_head_dim", "down_block_types"];
  const { config, ...network } = controlNet({
    ...Object.fromEntries([...names, "layers_per_block", "norm_num_groups"].map((name) => [name, unet[name]])),
    conditioning_embedding_out_channels: [4, 8],
  });
  const tensors = new Map<string, HostTensor>(initialize(network, seeded(1)));
  if (!asNew) {
    const random = seeded(2);
    for (const [name, { shape }] of tensors) {
      if (/zero|controlnet_(down|mid)|cond_embedding/.test(name)) tensors.set(name, random.normal(shape, { std: 0.3 }));
    }
  }
  await writeModelFolder(path, { className: "ControlNetModel", config, tensors });
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-control-"));
  await writeControlNet(join(folder, "zero"), true);
  await writeControlNet(join(folder, "trained"), false);
  const open = (controlNet?: string) => pipeline("text-to-image", model, { threads: 1, controlNet });
  plain = await open();
  zero = await open(join(folder, "zero"));
  trained = await open(join(folder, "trained"));
});
afterAll(async () => {
  for (const pipe of [plain, zero, trained]) await pipe.close();
  await rm(folder, { recursive: true });
});

const controlImage = hostImage(
  24,
  24,
  3,
  Uint8Array.from({ length: 1728 }, (_, i) => (i * 53) % 256),
);
const request = { prompt: "a photo of a red cat", steps: 4, sampler: "euler" } as const;
const farthest = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);
const draw = async (pipe: TextToImagePipeline, more: object = {}) =>
  (await pipe.generate({ ...request, controlImage, ...more }))[0]!.float.data;

test("a control network that is not trained yet changes nothing, whatever the picture", async () => {
  const without = (await plain.generate(request))[0]!.float.data;
  expect(farthest(await draw(zero), without)).toBeLessThan(1e-5);
});

test("a trained one steers by its picture, its scale and the steps it acts in", async () => {
  const without = (await plain.generate(request))[0]!.float.data;
  const steered = await draw(trained);
  expect(farthest(steered, without)).toBeGreaterThan(0.01);
  const other = hostImage(24, 24, 3, new Uint8Array(1728).fill(200));
  expect(farthest(await draw(trained, { controlImage: other }), steered)).toBeGreaterThan(1e-3);
  expect(farthest(await draw(trained, { controlScale: 0 }), without)).toBe(0);
  const late = await draw(trained, { controlInterval: [0.75, 1] });
  expect(farthest(late, without)).toBeGreaterThan(1e-4);
  expect(farthest(late, without)).toBeLessThan(farthest(steered, without));
  expect(farthest(await draw(trained, { controlInterval: [0, 0.2] }), without)).toBe(0);
  const both = await trained.generate({ ...request, controlImage, count: 2, batch: 2 });
  expect(farthest(both[0]!.float.data, steered)).toBeLessThan(1e-4);
});

test("what does not fit is refused with what does", async () => {
  await expect(plain.generate({ ...request, controlImage })).rejects.toThrow(/this model has no control network/);
  await expect(trained.generate(request)).rejects.toThrow(/it needs `controlImage`/);
  await expect(pipeline("text-to-image", model, { controlNet: join(model, "unet") })).rejects.toThrow(
    /holds a UNet2DConditionModel.\nA ControlNetModel is needed/,
  );
  const odd = hostImage(23, 24, 3, new Uint8Array(23 * 24 * 3));
  await expect(trained.generate({ ...request, controlImage: odd })).rejects.toThrow(/the width is 23/);
});
