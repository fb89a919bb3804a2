import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { hostImage } from "../src/io/index.ts";
import { pipeline, type TextToImagePipeline } from "../src/pipelines/index.ts";
import { writeTinyConsistency } from "./tiny-models.ts";

// A latent consistency model in small: the U-Net is told the guidance scale.

const model = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
let folder: string;
let pipe: TextToImagePipeline;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-consistency-"));
  await writeTinyConsistency(folder, model);
  pipe = await pipeline("text-to-image", folder, { threads: 1 });
});
afterAll(async () => {
  await pipe.close();
  await rm(folder, { recursive: true });
});

async function timesteps(request: object): Promise<number[]> {
  const told: number[] = [];
  for await (const { timestep, calls, step } of pipe.stream({ prompt: "a cat", ...request })) {
    expect(calls).toBe(step);
    told.push(timestep);
  }
  return told;
}

test("a latent consistency model takes four steps, and all of them over what a strength leaves", async () => {
  expect(await timesteps({})).toEqual([999, 759, 499, 259]);
  const image = hostImage(24, 24, 3, new Uint8Array(1728).fill(90));
  expect(await timesteps({ image, strength: 0.5 })).toEqual([499, 379, 259, 139]);
  // Of another sampler the first steps are left out.
  expect(await timesteps({ image, strength: 0.5, sampler: "ddim", spread: "trailing" })).toEqual([499, 249]);
});

test("its guidance is a number it is told, which leads away from nothing", async () => {
  const draw = async (guidance: number) => (await pipe.generate({ prompt: "a cat", guidance }))[0]!.float.data;
  expect(await draw(8.5)).toEqual((await pipe.generate({ prompt: "a cat" }))[0]!.float.data);
  expect(await draw(2)).not.toEqual(await draw(8.5));
  await expect(pipe.generate({ prompt: "a cat", negativePrompt: "a dog" })).rejects.toThrow(
    /it has no effect, since this model takes its guidance as a number/,
  );
});
