import { cp, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run as runCommand } from "../src/cli/program.ts";
import { readJsonObject, writeJsonObject } from "../src/io/index.ts";
import { pipeline, type TextToImagePipeline, textToImageRequest } from "../src/pipelines/index.ts";
import { farthest, tinyFlux, tinyPixArt, tinySd3, writeTiny } from "./tiny-models.ts";

// What is the same for all kinds of models that draw from words.

const kinds = {
  "PixArt-α": tinyPixArt("Alpha"),
  "Stable Diffusion 3": tinySd3(),
  "FLUX.1 dev": tinyFlux("dev"),
};
const names = Object.keys(kinds) as (keyof typeof kinds)[];
let folder: string;
const at = (name: string) => join(folder, name.replaceAll(" ", "-"));
const size = { width: 16, height: 12 };

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-families-"));
  for (const name of names) await writeTiny(at(name), kinds[name]);
});
afterAll(() => rm(folder, { recursive: true }));

describe.each(names)("%s", (name) => {
  let pipe: TextToImagePipeline;
  beforeAll(async () => {
    pipe = await pipeline("text-to-image", at(name), { threads: 1 });
  });
  afterAll(() => pipe.close());

  test("draws a picture the same alone, in a batch and with freed memory", async () => {
    const request = { prompt: "a red cat", steps: 2, textLength: 20, ...size };
    const [alone] = await pipe.generate({ ...request, seed: 8 });
    const together = await pipe.generate({ ...request, prompt: ["a castle", "a red cat"], seeds: [3, 8], batch: 2 });
    const low = await pipeline("text-to-image", at(name), { threads: 1, lowMemory: true });
    const [freed] = await low.generate({ ...request, seed: 8 });
    await low.close();
    expect(farthest(together[1]!.float.data, alone!.float.data)).toBeLessThan(1e-4);
    expect(farthest(freed!.float.data, alone!.float.data)).toBe(0);
    expect(farthest(together[0]!.float.data, alone!.float.data)).toBeGreaterThan(1e-3);
    expect([alone!.width, alone!.height, alone!.float.shape]).toEqual([16, 12, [3, 12, 16]]);
  });

  test("draws nearly the same with weights of 8 bits, and less so with 4", async () => {
    const request = { prompt: "a red cat", steps: 2, textLength: 20, ...size };
    const [whole] = await pipe.generate(request);
    const errors: number[] = [];
    for (const quantize of [8, 4] as const) {
      const rounded = await pipeline("text-to-image", at(name), { threads: 1, quantize });
      const [picture] = await rounded.generate(request);
      await rounded.close();
      errors.push(farthest(picture!.float.data, whole!.float.data));
      expect((await rounded.memory(request)).weights).toBeLessThan((await pipe.memory(request)).weights);
    }
    expect(errors[0]).toBeGreaterThan(0);
    expect(errors[0]).toBeLessThan(0.02);
    expect(errors[1]).toBeGreaterThan(2 * errors[0]!);
    expect(errors[1]).toBeLessThan(0.3);
  });

  test("streams steps with previews, and stops when asked", async () => {
    const controller = new AbortController();
    const seen: unknown[] = [];
    const request = { prompt: "a red cat", steps: 20, textLength: 20, ...size };
    await expect(async () => {
      for await (const { done, total, preview } of pipe.stream(request, { signal: controller.signal })) {
        seen.push([done, total, (await preview())[0]!.width]);
        if (seen.length === 2) controller.abort(new Error("enough"));
      }
    }).rejects.toThrow("enough");
    expect(seen).toEqual([
      [1, 20, 8],
      [2, 20, 8],
    ]);
  });

  test("names the field of 200 requests that make no sense", async () => {
    const nonsense = fc.oneof(
      fc.constantFrom(null, Number.NaN, -1, -0.5, {}, [], [null], "", "\0"),
      fc.object({ maxDepth: 1 }),
      fc.double({ max: -1e-9 }),
    );
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...Object.keys(textToImageRequest.shape)), nonsense, async (field, value) => {
        if (textToImageRequest.safeParse({ prompt: "a cat", [field]: value }).success) return;
        const error = await pipe.generate({ prompt: "a cat", [field]: value } as never).then(
          () => undefined,
          (thrown) => thrown,
        );
        expect(error).toMatchObject({ name: "UserError", options: { field } });
        refused++;
      }),
      { numRuns: 300, seed: 1 },
    );
    expect(refused).toBeGreaterThan(200);
  });
});

