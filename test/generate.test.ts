import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run } from "../src/cli/program.ts";
import { decodeImage, hostImage, resizeImage, saveImage } from "../src/io/index.ts";
import { parametersText, parseParameters } from "../src/pipelines/index.ts";

const model = relative(".", fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url)));
let folder: string;
const at = (...names: string[]) => join(folder, ...names);
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-generate-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** Runs a command line in this process. */
async function command(...words: string[]) {
  const texts = { out: "", err: "" };
  const io = consoleOn({ write: (text) => (texts.out += text) }, { write: (text) => (texts.err += text) });
  const status = await run(words, io);
  return { status, ...texts };
}
const generate = (...words: string[]) => command("generate", "--model", model, "--threads", "1", ...words);

describe("allegory generate", () => {
  test("writes pictures that say how they were made, and makes one again from its file", async () => {
    const out = at("first");
    const words = ["--negative-prompt", "blurry, low quality", "--steps", "2", "--sampler", "euler", "--seed", "4"];
    const { status, out: said } = await generate("a cat, in the fog", ...words, "--count", "2", "--out", out);
    expect([status, said]).toEqual([0, expect.stringMatching(/^2 pictures in /)]);
    expect(await readdir(out)).toEqual(["sd15-seed4.png", "sd15-seed5.png"]);

    const info = await command("info", join(out, "sd15-seed5.png"));
    expect(info.out).toContain("a cat, in the fog\nNegative prompt: blurry, low quality\nSteps: 2, Sampler: Euler,");
    expect(info.out).toContain("Seed: 5, Size: 24x24, Model: sd15");

    const like = ["generate", "--threads", "1", "--like", join(out, "sd15-seed5.png"), "--out"];
    expect(await command(...like, at("again.png"))).toMatchObject({ status: 0 });
    expect(await readFile(at("again.png"))).toEqual(await readFile(join(out, "sd15-seed5.png")));
    expect(await command(...like, at("again.webp"))).toMatchObject({ status: 0 });
    expect((await command("info", at("again.webp"))).out).toContain("Seed: 5");
    // What is said goes before what the picture says; the first picture's seed is 4.
    expect(await command(...like, at("fourth.png"), "--seed", "4")).toMatchObject({ status: 0 });
    expect(await readFile(at("fourth.png"))).toEqual(await readFile(join(out, "sd15-seed4.png")));
  });

  test("prints steps and pictures as lines of JSON, several prompts and a grid", async () => {
    const words = ["--steps", "2", "--json", "--out", at("two"), "--grid", at("grid.png")];
    const { out } = await generate("a cat", "a dog", ...words);
    const lines = out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(lines.map(({ event }) => event)).toEqual(["step", "step", "picture", "step", "step", "picture", "end"]);
    expect(lines.filter(({ event }) => event === "picture").map(({ prompt }) => prompt)).toEqual(["a cat", "a dog"]);
    expect(await readdir(at("two"))).toHaveLength(2);
    expect((await readFile(at("grid.png"))).length).toBeGreaterThan(100);
  });

  test("draws plots over two fields, with and without a file for each picture", async () => {
    const words = ["--x", "steps=1,2,3", "--y", "guidance=1,7.5", "--sampler", "euler", "--seed", "4", "--json"];
    const { status, out } = await generate("a cat", ...words, "--grid", at("plot.png"));
    expect(status).toBe(0);
    const lines = out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    const pictures = lines.filter(({ event }) => event === "picture");
    expect(pictures.map(({ x, y, file }) => [x, y, file])).toEqual(
      [1, 7.5].flatMap((y) => [1, 2, 3].map((x) => [x, y, undefined])),
    );
    expect(lines.filter(({ event }) => event === "step")).toHaveLength(12);
    expect(lines.at(-1)).toMatchObject({ event: "end", pictures: 6, grid: at("plot.png") });
    // Places of 96 pixels, with a gap of four, headings beside and above.
    const sheet = await decodeImage(at("plot.png"));
    expect([sheet.width > 3 * 100, sheet.height]).toEqual([true, 2 * 100 + 4 + 40]);
    const alone = ["--steps", "2", "--guidance", "7.5", "--sampler", "euler", "--seed", "4"];
    expect(await generate("a cat", ...alone, "--out", at("alone.png"))).toMatchObject({ status: 0 });
    const enlarged = await resizeImage(await decodeImage(at("alone.png")), 96, { kernel: "nearest" });
    const [left, top] = [sheet.width - 2 * 100, 40 + 4 + 100];
    for (let y = 0; y < 96; y++) {
      const from = ((top + y) * sheet.width + left) * 3;
      expect(
        Buffer.compare(sheet.data.subarray(from, from + 288), enlarged.data.subarray(y * 288, (y + 1) * 288)),
      ).toBe(0);
    }
    // The plot says how it was made; each picture can be written too.
    expect((await command("info", at("plot.png"))).out).toContain('"field":"steps"');
    const both = ["a cat", "--y", "seed=3,4", "--steps", "1", "--grid", at("seeds.png"), "--out", at("seeds")];
    expect(await generate(...both)).toMatchObject({ status: 0 });
    expect(await readdir(at("seeds"))).toEqual(["sd15-seed3.png", "sd15-seed4.png"]);
  });

  test("draws a picture again from the file of a JPEG, of the part of an image that a mask paints", async () => {
    await saveImage(at("wide.png"), hostImage(60, 40, 3, new Uint8Array(7200).fill(90)));
    const paint = Uint8Array.from({ length: 2400 }, (_, i) =>
      i % 60 > 20 && i % 60 < 30 && i > 900 && i < 1200 ? 255 : 0,
    );
    await saveImage(at("paint.png"), hostImage(60, 40, 1, paint));
    const mask = ["--image", at("wide.png"), "--mask", at("paint.png"), "--only-masked", "--mask-padding", "2"];
    const words = [...mask, "--mask-feather", "2", "--steps", "2", "--seed", "9"];
    expect(await generate("a cat", ...words, "--out", at("part.jpg"))).toMatchObject({ status: 0 });
    const { out } = await command("info", at("part.jpg"));
    expect(out).toContain("part.jpg: 60×40");
    expect(out).toContain("Size: 24x24, Model: sd15, Mask blur: 2, Inpaint area: Only masked, Masked area padding: 2");
    const again = await command("generate", "--threads", "1", "--like", at("part.jpg"), "--out", at("part-again.jpg"));
    expect(again).toMatchObject({ status: 0 });
    expect(await readFile(at("part-again.jpg"))).toEqual(await readFile(at("part.jpg")));
  });

  test("takes images, masks and lists", async () => {
    await saveImage(at("image.png"), hostImage(24, 24, 3, new Uint8Array(1728).fill(100)));
    await saveImage(at("mask.png"), hostImage(24, 24, 1, new Uint8Array(576).fill(255)));
    const words = ["--image", at("image.png"), "--mask", at("mask.png"), "--strength", "0.5", "--steps", "4"];
    const { status } = await generate("a cat", ...words, "--guidance-interval", "0,20", "--out", at("painted.png"));
    expect(status).toBe(0);
    expect((await command("info", at("painted.png"), "--json")).out).toContain("Denoising strength: 0.5");
  });

  test.each([
    [["a cat", "--width", "25"], /the width is 25/],
    [["a cat", "--sampler", "eular"], /Did you mean euler/],
    [["a cat", "--out", "pictures.bmp"], /cannot be written to pictures.bmp/],
    [["a cat", "--count", "2", "--out", "one.png"], /2 pictures cannot be written to one file/],
    [[], /prompt: it is needed/],
    [["a cat", "--x", "steps=1,0", "--grid", "plot.png"], /steps: 0 was given. Accepted is at least 1/],
    [["a cat", "--x", "stesp=1", "--grid", "plot.png"], /no field stesp.\nDid you mean steps/],
    [["a cat", "--y", "width=24,25", "--grid", "plot.png"], /the width is 25/],
    [["a cat", "--x", "steps=1,2"], /needs a file.\nGive --grid plot.png/],
    [["a cat", "--x", "steps=1", "--y", "steps=2", "--grid", "plot.png"], /Both axes are steps/],
  ])("refuses %j before anything is computed", async (words, message) => {
    const { status, err } = await generate(...words);
    expect([status, err]).toEqual([2, expect.stringMatching(message)]);
  });

  test("refuses pictures that say nothing, and no model", async () => {
    await saveImage(at("plain.png"), hostImage(8, 8, 1, new Uint8Array(64)));
    expect((await command("generate", "--like", at("plain.png"))).err).toContain("does not say how it was made");
    expect((await command("info", at("plain.png"))).out).toContain("It says nothing of how it was made");
    expect((await command("generate", "a cat")).err).toContain("No model was given");
    await writeFile(at("text.png"), "text");
    expect(await command("info", at("text.png"))).toMatchObject({ status: 2 });
  });

  test("leaves no file when it is stopped", async () => {
    const going = generate("a cat", "--steps", "900", "--out", at("stopped", "one.png"));
    await new Promise((done) => setTimeout(done, 700));
    process.emit("SIGINT");
    expect(await going).toMatchObject({ status: 130 });
    expect(await readdir(folder)).not.toContain("stopped");
  });
});

