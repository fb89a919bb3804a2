import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { seeded } from "../src/core/random.ts";
import { hostImage, readJsonObject, writeJsonObject } from "../src/io/index.ts";
import { pipeline, type TextToImagePipeline, type TextToImageRequestInput } from "../src/pipelines/index.ts";
import { pipelines } from "./reference/cases/pipelines.ts";

const reference = fileURLToPath(new URL("fixtures/reference", import.meta.url));
const model = join(reference, "pipelines", "sd15");
let folder: string;
let pipe: TextToImagePipeline;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-sd-"));
  pipe = await pipeline("text-to-image", model, { threads: 1 });
});
afterAll(async () => {
  await pipe.close();
  await rm(folder, { recursive: true });
});

const quick = { prompt: "a photo of a red cat", steps: 2, sampler: "euler" } as const;
const farthest = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);
const picture = (size: number, channels: 1 | 3) =>
  hostImage(
    size,
    size,
    channels,
    Uint8Array.from({ length: size * size * channels }, (_, i) => (i * 37) % 256),
  );

const cases = (await pipelines.discover(reference)).filter(({ name }) => name.includes("/sd15/"));

describe("Stable Diffusion", () => {
  test.each(cases.map((one) => [one.name, one] as const))("draws what diffusers draws: %s", async (_, one) => {
    const comparisons = await one.run();
    expect(comparisons.length).toBeGreaterThan(10);
    expect(comparisons.filter(({ pass }) => !pass)).toEqual([]);
  });

  test("draws a picture the same alone, in a batch, beside others and with freed memory", async () => {
    const request = { ...quick, sampler: "euler-ancestral" } as const;
    const [alone] = await pipe.generate({ ...request, seed: 8 });
    const together = await pipe.generate({ ...request, prompt: ["a castle", quick.prompt], seeds: [3, 8], batch: 2 });
    const counted = await pipe.generate({ ...request, seed: 6, count: 3, batch: 2 });
    const low = await pipeline("text-to-image", model, { threads: 1, lowMemory: true });
    const freed = await low.generate({ ...request, seed: 8 });
    await low.close();
    expect(counted.map(({ seed }) => seed)).toEqual([6, 7, 8]);
    expect(together.map(({ prompt }) => prompt)).toEqual(["a castle", quick.prompt]);
    for (const other of [together[1]!, counted[2]!, freed[0]!]) {
      expect(farthest(other.float.data, alone!.float.data)).toBeLessThan(1e-4);
      expect(farthest(other.data, alone!.data)).toBeLessThanOrEqual(1);
    }
    expect(farthest(together[0]!.float.data, alone!.float.data)).toBeGreaterThan(0.01);
    expect(alone!.float.shape).toEqual([3, 24, 24]);
  });

  test("guidance in turn asks twice as often with half the states, for the same picture", async () => {
    const calls: number[] = [];
    const draw = async (more: object) => {
      let drawn: Float32Array | undefined;
      for await (const state of pipe.stream({ ...quick, seed: 8, ...more })) {
        if (!state.images) continue;
        drawn = state.images[0]!.float.data;
        calls.push(state.calls);
      }
      return drawn!;
    };
    const together = await draw({});
    expect(farthest(await draw({ guidanceInTurn: true }), together)).toBeLessThan(1e-4);
    expect(calls[1]).toBe(2 * calls[0]!);
    const partly = { guidanceInterval: [1, 5] } as const;
    expect(farthest(await draw({ ...partly, guidanceInTurn: true }), await draw(partly))).toBeLessThan(1e-4);
    expect(farthest(await draw(partly), together)).toBeGreaterThan(1e-3);
    const large = { ...quick, width: 2048, height: 2048, vaeTile: 64 };
    const states = async (request: object) => (await pipe.memory({ ...large, ...request })).states;
    expect(await states({ guidanceInTurn: true })).toBe(await states({ guidance: 1 }));
    expect(await states({ guidanceInTurn: true })).toBeLessThan(await states({}));
  });

  test("one random source for all pictures is diffusers' single generator", async () => {
    const request = { ...quick, count: 2, batch: 2 };
    const images = await pipe.generate(request, { random: seeded(5) });
    const first = seeded(5).normal([2, 4, 12, 12]);
    for await (const { start } of pipe.stream(request, { random: seeded(5) })) {
      const ratio = start.data[0]! / first.data[0]!;
      expect(
        farthest(
          start.data,
          first.data.map((value) => value * ratio),
        ),
      ).toBeLessThan(1e-4);
      break;
    }
    expect(images).toHaveLength(2);
    await expect(pipe.generate({ ...request, batch: 1 }, { random: seeded(5) })).rejects.toThrow(/one batch only/);
  });

  test("streams steps with latents and previews, and stops when asked", async () => {
    const states = [];
    for await (const state of pipe.stream({ ...quick, steps: 3, count: 2 })) states.push(state);
    expect(states.map(({ done, total, step }) => [done, total, step])).toEqual(
      [1, 2, 3, 4, 5, 6].map((done) => [done, 6, ((done - 1) % 3) + 1]),
    );
    expect((await states[0]!.preview())[0]).toMatchObject({ width: 12, height: 12, channels: 3 });
    expect(states.map(({ images }) => images?.length ?? 0)).toEqual([0, 0, 1, 0, 0, 1]);
    const controller = new AbortController();
    const seen: number[] = [];
    await expect(async () => {
      for await (const { step } of pipe.stream({ ...quick, steps: 20 }, { signal: controller.signal })) {
        seen.push(step);
        if (step === 2) controller.abort(new Error("enough"));
      }
    }).rejects.toThrow("enough");
    expect(seen).toEqual([1, 2]);
    // The model is as good as before.
    expect(await pipe.generate(quick)).toHaveLength(1);
  });

  test("takes any size that fits its latents, guides only inside an interval, and says what a prompt loses", async () => {
    expect((await pipe.generate({ ...quick, width: 32, height: 16 }))[0]).toMatchObject({ width: 32, height: 16 });
    const [never] = await pipe.generate({ ...quick, guidanceInterval: [1e6, 1e7] });
    const [without] = await pipe.generate({ ...quick, guidance: 1 });
    const [always] = await pipe.generate({ ...quick, guidanceInterval: [0, 1e7] });
    const [guided] = await pipe.generate(quick);
    expect(farthest(never!.float.data, without!.float.data)).toBeLessThan(1e-5);
    expect(farthest(always!.float.data, guided!.float.data)).toBeLessThan(1e-5);
    expect(farthest(never!.float.data, guided!.float.data)).toBeGreaterThan(1e-3);
    expect(pipe.dropped(quick)).toEqual([]);
    const [cut] = pipe.dropped({ prompt: `${"word ".repeat(80)}the end` });
    expect(cut!.dropped).toMatch(/the end$/);
  });

  test("reads weights and long prompts where it is asked to", async () => {
    const draw = async (request: object) => (await pipe.generate({ ...quick, ...request }))[0]!.float.data;
    const plain = await draw({});
    const weights = true;
    // Brackets that weigh nothing change nothing: words are encoded one by one either way.
    expect(farthest(await draw({ weights, prompt: "a photo of a (red:1.0) cat" }), plain)).toBe(0);
    const heavy = await draw({ weights, prompt: "a photo of a (red:1.4) cat" });
    expect(farthest(heavy, plain)).toBeGreaterThan(1e-4);
    expect(farthest(await draw({ weights, prompt: "a photo of a ((red:1.4):1) cat" }), heavy)).toBe(0);
    expect(farthest(await draw({ prompt: "a photo of a (red:1.4) cat" }), heavy)).toBeGreaterThan(1e-4);
    await expect(draw({ weights, prompt: "a photo (of" })).rejects.toThrow(/has no partner/);

    const long = `${"a photo of a red cat, ".repeat(12)}and nothing else`;
    expect(farthest(await draw({ chunks: true }), plain)).toBe(0);
    expect(pipe.dropped({ prompt: long })).toHaveLength(1);
    expect(pipe.dropped({ prompt: long, chunks: true })).toEqual([]);
    const { positive, negative } = await pipe.conditions({ prompt: long, chunks: true });
    expect([positive.text.shape[1], negative!.text.shape[1]]).toEqual([154, 154]);
    const cut = await draw({ prompt: long });
    const whole = await draw({ prompt: long, chunks: true });
    expect(farthest(cut, whole)).toBeGreaterThan(1e-4);
    // The same beside a short one, which stays as it is alone.
    const request = { ...quick, prompt: [quick.prompt, long], seeds: [0, 0], chunks: true, batch: 2 };
    const [first, second] = await pipe.generate(request);
    expect(farthest(first!.float.data, plain)).toBe(0);
    expect(farthest(second!.float.data, whole)).toBe(0);
  });

  test("lets the autoencoder work on tiles", async () => {
    const request = { ...quick, width: 64, height: 48 };
    const [whole] = await pipe.generate(request);
    // One tile that holds everything is no tiling.
    expect((await pipe.generate({ ...request, vaeTile: 64 }))[0]!.data).toEqual(whole!.data);
    const [tiled] = await pipe.generate({ ...request, vaeTile: 48 });
    const mean = tiled!.float.data.reduce((sum, value, i) => sum + Math.abs(value - whole!.float.data[i]!), 0) / 9216;
    // Tiles do not see each other: near their borders pictures differ.
    expect([mean > 0, mean < 0.1]).toEqual([true, true]);
    const image = picture(64, 3);
    const from = await pipe.generate({ ...quick, image, vaeTile: 48, strength: 0.6 });
    expect(from[0]).toMatchObject({ width: 64, height: 64 });
    await expect(pipe.generate({ ...request, vaeTile: 33 })).rejects.toThrow(/must be multiples of 2/);
  });

  test("draws pictures again in a larger size", async () => {
    const request = { ...quick, prompt: [quick.prompt, "a castle"], steps: 4, enlarge: 1.5 };
    const states = [];
    for await (const state of pipe.stream(request)) states.push(state);
    // Four steps for each picture, then half of four for each.
    expect(states.map(({ done, total }) => [done, total])).toEqual(Array.from({ length: 12 }, (_, i) => [i + 1, 12]));
    const images = states.flatMap((state) => state.images ?? []);
    expect(images.map(({ width, height, prompt, seed }) => [width, height, prompt, seed])).toEqual([
      [36, 36, quick.prompt, 0],
      [36, 36, "a castle", 1],
    ]);
    const [draft] = await pipe.generate({ ...quick, steps: 4 });
    const [again] = await pipe.generate({ ...quick, steps: 4, image: draft!, width: 36, height: 36, strength: 0.5 });
    expect(images[0]!.data).toEqual(again!.data);
    await expect(pipe.generate({ ...quick, enlarge: 1.3 })).rejects.toThrow(/no multiple of 2.\nNear is 1.333333/);
  });

  test("an image leaves less to the prompt with less strength, and nothing outside a mask", async () => {
    const image = picture(24, 3);
    const difference = async (request: Partial<TextToImageRequestInput>) => {
      const common = { ...quick, steps: 10, image, prompt: [quick.prompt, "a castle in the fog!"], seeds: [1, 1] };
      let latents: Float32Array = new Float32Array();
      for await (const { x } of pipe.stream({ ...common, batch: 2, ...request })) latents = x.data;
      return farthest(latents.subarray(0, latents.length / 2), latents.subarray(latents.length / 2));
    };
    const [little, much] = [await difference({ strength: 0.1 }), await difference({ strength: 0.9 })];
    expect(little).toBeGreaterThan(0);
    expect(little).toBeLessThan(much / 2);
    expect(await difference({ mask: hostImage(24, 24, 1, new Uint8Array(576)) })).toBe(0);
    expect(await difference({ mask: hostImage(24, 24, 1, new Uint8Array(576).fill(255)) })).toBeGreaterThan(0.01);
  });
});

