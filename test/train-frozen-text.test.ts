import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { hostImage, saveImage } from "../src/io/index.ts";
import { textToImagePipeline } from "../src/pipelines/index.ts";
import type { TextToImageRecipeInput } from "../src/train/text-to-image-recipe.ts";
import { type TextToImageEvent, trainTextToImage } from "../src/train/train-text-to-image.ts";

const encoder = fileURLToPath(new URL("./fixtures/reference/pipelines/sd15", import.meta.url));
const SIDE = 16;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-frozen-text-"));
  await mkdir(join(folder, "data"));
  for (let i = 0; i < 8; i++) {
    const pixels = new Uint8Array(SIDE * SIDE * 3).fill(30 * i);
    await saveImage(join(folder, "data", `${i}.png`), hostImage(SIDE, SIDE, 3, pixels));
    await writeFile(join(folder, "data", `${i}.txt`), i < 4 ? "a dark square" : "a bright square");
  }
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test("a text encoder that is taken as it is encodes each caption once, and goes along into the pipeline", async () => {
  const files = { checkpointEvery: 100, sampleEvery: 100, sampleCount: 2 };
  const recipe: TextToImageRecipeInput = {
    task: "text-to-image",
    data: join(folder, "data"),
    size: SIDE,
    holdOut: 0.25,
    run: join(folder, "run"),
    threads: 1,
    autoencoder: { channels: [8, 8], latentChannels: 2, batch: 4, steps: 2, warmup: 0, ...files },
    text: encoder,
    denoiser: {
      ...{ channels: [8, 16], headWidth: 8, batch: 4, steps: 3, warmup: 0, sampleSteps: 2 },
      ...{ sampleCaptions: ["a square"], predict: "flow", times: "logit-normal" },
      ...files,
    },
  };
  const events: TextToImageEvent[] = [];
  const { model, step } = await trainTextToImage(recipe, { onEvent: (event) => events.push(event) });
  expect(step).toBe(3);
  // Two captions, the one of the preview, and none.
  expect(events.filter(({ kind, stage }) => kind === "encoded" && stage === "captions").at(-1)).toMatchObject({
    done: 4,
    total: 4,
  });
  expect((await stat(join(folder, "run", "captions.safetensors"))).size).toBeGreaterThan(4 * 77 * 2);
  for (const file of ["text_encoder/model.safetensors", "tokenizer/vocab.json"]) {
    expect(await readFile(join(model, file))).toEqual(await readFile(join(encoder, file)));
  }
  const pipe = await textToImagePipeline(model, { threads: 1 });
  try {
    const [picture] = await pipe.generate({ prompt: "a bright square", steps: 2, guidance: 2, seed: 1 });
    expect([picture!.width, picture!.height]).toEqual([SIDE, SIDE]);
  } finally {
    await pipe.close();
  }
});
