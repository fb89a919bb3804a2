import { cp, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inspectPath } from "../src/cli/inspection.ts";
import { readJsonObject, writeJsonObject } from "../src/io/index.ts";
import { pipeline, type UnconditionalPipeline } from "../src/pipelines/index.ts";
import { pipelines } from "./reference/cases/pipelines.ts";
import { writeTinyPipeline } from "./tiny-pipeline.ts";

const reference = fileURLToPath(new URL("fixtures/reference", import.meta.url));
const cases = (await pipelines.discover(reference)).filter(({ name }) => /\/dd[ip]m\//.test(name));

let folder: string;
let plain: UnconditionalPipeline;
let animals: UnconditionalPipeline;
const TASK = "unconditional-image-generation";

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-pipelines-"));
  await writeTinyPipeline(join(folder, "plain"));
  await writeTinyPipeline(join(folder, "animals"), { classes: ["cat", "dog"], classDropout: true, imageChannels: 1 });
  plain = await pipeline(TASK, join(folder, "plain"), { threads: 1 });
  animals = await pipeline("class-to-image", join(folder, "animals"), { threads: 1 });
});

afterAll(async () => {
  await plain.close();
  await animals.close();
  await rm(folder, { recursive: true, force: true });
});

const bytesOf = (images: readonly { readonly data: Uint8Array }[]) => images.map(({ data }) => [...data]);
const farthest = (a: Uint8Array, b: Uint8Array) =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);

describe("the pipelines of diffusers", () => {
  test("are all among the fixtures", () => expect(cases.length).toBe(6));

  test.each(cases)("$name gives Python's picture for its seeds", async ({ run }) => {
    for (const comparison of await run()) expect(comparison).toMatchObject({ pass: true });
  });
});

describe("a picture", () => {
  test("does not depend on the pictures drawn with it", async () => {
    const together = await plain.generate({ count: 5, steps: 6, batch: 3, seed: 10 });
    const alone = await plain.generate({ seed: 13, count: 1, steps: 6 });
    expect(together.map(({ seed }) => seed)).toEqual([10, 11, 12, 13, 14]);
    expect(farthest(together[3]!.data, alone[0]!.data)).toBeLessThanOrEqual(1);
    expect(farthest(together[3]!.data, together[2]!.data)).toBeGreaterThan(50);
  });

  test("is the same for the same seed, in whatever order seeds are listed", async () => {
    const [a, b] = await plain.generate({ seeds: [7, 3], steps: 4 });
    const [c, d] = await plain.generate({ seeds: [3, 7], steps: 4 });
    expect(bytesOf([d!, c!])).toEqual(bytesOf([a!, b!]));
  });

  test("has the class asked for, by name or by number; without one the classes take turns", async () => {
    const byName = await animals.generate({ seeds: [5], class: "dog", steps: 4 });
    const byNumber = await animals.generate({ seeds: [5], class: 1, steps: 4 });
    const cat = await animals.generate({ seeds: [5], class: "cat", steps: 4 });
    expect(bytesOf(byName)).toEqual(bytesOf(byNumber));
    expect(farthest(byName[0]!.data, cat[0]!.data)).toBeGreaterThan(0);
    expect(byName[0]).toMatchObject({ class: "dog", channels: 1, width: 16, height: 16 });
    const turns = await animals.generate({ count: 3, steps: 1 });
    expect(turns.map((image) => image.class)).toEqual(["cat", "dog", "cat"]);
  });

  test("changes with guidance, towards its class", async () => {
    const at = async (guidance: number) =>
      (await animals.generate({ seeds: [5], class: 1, steps: 4, guidance }))[0]!.data;
    const [none, one, three] = [await at(0), await at(1), await at(3)];
    expect(farthest(one, three)).toBeGreaterThan(0);
    expect(farthest(one, none)).toBeGreaterThan(0);
  });

  test("is guided with less contrast, and between two noise levels only", async () => {
    const at = async (more: object) =>
      (await animals.generate({ seeds: [5], class: 1, steps: 4, guidance: 3, ...more }))[0]!.data;
    const whole = await at({});
    const rescaled = await at({ guidanceRescale: 0.7 });
    expect(farthest(rescaled, whole)).toBeGreaterThan(0);
    expect(farthest(await at({ guidanceInterval: [0, 1e7] }), whole)).toBe(0);
    expect(farthest(await at({ guidanceInterval: [1e6, 1e7] }), await at({ guidance: 1 }))).toBe(0);
    const middle = await at({ guidanceInterval: [0.3, 3] });
    for (const other of [whole, await at({ guidance: 1 })]) expect(farthest(middle, other)).toBeGreaterThan(0);
  });

  test("can have any size that the network allows", async () => {
    const [wide] = await plain.generate({ count: 1, steps: 2, size: [8, 20] });
    expect(wide).toMatchObject({ height: 8, width: 20, channels: 3 });
    await expect(plain.generate({ count: 1, size: 15 })).rejects.toThrow(/multiples of 2; given 15×15/);
  });
});