test("a run that cannot fit into the memory is refused before it begins", async () => {
  const { total, weights } = await pipe.memory(quick);
  expect((await pipe.memory({ ...quick, count: 4, batch: 4, width: 96 })).total).toBeGreaterThan(total);
  // Text encoder, U-Net and autoencoder are stored in float32.
  expect(weights).toBeGreaterThan(900_000);
  expect(weights).toBeLessThan(1_000_000);
  const small = await pipeline("text-to-image", model, { threads: 1, memoryLimit: total });
  expect(await small.generate(quick)).toHaveLength(1);
  await expect(small.generate({ ...quick, width: 512, height: 512 })).rejects.toThrow(
    /This run takes at least [\d.]+ MB \(0.9 MB of weights\); there are [\d.]+ MB.\nTo take less: .*draw smaller pictures/,
  );
  await small.close();
});

describe("what cannot be met is said with what can", () => {
  const image = picture(24, 3);
  test.each<[object, string, RegExp]>([
    [{}, "prompt", /prompt: it is needed/],
    [{ prompt: 3 }, "prompt", /Accepted is a text/],
    [{ ...quick, width: 25 }, "width", /multiples of 2; the width is 25.\nNear is 24 or 26/],
    [{ ...quick, steps: 0 }, "steps", /at least 1/],
    [{ ...quick, steps: 2000 }, "steps", /trained with 1000 timesteps/],
    [{ ...quick, stesp: 4 }, "stesp", /Did you mean steps/],
    [{ ...quick, sampler: "eular" }, "sampler", /Did you mean euler/],
    [{ ...quick, sampler: undefined, spread: "karras" }, "spread", /without a sampler/],
    [{ ...quick, eta: 0.5 }, "eta", /takes no "eta"/],
    [{ ...quick, strength: 0.5 }, "strength", /`strength` was given without `image`/],
    [{ ...quick, mask: picture(24, 1) }, "mask", /`mask` was given without `image`/],
    [{ ...quick, image, mask: picture(22, 1) }, "mask", /mask is 22×22.*the image 24×24/],
    [{ ...quick, image: "nowhere.png" }, "", /There is no file nowhere.png/],
    [{ ...quick, image: picture(23, 3) }, "image", /multiples of 2; the height is 23/],
    [{ ...quick, image, strength: 0.1 }, "strength", /leaves none of 2 steps/],
    [{ ...quick, clipSkip: 3 }, "clipSkip", /leaves nothing of a text encoder with 2 layers/],
    [{ ...quick, guidance: 1, negativePrompt: "blurry" }, "negativePrompt", /no effect, since guidance is 1/],
    [{ ...quick, negativePrompt: ["a", "b"] }, "negativePrompt", /2 texts were given for 1 prompts/],
    [{ ...quick, seeds: [1, 2] }, "seeds", /2 seeds were given for 1 pictures/],
    [{ ...quick, prompt2: "a" }, "prompt2", /has no use for it/],
    [{ ...quick, targetSize: [3, 4] }, "targetSize", /has no use for it/],
    [{ ...quick, guidanceInterval: [3, 2] }, "guidanceInterval", /is empty/],
    [{ ...quick, loras: ["nowhere.safetensors:0.5"] }, "lora", /There is no LoRA nowhere.safetensors/],
  ])("%j", async (request, field, message) => {
    const failed = await pipe.generate(request as TextToImageRequestInput).then(
      () => undefined,
      (error) => error,
    );
    expect(failed).toMatchObject({ name: "UserError", message: expect.stringMatching(message) });
    if (field) expect(failed.options.field).toBe(field);
  });

  test("tasks without what they need, and folders of other kinds", async () => {
    const painting = await pipeline("inpainting", model, { threads: 1 });
    await expect(painting.generate({ ...quick, image })).rejects.toThrow(/This task needs `mask`/);
    await painting.close();
    await expect(pipeline("text-to-image", join(folder, "nothing"))).rejects.toThrow(/There is no folder/);
    await expect(pipeline("text-to-image", join(reference, "pipelines", "ddpm"))).rejects.toThrow(
      /is a DDPMPipeline of .*\nHere Stable Diffusion, PixArt or FLUX.1 is needed/,
    );
    await expect(pipeline("unconditional-image-generation", model)).rejects.toThrow(/pipeline of pixels is needed/);
    const broken = join(folder, "broken");
    await cp(model, broken, { recursive: true });
    const index = join(broken, "model_index.json");
    await writeJsonObject(index, { ...(await readJsonObject(index)), vae: [null, null] });
    await expect(pipeline("text-to-image", broken)).rejects.toThrow(/without a vae/);
    await cp(join(model, "model_index.json"), index);
    await writeFile(join(broken, "unet", "diffusion_pytorch_model.safetensors"), "nothing");
    await expect(pipeline("text-to-image", broken)).rejects.toMatchObject({ name: "UserError" });
    await rm(join(broken, "unet"), { recursive: true });
    await expect(pipeline("text-to-image", broken)).rejects.toThrow(/broken is not complete: .*unet is missing/);
  });
});
