import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run as runCommand } from "../src/cli/program.ts";
import { float32, int64 } from "../src/core/host-tensor.ts";
import { type Samples, samplerFromConfig } from "../src/diffusion/index.ts";
import { hostImage, openTokenizer } from "../src/io/index.ts";
import { pipeline, type TextToImagePipeline } from "../src/pipelines/index.ts";
import { closeRuns, decoded, farthest, run, tinyXl, writeTiny } from "./tiny-models.ts";

const tiny = { base: tinyXl("base"), refiner: tinyXl("refiner") };
let folder: string;
let base: TextToImagePipeline;
let refiner: TextToImagePipeline;
let both: TextToImagePipeline;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-refiner-"));
  for (const kind of ["base", "refiner"] as const) await writeTiny(join(folder, kind), tiny[kind]);
  base = await pipeline("text-to-image", join(folder, "base"), { threads: 1 });
  refiner = await pipeline("image-to-image", join(folder, "refiner"), { threads: 1 });
  both = await pipeline("text-to-image", join(folder, "base"), { threads: 1, refiner: join(folder, "refiner") });
});
afterAll(async () => {
  for (const pipe of [base, refiner, both]) await pipe.close();
  await closeRuns();
  await rm(folder, { recursive: true });
});

const request = { prompt: "a red cat", prompt2: "a photo", negativePrompt: "blurry", steps: 10, guidance: 3, seed: 4 };
const quick = { prompt: "a red cat", steps: 4, guidance: 1 };

test("the refiner goes on where the base stops, as its network gives by hand", async () => {
  let latents: Samples | undefined;
  const told: number[] = [];
  for await (const { x, timestep, images } of base.stream({ ...request, denoisingEnd: 0.8 }, { latentsOnly: true })) {
    told.push(timestep);
    latents = x;
    expect(images).toBeUndefined();
  }
  // 1 and then every hundredth timestep: those from 1000 − 0.8 · 1000 on are the base's.
  expect(told).toEqual([901, 801, 701, 601, 501, 401, 301, 201]);

  const states = [];
  for await (const state of both.stream(request)) states.push(state);
  expect(states.map(({ timestep }) => timestep)).toEqual([...told, 101, 1]);
  expect(states.map(({ done, total }) => [done, total])).toEqual(told.concat(0, 0).map((_, i) => [i + 1, 10]));
  expect(farthest(states[7]!.x.data, latents!.data)).toBe(0);

  const { unet, vae, text_encoder_2: encoder } = tiny.refiner.parts;
  const tokenizer = await openTokenizer(join(folder, "refiner", "tokenizer_2"));
  const textOf = async (text: string, score: number) => {
    const ids = tokenizer.encode(text);
    const padded = [...ids, ...Array<number>(77 - ids.length).fill(ids.at(-1)!)];
    const { states, pooled } = await run(encoder, { ids: int64([1, 77], padded) }, ({ ids }) => {
      const { hidden, pooled } = encoder.network(ids!);
      return { states: hidden[1]!, pooled };
    });
    return { text: states!, textEmbeds: pooled!, timeIds: float32([1, 5], [16, 16, 0, 0, score]) };
  };
  // The refiner's encoder is the second one, and reads its prompt.
  const [positive, negative] = [await textOf("a photo", 6), await textOf("blurry", 2.5)];
  const call = async (x: Samples, t: number, conditions: typeof positive) => {
    const feeds = { x, t: float32([1], [t]), ...conditions };
    const { y } = await run(unet, feeds, ({ x, t, text, textEmbeds, timeIds }) => ({
      y: unet.network(x!, t!, text!, { textEmbeds, timeIds }),
    }));
    return y!.data.slice();
  };
  const network = async (x: Samples, t: number) => {
    const [to, from] = [await call(x, t, positive), await call(x, t, negative)];
    return float32(
      x.shape,
      to.map((value, i) => from[i]! + 3 * (value - from[i]!)),
    );
  };
  const plan = samplerFromConfig(tiny.refiner.scheduler).plan({ steps: 10 });
  let expected: Samples | undefined;
  const start = { ...latents!, data: latents!.data.slice() };
  for await (const { x } of plan.sample(network, start, { first: 8 })) expected = x;
  const image = states[9]!.images![0]!;
  expect(farthest(image.float.data, await decoded(vae, expected!))).toBeLessThan(2e-4);
  // The picture keeps all that was said.
  expect([image.prompt, image.prompt2, image.negative, image.seed]).toEqual(["a red cat", "a photo", "blurry", 4]);
});