describe("drawing", () => {
  test("tells each step of each batch, with a preview, and ends with the pictures", async () => {
    const states = [];
    for await (const state of plain.stream({ count: 3, batch: 2, steps: 2 })) states.push(state);
    expect(states.map(({ done, total, step, first, seeds }) => [done, total, step, first, seeds.length])).toEqual([
      [1, 4, 1, 0, 2],
      [2, 4, 2, 0, 2],
      [3, 4, 1, 2, 1],
      [4, 4, 2, 2, 1],
    ]);
    expect(states.map(({ images }) => images?.length)).toEqual([undefined, 2, undefined, 1]);
    expect(states.map((state) => state.preview().length)).toEqual([2, 2, 1, 1]);
    // Noise that grows less: the last state is the picture.
    expect(bytesOf(states[3]!.noisy())).toEqual(bytesOf(states[3]!.images!));
  });

  test("stops between steps when the signal is given, and the pipeline can be used again", async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    let steps = 0;
    const drawing = async () => {
      for await (const _ of plain.stream({ count: 1, steps: 50 }, { signal: controller.signal })) {
        if (++steps === 3) controller.abort(reason);
      }
    };
    await expect(drawing()).rejects.toBe(reason);
    expect(steps).toBe(3);
    expect(await plain.generate({ count: 1, steps: 2 })).toHaveLength(1);
  });

  test("ends when the loop is left", async () => {
    for await (const { done } of plain.stream({ count: 1, steps: 50 })) if (done === 2) break;
    expect(await plain.generate({ count: 1, steps: 2 })).toHaveLength(1);
  });

  test("of several requests at once, of more shapes than sessions are kept, gives what one at a time gives", async () => {
    const requests = [1, 2, 3, 4].map((count) => ({ count, steps: 3, seed: 2 }));
    const all = await Promise.all(requests.map((request) => plain.generate(request)));
    expect(all.map(({ length }) => length)).toEqual([1, 2, 3, 4]);
    for (const images of all) expect(farthest(images[0]!.data, all[0]![0]!.data)).toBeLessThanOrEqual(1);
  });

  test("works with named samplers, also on a schedule that only DDPM knows", async () => {
    const path = join(folder, "sigmoid");
    await writeTinyPipeline(path, { beta_schedule: "sigmoid" });
    const sigmoid = await pipeline(TASK, path, { threads: 1 });
    const draw = async (sampler: "ddim" | "euler", steps: number) =>
      (await sigmoid.generate({ seeds: [4], sampler, spread: "trailing", steps }))[0]!.data;
    // DDIM and Euler are one method in two coordinate systems (up to clipping, which Euler has not).
    expect(farthest(await draw("ddim", 2), await draw("ddim", 3))).toBeGreaterThan(0);
    expect((await draw("euler", 3)).length).toBe(16 * 16 * 3);
    await sigmoid.close();
  });
});

