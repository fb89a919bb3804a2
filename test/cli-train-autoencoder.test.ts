import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run } from "../src/cli/program.ts";
import { hostImage, saveImage } from "../src/io/index.ts";

let folder: string;
const at = (...names: string[]) => join(folder, ...names);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-cli-autoencoder-"));
  for (let i = 0; i < 6; i++) {
    const data = Uint8Array.from({ length: 64 }, (_, k) => (i * 40 + (k % 8) * 10) % 256);
    await saveImage(at("pictures", `${i}.png`), hostImage(8, 8, 1, data));
  }
  const recipe = {
    $schema: "../recipe.schema.json",
    task: "autoencoder",
    ...{ data: at("pictures"), size: 8, colour: "gray", holdOut: 0.4, run: at("run") },
    ...{ kind: "vq", codebookSize: 8, channels: [8, 8], middleAttention: false },
    ...{ batch: 2, steps: 2, warmup: 1, sampleEvery: 100, threads: 1 },
  };
  await writeFile(at("recipe.json"), JSON.stringify(recipe));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

/** Runs a command line in this process. */
async function command(...words: string[]) {
  const texts = { out: "", err: "" };
  const io = consoleOn({ write: (text) => (texts.out += text) }, { write: (text) => (texts.err += text) });
  const status = await run(words, io);
  return { status, ...texts };
}

test("a recipe of an autoencoder trains one, shows what is measured, and its run folder is continued", async () => {
  const { status, out, err } = await command("train", at("recipe.json"));
  expect({ status, err }).toEqual({ status: 0, err: "" });
  const lines = out.trim().split("\n");
  expect(lines[0]).toMatch(/: [\d,]+ parameters, 4 images, 2 steps of 2$/);
  expect(out).toMatch(
    /^step 1\/2 {2}loss [\d.]+ .* ETA .* {2}reconstruction [\d.]+ {2}commitment [\d.e-]+ {2}usage [\d.]+ {2}perplexity [\d.]+$/m,
  );
  expect(out).toMatch(/samples\/step-00000002.png {2}psnr [\d.-]+ {2}usage [\d.]+ {2}perplexity [\d.]+$/m);
  expect(lines.at(-1)).toMatch(/^The model is .*model\. What it makes of pictures it never saw: .*evaluations.jsonl$/);
  expect(JSON.parse(await readFile(at("run", "model", "config.json"), "utf8"))._class_name).toBe("VQModel");

  const continued = await command("train", at("run"), "--steps", "3", "--json");
  const events = continued.out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(events[0]).toMatchObject({ event: "started", from: 2, steps: 3, batch: 2, run: at("run") });
  const [step, ...others] = events.filter(({ event }) => event === "step");
  expect(others).toEqual([]);
  expect(step).toMatchObject({ step: 3, measures: { usage: expect.any(Number), commitment: expect.any(Number) } });
  const samples = events.find(({ event }) => event === "samples");
  expect(samples.measures).toMatchObject({ psnr: expect.any(Number), perplexity: expect.any(Number) });
  expect(events.at(-1)).toMatchObject({ event: "ended", ended: "steps", step: 3 });
  expect(await readdir(at("run", "checkpoints"))).toContain("step-00000003.safetensors");
});

test.each([
  [["RECIPE", "--patch", "2", "--predict", "v"], /of an autoencoder, to which --patch, --predict says nothing/],
  [["RECIPE", "--patch", "2"], /Options that go before its fields: .*--steps.*--run/],
  [["RECIPE", "--dry-run"], /A dry run cannot say yet what it takes to train an autoencoder/],
  [["MISSPELT"], /about the task "autoencodr"; there is autoencoder[\s\S]*Did you mean autoencoder\?/],
  [["FOREIGN"], /has fields that no recipe of an autoencoder has:\n {2}predict/],
  [["NEAR"], /codebookSiz \(did you mean codebookSize\?\)/],
  [["USELESS"], /klWeight: only with kind kl/],
  [["MAIN"], /has fields that no recipe of a diffusion model has:\n {2}codebookSize/],
])("allegory train %j is refused with status 2", async (words, message) => {
  const files: Record<string, object> = {
    MISSPELT: { task: "autoencodr" },
    FOREIGN: { task: "autoencoder", predict: "v" },
    NEAR: { task: "autoencoder", codebookSiz: 4 },
    USELESS: { task: "autoencoder", data: "x", run: "x", kind: "vq", klWeight: 1 },
    MAIN: { codebookSize: 4 },
  };
  for (const [name, fields] of Object.entries(files)) await writeFile(at(name), JSON.stringify(fields));
  const given = words.map((word) => (word === "RECIPE" ? at("recipe.json") : /^[A-Z]+$/.test(word) ? at(word) : word));
  const { status, out, err } = await command("train", ...given);
  expect({ status, out }).toEqual({ status: 2, out: "" });
  expect(err).toMatch(/^error: /);
  expect(err).toMatch(message);
});