test("a model that refines itself draws what it draws alone, in batches too and with freed memory", async () => {
  const self = await pipeline("text-to-image", join(folder, "base"), {
    ...{ threads: 1, refiner: join(folder, "base"), lowMemory: true },
  });
  const three = { ...request, steps: 6, count: 3, batch: 2 };
  const [alone, refined] = [await base.generate(three), await self.generate({ ...three, refineFrom: 0.5 })];
  await self.close();
  expect(refined.map(({ seed }) => seed)).toEqual([4, 5, 6]);
  for (const [i, image] of refined.entries()) {
    expect(farthest(image.float.data, alone[i]!.float.data)).toBeLessThan(1e-4);
  }
});

test("base and refiner draw the same where each network is freed before the next", async () => {
  const frugal = await pipeline("text-to-image", join(folder, "base"), {
    ...{ threads: 1, refiner: join(folder, "refiner"), lowMemory: true },
  });
  const two = { ...quick, count: 2, refineFrom: 0.5 };
  const [freed, kept] = [await frugal.generate(two), await both.generate(two)];
  expect(await frugal.generate(two)).toEqual(freed);
  for (const [i, image] of freed.entries()) {
    expect(farthest(image.float.data, kept[i]!.float.data)).toBeLessThan(1e-6);
  }
  const [less, all] = [await frugal.memory(two), await both.memory(two)];
  expect(less.total).toBeLessThan(all.total);
  await frugal.close();
});

test("latents are handed over by hand, and nothing is refined where that is asked", async () => {
  const part = { ...quick, count: 2, batch: 2 };
  let latents: Samples | undefined;
  for await (const { x } of base.stream({ ...part, denoisingEnd: 0.6 }, { latentsOnly: true })) latents = x;
  const open = await pipeline("text-to-image", join(folder, "refiner"), { threads: 1 });
  const byHand = await open.generate({ ...part, latents, denoisingStart: 0.6 });
  await open.close();
  const drawn = await both.generate({ ...part, refineFrom: 0.6 });
  for (const i of [0, 1]) expect(farthest(byHand[i]!.float.data, drawn[i]!.float.data)).toBeLessThan(1e-5);
  const [plain] = await base.generate(quick);
  expect(farthest((await both.generate({ ...quick, refineFrom: 1 }))[0]!.float.data, plain!.float.data)).toBe(0);
  expect(farthest(drawn[0]!.float.data, plain!.float.data)).toBeGreaterThan(1e-3);
});

test("guidance in turn and rounded weights are the refiner's too", async () => {
  const guided = { ...quick, guidance: 3, negativePrompt: "blurry", refineFrom: 0.5 };
  const [inTurn] = await both.generate({ ...guided, guidanceInTurn: true });
  const [together] = await both.generate(guided);
  expect(farthest(inTurn!.float.data, together!.float.data)).toBeLessThan(1e-5);

  const compute = { threads: 1, quantize: 4 } as const;
  const paths = { base: join(folder, "base"), refiner: join(folder, "refiner") };
  const roundedBase = await pipeline("text-to-image", paths.base, compute);
  const roundedRefiner = await pipeline("text-to-image", paths.refiner, compute);
  const exactRefiner = await pipeline("text-to-image", paths.refiner, { threads: 1 });
  const rounded = await pipeline("text-to-image", paths.base, { ...compute, refiner: paths.refiner });
  let latents: Samples | undefined;
  const part = { ...guided, refineFrom: undefined };
  for await (const { x } of roundedBase.stream({ ...part, denoisingEnd: 0.5 }, { latentsOnly: true })) latents = x;
  const [byHand] = await roundedRefiner.generate({ ...part, latents, denoisingStart: 0.5 });
  const [exact] = await exactRefiner.generate({ ...part, latents, denoisingStart: 0.5 });
  const [drawn] = await rounded.generate(guided);
  expect(farthest(drawn!.float.data, byHand!.float.data)).toBeLessThan(1e-5);
  expect(farthest(drawn!.float.data, exact!.float.data)).toBeGreaterThan(1e-4);
  for (const pipe of [roundedBase, roundedRefiner, exactRefiner, rounded]) await pipe.close();
});