describe("what cannot be met is said with what can", () => {
  test.each([
    [{ count: 0 }, /count: 0 was given. Accepted is at least 1/],
    [{ stesp: 3 }, /stesp: there is no such field. Did you mean steps\?/],
    [{ sampler: "eulr" }, /"eulr" was given. Accepted are ddpm, .* Did you mean euler\?/],
    [{ class: "cat" }, /`class` was given; this model has no classes/],
    [{ guidance: 2 }, /`guidance` was given; this model has no classes/],
    [{ guidanceRescale: 0.5 }, /`guidanceRescale` was given; this model has no classes/],
    [{ guidance: 3, guidanceInterval: [3, 2] }, /guidanceInterval: \[3,2\] was given. It is empty/],
    [{ steps: 101 }, /101 steps were asked for; the network was trained with 100 timesteps/],
    [{ eta: 0.5 }, /DDPMScheduler takes no "eta"/],
    [{ spread: "karras" }, /was given without a sampler/],
  ])("%j", async (request, message) => {
    await expect(plain.generate(request as object)).rejects.toMatchObject({
      name: "UserError",
      message: expect.stringMatching(message),
    });
  });

  test("what is said of guidance where there is none", async () => {
    for (const [field, value] of [
      ["guidanceRescale", 0.7],
      ["guidanceInterval", [1, 2]],
    ] as const) {
      await expect(animals.generate({ [field]: value })).rejects.toMatchObject({
        message: expect.stringContaining(`\`${field}\` was given; it has no effect, since guidance is 1.`),
        options: { field },
      });
    }
  });

  test("a class that there is not", async () => {
    await expect(animals.generate({ class: "bird" })).rejects.toThrow(/no class "bird".\nThe classes are cat, dog/);
    await expect(animals.generate({ class: 2 })).rejects.toThrow(/no class 2/);
  });

  test("guidance of a network that never saw pictures without their class", async () => {
    const path = join(folder, "no-dropout");
    await writeTinyPipeline(path, { classes: ["a", "b", "c"] });
    const pipe = await pipeline(TASK, path, { threads: 1 });
    await expect(pipe.generate({ guidance: 2 })).rejects.toThrow(/was not trained without its classes/);
    expect((await pipe.generate({ count: 3, steps: 1 })).map((image) => image.class)).toEqual(["a", "b", "c"]);
    await pipe.close();
  });
});

