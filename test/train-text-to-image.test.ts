import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hostImage, readModelFolder, readSafetensors, saveImage } from "../src/io/index.ts";
import { textToImagePipeline } from "../src/pipelines/index.ts";
import { type TextToImageEvent, type TextToImageRecipeInput, trainTextToImage } from "../src/train/index.ts";

const SIDE = 16;
const COLOURS = { red: [220, 30, 30], green: [30, 200, 40], blue: [20, 40, 220] } as const;

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-text-to-image-"));
  const data = join(folder, "data");
  await mkdir(data);
  for (const [name, colour] of Object.entries(COLOURS)) {
    for (let shade = 0; shade < 4; shade++) {
      const pixels = Uint8Array.from({ length: SIDE * SIDE * 3 }, (_, i) => Math.max(0, colour[i % 3]! - 10 * shade));
      await saveImage(join(data, `${name}-${shade}.png`), hostImage(SIDE, SIDE, 3, pixels));
      await writeFile(join(data, `${name}-${shade}.txt`), `${name}\na ${name} square\n`);
    }
  }
});
afterAll(() => rm(folder, { recursive: true, force: true }));

function recipe(run: string, steps = 6): TextToImageRecipeInput {
  const files = { checkpointEvery: 100, sampleEvery: 100, sampleCount: 3 };
  return {
    task: "text-to-image",
    data: join(folder, "data"),
    size: SIDE,
    holdOut: 0.25,
    run: join(folder, run),
    threads: 1,
    autoencoder: { channels: [8, 8], latentChannels: 2, batch: 4, steps: 4, warmup: 0, lr: 1e-3, ...files },
    text: { vocabulary: 600, maxLength: 8, width: 16, layers: 1, heads: 2 },
    denoiser: {
      ...{ channels: [8, 16], headWidth: 8, batch: 4, steps, warmup: 0, lrSchedule: "constant", sampleSteps: 2 },
      ...files,
    },
  };
}

describe("a text-to-image system", () => {
  test("comes out of pictures with captions as a pipeline folder that draws from words", async () => {
    const events: TextToImageEvent[] = [];
    const result = await trainTextToImage(recipe("whole"), { onEvent: (event) => events.push(event) });
    expect(result).toMatchObject({ step: 6, ended: "steps", model: join(folder, "whole", "model") });

    const stages = events.filter(({ kind }) => kind === "started").map(({ stage }) => stage);
    expect(stages).toEqual(["autoencoder", "denoiser"]);
    const encoded = events.filter(({ kind }) => kind === "encoded").at(-1);
    expect(encoded).toMatchObject({ done: 9, total: 9 });

    // The scale was measured: latents have a deviation of about 1.
    const { config } = await readModelFolder(join(result.model, "vae"));
    expect(config.scaling_factor).not.toBe(1);

    const pipe = await textToImagePipeline(result.model, { threads: 1 });
    try {
      const draw = async (prompt: string) => (await pipe.generate({ prompt, steps: 2, guidance: 3, seed: 1 }))[0]!;
      const [red, blue] = [await draw("a red square"), await draw("blue")];
      expect([red.width, red.height]).toEqual([SIDE, SIDE]);
      expect(red.data).not.toEqual(blue.data);
    } finally {
      await pipe.close();
    }
  });

  test("continues where it was stopped, and ends in the same weights", async () => {
    const stopped = new AbortController();
    const first = await trainTextToImage(recipe("parts"), {
      signal: stopped.signal,
      onEvent(event) {
        if (event.kind === "step" && event.stage === "denoiser" && event.step === 3) stopped.abort();
      },
    });
    expect(first).toMatchObject({ step: 3, ended: "stopped" });
    const autoencoder = join(folder, "parts", "autoencoder", "checkpoints", "step-00000004.safetensors");
    const before = (await stat(autoencoder)).mtimeMs;

    const { model } = await trainTextToImage(recipe("parts"));
    expect((await stat(autoencoder)).mtimeMs).toBe(before);
    const whole = (await trainTextToImage(recipe("straight"))).model;
    for (const part of ["unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"]) {
      const [one, other] = await Promise.all(
        [model, whole].map((path) => readSafetensors(join(path, `${part}.safetensors`))),
      );
      expect(one!.size).toBeGreaterThan(10);
      for (const [name, { data }] of one!) expect(data, name).toEqual(other!.get(name)!.data);
    }
  });

  test("learns its autoencoder's scale once: a second run changes no file of it", async () => {
    const { model } = await trainTextToImage(recipe("parts"));
    const config = await readFile(join(model, "vae", "config.json"), "utf8");
    const again = await trainTextToImage(recipe("parts", 7));
    expect(again.step).toBe(7);
    expect(await readFile(join(model, "vae", "config.json"), "utf8")).toBe(config);
  });

  test("refuses pictures without captions, and recipes that contradict themselves, by field", async () => {
    const bare = join(folder, "bare");
    await mkdir(bare, { recursive: true });
    const gray = hostImage(SIDE, SIDE, 3, new Uint8Array(SIDE * SIDE * 3).fill(128));
    for (const name of ["a", "b", "c", "d"]) await saveImage(join(bare, `${name}.png`), gray);
    await expect(trainTextToImage({ ...recipe("none"), data: bare })).rejects.toThrow(/caption/i);
    const denoiser = { predict: "noise", zeroTerminalSnr: true } as const;
    await expect(trainTextToImage({ ...recipe("none"), denoiser })).rejects.toThrow(/zeroTerminalSnr/);
    const times = { predict: "v", times: "logit-normal" } as const;
    await expect(trainTextToImage({ ...recipe("none"), denoiser: times })).rejects.toThrow(/drawn evenly/);
    await expect(trainTextToImage({ ...recipe("none"), size: 15 })).rejects.toThrow(/cannot be halved/);
  });
});