describe("the text of AUTOMATIC1111's web UI", () => {
  const request = {
    prompt: "a cat, (sitting:1.2)\non a mat",
    negativePrompt: "blurry",
    steps: 20,
    sampler: "dpm++2m",
    spread: "karras",
    guidance: 7,
    seed: 42,
    width: 512,
    height: 768,
    clipSkip: 1,
  } as const;

  test("comes back as the request that wrote it", () => {
    const text = parametersText({ model: "models/sd15", request, size: [512, 768] });
    expect(text.split("\n").at(-1)).toBe(
      "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 42, Size: 512x768, Model: sd15, Clip skip: 2",
    );
    expect(parseParameters(text)).toEqual(request);
  });

  test("is read as older versions wrote it, and without anything but a prompt", () => {
    const older =
      'a cat\nSteps: 9, Sampler: DPM++ 2M Karras, CFG scale: 5.5, Seed: 1, Hashes: "a: 1, b: 2", Size: 64x32';
    expect(parseParameters(older)).toEqual({
      ...{ prompt: "a cat", steps: 9, sampler: "dpm++2m", spread: "karras", guidance: 5.5, seed: 1 },
      ...{ width: 64, height: 32 },
    });
    expect(parseParameters("only words")).toEqual({ prompt: "only words" });
  });
});