describe("folders", () => {
  const refused = (path: string, message: RegExp) =>
    expect(pipeline(TASK, join(folder, path))).rejects.toMatchObject({
      name: "UserError",
      message: expect.stringMatching(message),
    });

  test("of other kinds are refused with what they are", async () => {
    await refused("nothing", /There is no folder/);
    await refused("plain/model_index.json", /is a file; a run folder or a diffusers folder is needed/);
    await mkdir(join(folder, "run"));
    await refused("run", /neither a run folder nor a model/);
    await writeFile(join(folder, "run", "recipe.json"), "{}");
    await refused("run", /The run .*run has no model yet/);
    await expect(pipeline("class-to-image", join(folder, "plain"))).rejects.toThrow(/has no classes/);
    await expect(pipeline("text-to-music" as typeof TASK, folder)).rejects.toThrow(/There is no task "text-to-music"/);
  });

  test("of latent and other pipelines are refused with their parts", async () => {
    await cp(join(folder, "plain"), join(folder, "latent"), { recursive: true });
    const index = join(folder, "latent", "model_index.json");
    await writeJsonObject(index, { ...(await readJsonObject(index)), vae: ["diffusers", "AutoencoderKL"] });
    await refused("latent", /unet \(UNet2DModel\).* vae \(AutoencoderKL\)[\s\S]*pipeline of pixels is needed/);
    await writeTinyPipeline(join(folder, "lying"), { patch: 2 });
    const lying = join(folder, "lying", "model_index.json");
    await writeJsonObject(lying, { ...(await readJsonObject(lying)), patch: 3 });
    await refused("lying", /takes 12 channels for patches of 3×3.\nPictures have 9 or 27/);
  });

  test("of the first published pipelines, whose parts lie side by side, are read", async () => {
    const path = join(folder, "flat");
    for (const part of ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"]) {
      await cp(join(folder, "plain", part), join(path, basename(part)));
    }
    await refused("flat", /There is no file .*scheduler_config.json/);
    await cp(join(folder, "plain", "scheduler", "scheduler_config.json"), join(path, "scheduler_config.json"));
    const flat = await pipeline(TASK, path, { threads: 1 });
    const request = { count: 1, steps: 3 };
    expect(bytesOf(await flat.generate(request))).toEqual(bytesOf(await plain.generate(request)));
    await flat.close();
  });

  test("of a network alone: its pipeline's schedule, or DDPM's with a warning", async () => {
    const inside = await pipeline(TASK, join(folder, "plain", "unet"), { threads: 1 });
    expect(inside.folder.warnings).toEqual([]);
    expect(bytesOf(await inside.generate({ count: 1, steps: 3 }))).toEqual(
      bytesOf(await plain.generate({ count: 1, steps: 3 })),
    );
    await inside.close();
    await cp(join(folder, "plain", "unet"), join(folder, "bare"), { recursive: true });
    const bare = await pipeline(TASK, join(folder, "bare"), { threads: 1 });
    expect(bare.folder.warnings).toEqual([expect.stringContaining("says nothing about its noise schedule")]);
    expect(await bare.generate({ count: 1, steps: 2 })).toHaveLength(1);
    await bare.close();
  });

  test("with a scheduler as diffusers saves it: infinities are read, options it has no use for are told", async () => {
    const path = join(folder, "saved");
    await cp(join(folder, "plain"), path, { recursive: true });
    const saved = `{ "_class_name": "DPMSolverMultistepScheduler", "num_train_timesteps": 100, "clip_sample": true,
      "lambda_min_clipped": -Infinity, "solver_order": 2, "set_alpha_to_one": false }`;
    await writeFile(join(path, "scheduler", "scheduler_config.json"), saved);
    const pipe = await pipeline(TASK, path, { threads: 1 });
    expect(pipe.folder.warnings).toEqual([
      "DPMSolverMultistepScheduler has no use for clip_sample true of its configuration.",
    ]);
    expect(await pipe.generate({ count: 1, steps: 2 })).toHaveLength(1);
    await pipe.close();
    expect((await inspectPath(path)).schedule).toMatchObject({
      options: { lambda_min_clipped: Number.NEGATIVE_INFINITY },
      notes: pipe.folder.warnings,
    });
    const video = `{ "_class_name": "CogVideoXDPMScheduler", "snr_shift_scale": 3 }`;
    await writeFile(join(path, "scheduler", "scheduler_config.json"), video);
    expect((await inspectPath(path)).schedule?.notes[0]).toMatch(/CogVideoXDPMScheduler.*video/);
  });

  test("with weights in half precision are drawn with", async () => {
    const path = join(folder, "half");
    await writeTinyPipeline(path, { dtype: "float16" });
    const half = await pipeline(TASK, path, { threads: 1 });
    const [a] = await half.generate({ count: 1, steps: 3 });
    const [b] = await plain.generate({ count: 1, steps: 3 });
    expect(farthest(a!.data, b!.data)).toBeLessThan(8);
    await half.close();
  });

  test("of patched networks give pictures in full size", async () => {
    const path = join(folder, "patched");
    await writeTinyPipeline(path, { patch: 2, imageChannels: 1, size: 16 });
    const patched = await pipeline(TASK, path, { threads: 1 });
    expect((await patched.generate({ count: 1, steps: 2 }))[0]).toMatchObject({ width: 16, height: 16, channels: 1 });
    await expect(patched.generate({ count: 1, size: 17 })).rejects.toThrow(/2×2 patches; given was 17×17/);
    await patched.close();
  });
});