test("the refiner is told sizes and how much a picture pleases", async () => {
  const image = hostImage(16, 12, 3, new Uint8Array(576).fill(90));
  const given = { prompt: "a cat", image, guidance: 2 };
  const ids = async (more: object) => {
    const { positive, negative } = await refiner.conditions({ ...given, ...more });
    return [positive, negative!].map(({ timeIds }) => Array.from(timeIds!.data));
  };
  expect(await ids({})).toEqual([
    [12, 16, 0, 0, 6],
    [12, 16, 0, 0, 2.5],
  ]);
  const scores = { aestheticScore: 7, negativeAestheticScore: 1.5, originalSize: [30, 40], cropTopLeft: [1, 2] };
  expect(await ids(scores)).toEqual([
    [30, 40, 1, 2, 7],
    [30, 40, 0, 0, 1.5],
  ]);
});

test("what contradicts a hand-over is refused by name, before anything is drawn", async () => {
  const latents = float32([1, 4, 8, 8], new Float32Array(256));
  const image = hostImage(16, 16, 3, new Uint8Array(768));
  const mask = hostImage(16, 16, 1, new Uint8Array(256));
  const cases: [TextToImagePipeline, object, string, RegExp][] = [
    [base, { refineFrom: 0.5 }, "refineFrom", /without a refiner/],
    [base, { latents }, "latents", /without `denoisingStart`/],
    [base, { denoisingStart: 0.5 }, "denoisingStart", /without `latents`/],
    [base, { latents, denoisingStart: 0.5, denoisingEnd: 0.4 }, "denoisingEnd", /not after 0.5/],
    [base, { latents, denoisingStart: 0.5, image }, "image", /together with `latents`/],
    [base, { latents, denoisingStart: 0.5, count: 2 }, "latents", /Latents of 1 pictures.*\n.*of 2 pictures/],
    [base, { latents, denoisingStart: 0.9999 }, "denoisingStart", /No step lies/],
    [base, { denoisingEnd: 0.01 }, "denoisingEnd", /No step lies/],
    [base, { denoisingEnd: 0.5, enlarge: 2 }, "denoisingEnd", /together with `enlarge`/],
    [base, { aestheticScore: 5 }, "aestheticScore", /no use for it/],
    [both, { enlarge: 2 }, "enlarge", /together with a refiner.\n.*`refineFrom: 1`/],
    [both, { image, mask }, "mask", /together with a refiner/],
    [both, { refineFrom: 0.9999 }, "denoisingStart", /No step lies/],
  ];
  for (const [pipe, more, field, message] of cases) {
    const error = await pipe.generate({ ...quick, ...more }).then(
      () => undefined,
      (thrown) => thrown,
    );
    expect(error, field).toMatchObject({ name: "UserError", message: expect.stringMatching(message) });
    expect(error.options.field).toBe(field);
  }
});

test("what both models take is what is asked of the memory", async () => {
  const [one, two] = [await base.memory(quick), await both.memory(quick)];
  expect(two.weights).toBeGreaterThan(1.5 * one.weights);
  expect((await both.memory({ ...quick, refineFrom: 1 })).weights).toBe(one.weights);
  const models = { refiner: join(folder, "refiner"), memoryLimit: one.total };
  const small = await pipeline("text-to-image", join(folder, "base"), models);
  await expect(small.generate(quick)).rejects.toThrow(/This run takes at least/);
  await small.close();
});

test("allegory generate refines", async () => {
  const command = async (...words: string[]) => {
    const texts = { out: "", err: "" };
    const io = consoleOn({ write: (text) => (texts.out += text) }, { write: (text) => (texts.err += text) });
    return { status: await runCommand(words, io), ...texts };
  };
  const out = join(folder, "pictures");
  const words = ["--model", join(folder, "base"), "--threads", "1", "--steps", "4", "--seed", "4", "--out"];
  const drawn = await command("generate", "a cat", ...words, out, "--refiner", join(folder, "refiner"));
  expect(drawn).toMatchObject({ status: 0, err: "" });
  const [file] = await readdir(out);
  // The file says which model refined it.
  const like = ["generate", "--threads", "1", "--like", join(out, file!), "--out", join(folder, "again.png")];
  expect(await command(...like)).toMatchObject({ status: 0 });
  expect(await readFile(join(folder, "again.png"))).toEqual(await readFile(join(out, file!)));
});
