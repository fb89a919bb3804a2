import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run } from "../src/cli/program.ts";
import { float32, int64 } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { type GuidanceOptions, guided, type Samples, samplerFromConfig } from "../src/diffusion/index.ts";
import { input, toOnnx } from "../src/graph/index.ts";
import { decodeImage, readJsonObject, writeJsonObject, writePipelineFolder } from "../src/io/index.ts";
import { bindWeights, dit } from "../src/models/index.ts";
import { pipeline, type UnconditionalPipeline } from "../src/pipelines/index.ts";
import { inferenceTarget, openSession } from "../src/runtime/index.ts";
import { randomWeights } from "./original-files.ts";

const vae = fileURLToPath(new URL("fixtures/reference/pipelines/sd15/vae", import.meta.url));
const config = {
  ...{ num_attention_heads: 2, attention_head_dim: 8, num_layers: 2, in_channels: 4, out_channels: 8 },
  ...{ sample_size: 8, patch_size: 2, num_embeds_ada_norm: 3 },
};
const scheduler = { beta_schedule: "linear", beta_start: 0.0001, beta_end: 0.02, clip_sample: false };
const network = dit(config);
const tensors = randomWeights(network, 1);
let folder: string;
let pipe: UnconditionalPipeline;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-dit-"));
  await writePipelineFolder(folder, "DiTPipeline", {
    transformer: { className: "DiTTransformer2DModel", config: network.config, tensors },
    scheduler: { className: "DDIMScheduler", schedulerConfig: scheduler },
  });
  await cp(vae, join(folder, "vae"), { recursive: true });
  const index = join(folder, "model_index.json");
  await writeJsonObject(index, {
    ...(await readJsonObject(index)),
    vae: ["diffusers", "AutoencoderKL"],
    id2label: { 0: "cat, tabby", 1: "dog", 2: "bird, tabby" },
  });
  pipe = await pipeline("class-to-image", folder, { threads: 1 });
});
afterAll(async () => {
  await pipe.close();
  await rm(folder, { recursive: true });
});

test.each<[string, object, Omit<GuidanceOptions, "scale">]>([
  ["guided all the way", {}, {}],
  ["rescaled", { guidanceRescale: 0.7 }, { rescale: 0.7 }],
  ["guided in an interval", { guidanceInterval: [0.2, 2] }, { interval: { minimum: 0.2, maximum: 2 } }],
])("a diffusion transformer draws what its network and sampler give by hand, %s", async (_, said, options) => {
  const request = { class: "dog", guidance: 4, steps: 5, seeds: [3], ...said };
  let latents: Samples | undefined;
  for await (const { x } of pipe.stream(request)) latents = x;

  const graph = network(input("x", [1, 4, 8, 8]), input("t", [1]), input("label", [1], "int64"));
  const weights = new Map([...tensors].map(([name, tensor]) => [name, tensor] as const));
  const model = toOnnx({ y: graph }, { bind: bindWeights(network, weights), target: inferenceTarget() });
  const session = await openSession(model.bytes, { threads: 1 });
  const ofClass = (label: number) => async (x: Samples, t: number) => {
    const { y } = await session.run({ x, t: float32([1], [t]), label: int64([1], [label]) });
    return float32(x.shape, (y!.data as Float32Array).slice(0, 256));
  };
  const plan = samplerFromConfig({ _class_name: "DDIMScheduler", ...scheduler }).plan({ steps: 5 });
  let expected: Samples | undefined;
  const start = seeded(3).normal([1, 4, 8, 8]);
  for await (const { x } of plan.sample(guided(ofClass(1), ofClass(3), { scale: 4, ...options }), start)) expected = x;
  await session.close();
  const largest = expected!.data.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  latents!.data.forEach((value, i) => {
    expect(Math.abs(value - expected!.data[i]!)).toBeLessThan(1e-4 * largest);
  });
});

test("its classes take turns, and a picture does not depend on its batch", async () => {
  const images = await pipe.generate({ count: 3, steps: 3, guidance: 2, batch: 2 });
  expect(images.map(({ class: name, seed, width, channels }) => [name, seed, width, channels])).toEqual([
    ["cat, tabby", 0, 16, 3],
    ["dog", 1, 16, 3],
    ["bird, tabby", 2, 16, 3],
  ]);
  const [alone] = await pipe.generate({ seeds: [1], class: 1, steps: 3, guidance: 2 });
  alone!.data.forEach((byte, i) => {
    expect(Math.abs(byte - images[1]!.data[i]!)).toBeLessThanOrEqual(1);
  });
});

test("a class is called by each of its names, and guided as published models are where nothing is said", async () => {
  const draw = async (more: object) => (await pipe.generate({ count: 1, steps: 2, ...more }))[0]!;
  const [named, numbered] = [await draw({ class: "bird" }), await draw({ class: 2, guidance: 4 })];
  expect(named.data).toEqual(numbered.data);
  expect((await draw({ class: 2, guidance: 1 })).data).not.toEqual(named.data);
});

test("allegory sample draws with it", async () => {
  let out = "";
  const io = consoleOn({ write: (text) => (out += text) }, { write: (text) => (out += text) });
  const files = ["--out", join(folder, "dog.png"), "--json"];
  const words = ["--class", "dog", "--count", "1", "--steps", "2", "--seed", "3", "--threads", "1"];
  expect(await run(["sample", folder, ...words, ...files], io)).toBe(0);
  expect(JSON.parse(out).pictures).toEqual([expect.objectContaining({ class: "dog", seed: 3, width: 16 })]);
  const [expected] = await pipe.generate({ class: "dog", count: 1, steps: 2, seed: 3 });
  expect((await decodeImage(join(folder, "dog.png"))).data).toEqual(expected!.data);
});

test("what it cannot do is refused", async () => {
  await expect(pipe.generate({ class: "fish" })).rejects.toThrow(
    /no class "fish".\nThe classes are cat, tabby, dog, bird/,
  );
  await expect(pipe.generate({ class: "tabby" })).rejects.toThrow(
    /Several classes are called "tabby".\nGive the number .*: 0 \(cat, tabby\), 2 \(bird, tabby\)/,
  );
  await expect(pipe.generate({ strength: 0.5 })).rejects.toThrow(/`strength` was given; this model has no use for it/);
  await expect(pipeline("text-to-image", folder)).rejects.toThrow(/is a DiTPipeline of/);
});