/** A folder of Stable Diffusion 3 with another model_index.json. */
async function changed(name: string, change: Readonly<Record<string, unknown>>): Promise<string> {
  const path = join(folder, name);
  await cp(at("Stable Diffusion 3"), path, { recursive: true });
  const index = join(path, "model_index.json");
  await writeJsonObject(index, { ...(await readJsonObject(index)), ...change });
  return path;
}

test.each<[string, Readonly<Record<string, unknown>>, RegExp]>([
  [
    "unknown",
    { transformer: ["diffusers", "AuraFlowTransformer2DModel"] },
    /of .*transformer \(AuraFlow.*\nHere Stable/,
  ],
  ["extra", { connector: ["diffusers", "Connector"] }, /of .*connector \(Connector\)/],
  [
    "without-clip",
    { text_encoder_2: [null, null] },
    /without a text_encoder_2.\nIt needs a CLIPTextModelWithProjection/,
  ],
  ["bert", { text_encoder: ["transformers", "BertModel"] }, /with a BertModel.\nIts text_encoder must be a CLIPText/],
  ["without-tokenizer", { tokenizer_3: [null, null] }, /without a tokenizer_3/],
  ["without-vae", { vae: [null, null] }, /without a vae/],
])("a folder that does not hold what it needs is refused: %s", async (name, change, message) => {
  const opening = pipeline("text-to-image", await changed(name, change));
  await expect(opening).rejects.toMatchObject({ name: "UserError", message: expect.stringMatching(message) });
});

test.each([
  [{ quantize: 5 as 4 }, /Weights of 5 bits were asked for; 4 and 8 are there/],
  [{ quantize: 8, device: "webgpu" }, /Rounded weights run on the CPU, not on webgpu/],
] as const)("weights that cannot be rounded so are refused: %j", async (options, message) => {
  const opening = pipeline("text-to-image", at("PixArt-α"), options);
  await expect(opening).rejects.toMatchObject({
    options: { field: "quantize" },
    message: expect.stringMatching(message),
  });
});

test("parts of different models are refused, and a control network that a model has no use for", async () => {
  const mixed = await changed("mixed", {});
  await rm(join(mixed, "text_encoder_2"), { recursive: true });
  await cp(join(mixed, "text_encoder"), join(mixed, "text_encoder_2"), { recursive: true });
  await expect(pipeline("text-to-image", mixed)).rejects.toThrow(
    /give a pooled text of width 10; its transformer takes 11.\nThey are parts of different models/,
  );
  const vae = join(at("PixArt-α"), "vae");
  await expect(pipeline("text-to-image", at("PixArt-α"), { controlNet: vae })).rejects.toThrow(/no use for one/);
});

test("allegory generate draws with them, and makes a picture again from its file", async () => {
  const command = async (...words: string[]) => {
    const texts = { out: "", err: "" };
    const io = consoleOn({ write: (text) => (texts.out += text) }, { write: (text) => (texts.err += text) });
    return { status: await runCommand(words, io), ...texts };
  };
  const model = at("FLUX.1 dev");
  const out = join(folder, "pictures");
  const words = ["--model", model, "--threads", "1", "--width", "16", "--height", "12", "--text-length", "20"];
  const drawn = await command(
    "generate",
    "a cat",
    ...words,
    "--guidance",
    "2",
    "--steps",
    "2",
    "--quantize",
    "8",
    "--out",
    out,
  );
  expect(drawn).toMatchObject({ status: 0, err: "" });
  const [file] = await readdir(out);
  const again = join(folder, "again.png");
  expect(await command("generate", "--threads", "1", "--like", join(out, file!), "--out", again)).toMatchObject({
    status: 0,
  });
  expect(await readFile(again)).toEqual(await readFile(join(out, file!)));
  // The picture knows that its weights were rounded: without, it is another.
  const whole = ["generate", "a cat", ...words, "--guidance", "2", "--steps", "2", "--out", join(folder, "whole.png")];
  expect(await command(...whole)).toMatchObject({ status: 0 });
  expect(await readFile(join(folder, "whole.png"))).not.toEqual(await readFile(again));
  expect((await command("generate", "a cat", ...words, "--quantize", "16")).err).toContain("8 or 4 is needed");
  expect(await command("generate", "a cat", ...words, "--clip-skip", "1")).toMatchObject({
    ...{ status: 2, err: expect.stringContaining("`clipSkip` was given; this model has no use for it") },
  });
});
