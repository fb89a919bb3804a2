import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run } from "../src/cli/program.ts";
import { readPipelineFolder } from "../src/io/index.ts";
import { commandsOf, printed, typeErrors } from "./page-code.ts";
import { type PageFiles, pageFiles } from "./page-models.ts";
import { writeTinyFile } from "./tiny-file.ts";

const page = "convert-models.md";
const sd15 = fileURLToPath(new URL("fixtures/reference/pipelines/sd15/", import.meta.url));
const clip = fileURLToPath(new URL("fixtures/reference/tokenizers/clip-small", import.meta.url));
let here: PageFiles;
let files: Readonly<Record<string, string>>;

beforeAll(async () => {
  here = await pageFiles(["sd15/", "sd15-half/", "sd15-file/", "sd15-copy/", "vae-half/", "vae-parts/"]);
  const file = join(here.folder, "v1-5-pruned-emaonly.safetensors");
  await writeTinyFile(file);
  const parts = { "stable-diffusion-v1-5/tokenizer/": clip, "stable-diffusion-v1-5/vae/": join(sd15, "vae") };
  files = { ...here.files, ...parts, "v1-5-pruned-emaonly.safetensors": file };
});
afterAll(() => here.remove());

test("the command lines of docs/convert-models.md write pipelines", async () => {
  const commands = await commandsOf(page);
  expect(commands).toHaveLength(2);
  for (const given of commands) {
    const words = given.map((word) => files[word] ?? word);
    const texts = { out: "", err: "" };
    const io = consoleOn({ write: (text) => (texts.out += text) }, { write: (text) => (texts.err += text) });
    expect([given, await run(words, io), texts.err]).toEqual([given, 0, ""]);
    expect((await readPipelineFolder(words[2]!)).className).toBe("StableDiffusionPipeline");
    expect(texts.out).not.toContain("lacks");
  }
});

test("the code of docs/convert-models.md writes what it says, and is right TypeScript", async () => {
  expect(await printed(page, files)).toEqual([
    [["1.x", ["unet", "vae", "text_encoder"]], ["StableDiffusionPipeline", []], [true]],
    [["AutoencoderKL", "float16"]],
  ]);
  const shards = (await readdir(files["vae-parts/"]!)).filter((name) => /-of-\d{5}\.safetensors$/.test(name));
  expect(shards.length).toBeGreaterThan(1);
  expect(await typeErrors([page])).toBe("");
});
