import { cp, mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run } from "../src/cli/program.ts";
import { decodeImage } from "../src/io/index.ts";
import { pipeline } from "../src/pipelines/index.ts";
import { type FineTuneRecipeInput, fineTune, type TrainingEvent } from "../src/train/index.ts";
import { tinyDit, writeTiny } from "./tiny-models.ts";
import { smallDataset } from "./train-small.ts";

// Models without words whose weights have a variant's name.

const pipelines = fileURLToPath(new URL("fixtures/reference/pipelines", import.meta.url));
let folder: string;
const at = (...names: string[]) => join(folder, ...names);

/** Gives the weights of a component the name of a variant. */
async function named(path: string, variant: string): Promise<void> {
  const name = (infix: string) => join(path, `diffusion_pytorch_model${infix}.safetensors`);
  await rename(name(""), name(`.${variant}`));
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-variants-"));
  await cp(join(pipelines, "ddpm"), at("ddpm"), { recursive: true });
  await named(at("ddpm", "unet"), "fp16");
  await writeTiny(at("dit"), tinyDit());
  await named(at("dit", "transformer"), "fp16");
});
afterAll(() => rm(folder, { recursive: true }));

test("a pipeline of pixels is opened by its variant, by allegory sample and export, too", async () => {
  await expect(pipeline("unconditional-image-generation", at("ddpm"))).rejects.toThrow(/variant "fp16"/);
  const pipe = await pipeline("unconditional-image-generation", at("ddpm"), { variant: "fp16" });
  expect(pipe.folder.weights.files[0]).toMatch(/\.fp16\.safetensors$/);
  await pipe.close();
  const io = consoleOn({ write: () => true }, { write: () => true });
  const quick = ["--count", "1", "--steps", "1", "--threads", "1", "--out", at("drawn.png")];
  expect(await run(["sample", at("ddpm"), "--variant", "fp16", ...quick], io)).toBe(0);
  expect((await decodeImage(at("drawn.png"))).width).toBeGreaterThan(0);
  expect(await run(["export", at("ddpm"), at("plain"), "--variant", "fp16"], io)).toBe(0);
  expect(await readdir(at("plain", "unet"))).toContain("diffusion_pytorch_model.safetensors");
});

test("a diffusion transformer whose autoencoder lacks the variant takes it without one, and says so", async () => {
  const pipe = await pipeline("class-to-image", at("dit"), { variant: "fp16" });
  expect(pipe.folder.warnings).toEqual([expect.stringMatching(/vae has no fp16 weights; taken are those without/)]);
  await pipe.close();
  await expect(pipeline("class-to-image", at("dit"), { variant: "ema" })).rejects.toThrow(/variant "fp16"/);
});

test("a model with weights of a variant is fine-tuned, and written without it", async () => {
  await cp(join(pipelines, "sd15"), at("sd"), { recursive: true });
  for (const part of ["unet", "vae"]) await named(at("sd", part), "fp16");
  const recipe: FineTuneRecipeInput = {
    ...{ task: "fine-tune", model: at("sd"), method: { kind: "full", trainable: ["unet.conv_out.*"] } },
    ...{ data: "given by the test", size: 24, run: at("run"), steps: 1, batch: 1, sampleEvery: 0, threads: 1 },
  };
  const dataset = { ...smallDataset({ count: 1, size: 24, channels: 3 }), captions: [["a cat"]] };
  await expect(fineTune(recipe, { dataset })).rejects.toThrow(/variant "fp16"/);
  const warnings: string[] = [];
  const onEvent = (event: TrainingEvent) => void ("warnings" in event && warnings.push(...event.warnings));
  await fineTune({ ...recipe, variant: "fp16" }, { dataset, onEvent });
  expect(warnings).toContainEqual(expect.stringMatching(/text_encoder has no fp16 weights/));
  for (const part of ["unet", "vae"]) {
    expect(await readdir(at("run", "model", part))).toContain("diffusion_pytorch_model.safetensors");
  }
  const pipe = await pipeline("text-to-image", at("run", "model"));
  await pipe.close();
});
