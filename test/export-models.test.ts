import { cp, mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run } from "../src/cli/program.ts";
import { convertFloat, readJsonObject, readModelFolder, readPipelineFolder, writeJsonObject } from "../src/io/index.ts";
import { pipeline } from "../src/pipelines/index.ts";
import { writeTinyFile, writeTinyVaeFile } from "./tiny-file.ts";

const reference = fileURLToPath(new URL("fixtures/reference", import.meta.url));
const sd15 = join(reference, "pipelines", "sd15");
const tokenizer = join(reference, "tokenizers", "clip-small");
let folder: string;
const at = (...names: string[]) => join(folder, ...names);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-export-"));
  await writeTinyFile(at("sd.safetensors"));
});
afterAll(() => rm(folder, { recursive: true }));

/** Runs `allegory export`. */
async function exported(...words: string[]) {
  const texts = { out: "", err: "" };
  const io = consoleOn({ write: (text) => (texts.out += text) }, { write: (text) => (texts.err += text) });
  return { status: await run(["export", ...words], io), ...texts };
}

test("a pipeline's folder is copied with its weights in half precision, everything else as it is", async () => {
  const source = at("source");
  await cp(sd15, source, { recursive: true });
  const index = await readJsonObject(join(source, "model_index.json"));
  const safety_checker = ["stable_diffusion", "StableDiffusionSafetyChecker"];
  await writeJsonObject(join(source, "model_index.json"), { ...index, safety_checker, requires_safety_checker: true });
  const { status, out } = await exported(source, at("half"), "--dtype", "float16");
  expect([status, out]).toEqual([0, expect.stringContaining("StableDiffusionPipeline.from_pretrained")]);
  // What was not downloaded is no longer listed.
  expect(await readJsonObject(at("half", "model_index.json"))).toEqual(index);
  for (const name of ["unet", "vae", "text_encoder"]) {
    const [theirs, ours] = [await readModelFolder(join(source, name)), await readModelFolder(at("half", name))];
    const { _diffusers_version: _, dtype: theirType, ...own } = theirs.config;
    expect(ours.config).toMatchObject({ ...own, ...(theirType === undefined ? {} : { dtype: "float16" }) });
    for (const [weight, { dtype }] of theirs.weights.tensors) {
      const stored = await theirs.weights.read(weight);
      const expected = dtype === "float32" ? convertFloat(stored, "float16") : stored;
      expect(await ours.weights.read(weight)).toEqual(expected);
    }
  }
  for (const name of ["tokenizer", "scheduler"]) {
    expect(await readdir(at("half", name))).toEqual(await readdir(join(source, name)));
  }
  const pipe = await pipeline("text-to-image", at("half"), { threads: 1 });
  expect(await pipe.generate({ prompt: "a cat", steps: 1 })).toHaveLength(1);
  await pipe.close();
});

test("weights of a variant are written without one; what lacks it is taken without, too", async () => {
  const source = at("variants");
  await cp(sd15, source, { recursive: true });
  const file = (name: string) => join(source, "unet", `diffusion_pytorch_model${name}.safetensors`);
  await rename(file(""), file(".fp16"));
  expect((await exported(source, at("plain"))).err).toMatch(/variant "fp16"/);
  await rm(at("plain"), { recursive: true, force: true });
  expect((await exported(source, at("plain"), "--variant", "fp16")).status).toBe(0);
  expect((await readdir(at("plain", "unet"))).sort()).toEqual(["config.json", "diffusion_pytorch_model.safetensors"]);
});

test("other pipelines of pixels and single networks are copied, too", async () => {
  const ddim = join(reference, "pipelines", "ddim");
  expect((await exported(ddim, at("ddim"), "--dtype", "bfloat16")).out).toContain("DDIMPipeline");
  const dtypes = async (path: string) => {
    const { weights } = await readModelFolder(path);
    return [...new Set([...weights.tensors.values()].map(({ dtype }) => dtype))];
  };
  expect(await dtypes(at("ddim", "unet"))).toEqual(["bfloat16"]);
  expect((await exported(join(sd15, "vae"), at("vae"), "--dtype", "float16")).out).toContain("AutoencoderKL");
  expect(await dtypes(at("vae"))).toEqual(["float16"]);
});

test("a single file becomes a folder that reads words as it does, with a tokenizer", async () => {
  const file = at("sd.safetensors");
  const { status, out, err } = await exported(file, at("sd"), "--tokenizer", tokenizer);
  expect([status, err, out]).toEqual([0, "", expect.stringContaining("StableDiffusionPipeline")]);
  expect(await readJsonObject(at("sd", "model_index.json"))).toMatchObject({
    ...{ tokenizer: ["transformers", "CLIPTokenizer"], safety_checker: [null, null], requires_safety_checker: false },
  });
  // What folders of files draw, stable-diffusion-file.test.ts compares.
  const ids = await Promise.all(
    [at("sd"), file].map(async (model) => {
      const pipe = await pipeline("text-to-image", model, { threads: 1, tokenizer });
      const tokens = pipe.text.tokens(["wow! a red cat", "wow! a red cat"]);
      await pipe.close();
      return tokens;
    }),
  );
  expect(ids[0]).toEqual(ids[1]);
  expect((await exported(file, at("without"))).out).toMatch(/It lacks tokenizer.* --tokenizer gives one/);
});

test("what a file holds decides what is written: inpainting, an autoencoder alone", async () => {
  await writeTinyFile(at("inpainting.safetensors"), { inputs: 9 });
  expect((await exported(at("inpainting.safetensors"), at("inpainting"))).out).toContain(
    "StableDiffusionInpaintPipeline",
  );
  await writeTinyVaeFile(at("vae.safetensors"));
  const { out, err } = await exported(at("vae.safetensors"), at("vae-alone"), "--dtype", "float16");
  expect([out, err]).toEqual([expect.stringContaining("AutoencoderKL"), expect.stringContaining("scaling_factor")]);
  const { config, weights } = await readModelFolder(at("vae-alone"));
  expect(config).toMatchObject({ _class_name: "AutoencoderKL", scaling_factor: 0.18215 });
  expect(weights.tensors.get("decoder.conv_in.weight")!.dtype).toBe("float16");
});

test("what cannot be exported so is refused before anything is written", async () => {
  await cp(sd15, at("incomplete"), { recursive: true });
  await rm(at("incomplete", "unet"), { recursive: true });
  for (const [words, message] of [
    [[at("incomplete"), at("no")], /is not complete: .*unet is missing/],
    [[sd15, at("no"), "--prediction", "epsilon"], /--prediction was given; .*is a folder/],
    [[at("sd.safetensors"), sd15], /is not empty/],
    [[at("sd.safetensors"), at("no"), "--tokenizer", sd15], /no folder of a CLIP tokenizer/],
    [[at("vae.safetensors"), at("no"), "--tokenizer", tokenizer], /no use for a tokenizer/],
    [[join(sd15, "model_index.json"), at("no")], /is no safetensors file/],
    [[at("nothing"), at("no")], /There is no folder/],
  ] as const) {
    const { status, err } = await exported(...words);
    expect([status, err]).toEqual([2, expect.stringMatching(message)]);
    await expect(readPipelineFolder(at("no"))).rejects.toThrow(/There is no file/);
  }
});
