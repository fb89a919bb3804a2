import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run } from "../src/cli/program.ts";
import { GRIDS, SAMPLERS } from "../src/diffusion/index.ts";
import { decodeImage, hostImage, pngText, saveImage } from "../src/io/index.ts";
import { writeTinyPipeline } from "./tiny-pipeline.ts";

let folder: string;
const at = (...names: string[]) => join(folder, ...names);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-cli-samplers-"));
  await writeTinyPipeline(at("letters"), { classes: ["a", "b"], classDropout: true, imageChannels: 1, size: 8 });
  const pixels = Uint8Array.from({ length: 64 }, (_, i) => 100 + i);
  await saveImage(at("picture.png"), hostImage(8, 8, 1, pixels));
  await saveImage(
    at("mask.png"),
    hostImage(
      8,
      8,
      1,
      Uint8Array.from({ length: 64 }, (_, i) => (i < 32 ? 0 : 255)),
    ),
  );
  await saveImage(at("large.png"), hostImage(9, 8, 1, new Uint8Array(72)));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

async function command(...words: string[]) {
  const texts = { out: "", err: "" };
  const io = consoleOn({ write: (text) => (texts.out += text) }, { write: (text) => (texts.err += text) });
  const status = await run(words, io);
  return { status, ...texts };
}

describe("allegory samplers", () => {
  test("lists every sampler with its order, calls, class and when to choose it", async () => {
    const { status, out } = await command("samplers");
    expect(status).toBe(0);
    for (const [name, { config, when }] of Object.entries(SAMPLERS)) {
      const line = out.split("\n").find((row) => row.startsWith(`${name} `));
      expect(line).toContain(config._class_name);
      expect(line).toContain(when);
    }
    expect(out).toMatch(/^dpm\+\+3m +2 \(published as 3\) +no +1 /m);
    expect(out).toMatch(/^heun +2 +no +2 /m);
    expect(out).toMatch(/^sa-solver +2 \(without its noise\) +yes +1 /m);
    for (const name of ["ddpm", "dpm2-ancestral", "dpm\\+\\+2m-sde"]) {
      expect(out).toMatch(new RegExp(`^${name} +– +yes `, "m"));
    }
    expect(out).toMatch(/ +ddim +euler, where it does not clip/);
    for (const grid of GRIDS) expect(out).toContain(grid);
    expect(out).toMatch(/^ {2}CMStochasticIterativeScheduler +consistency models$/m);
  });

  test("lists the same as JSON", async () => {
    const { out } = await command("samplers", "--json");
    const { samplers, spreads } = JSON.parse(out);
    expect(samplers.map(({ name }: { name: string }) => name)).toEqual(Object.keys(SAMPLERS));
    expect(samplers[0]).toMatchObject({ name: "ddpm", className: "DDPMScheduler", order: null, stochastic: true });
    expect(spreads).toEqual([...GRIDS]);
  });
});

describe("allegory compare", () => {
  test("draws one seed by samplers and steps on a sheet, and says the times", async () => {
    const out = at("sheet.png");
    const words = ["compare", at("letters"), "--samplers", "euler,heun,pndm", "--steps", "2,4", "--class", "b"];
    const said = await command(...words, "--seed", "5", "--out", out);
    expect(said).toMatchObject({ status: 0, err: "" });
    expect(said.out).toMatch(/^euler +2 +2 +[\d.]+ s$/m);
    expect(said.out).toMatch(/^heun +4 +7 +[\d.]+ s$/m);
    expect(said.out).toMatch(/^pndm +2 +- +PNDM with Runge–Kutta steps needs 4 steps or more/m);
    const sheet = await decodeImage(out);
    // Three rows and two columns of 96 pixels, with headings.
    expect(sheet.height).toBeGreaterThan(3 * 96);
    expect(sheet.height).toBeLessThan(3 * 96 + 80);
    expect(sheet.width).toBeGreaterThan(2 * 96 + 30);
    expect(JSON.parse(pngText(await readFile(out)).allegory!)).toMatchObject({ seed: 5, class: "b", steps: [2, 4] });
    // The last picture but one row is what `sample` draws, each pixel a square of 12.
    await command(
      ...["sample", at("letters"), "--sampler", "heun", "--steps", "4", "--class", "b", "--seed", "5"],
      "--count",
      "1",
      "--out",
      at("one.png"),
    );
    const one = await decodeImage(at("one.png"));
    const [left, top] = [sheet.width - (96 + 4), sheet.height - (4 + 2 * 100)];
    for (const [x, y] of [
      [0, 0],
      [7, 3],
      [4, 7],
    ] as const) {
      const pixel = (top + y * 12 + 6) * sheet.width + left + x * 12 + 6;
      expect(sheet.data[pixel * 3]).toBe(one.data[(y * 8 + x) * 3]);
    }
  });

  test("prints places and times as JSON, several pictures in a place", async () => {
    const words = ["compare", at("letters"), "--samplers", "ddim", "--steps", "1,3", "--count", "4", "--json"];
    const said = await command(...words, "--out", at("four.png"));
    expect(said.status).toBe(0);
    const { places, file } = JSON.parse(said.out);
    expect(file).toBe(at("four.png"));
    expect(places).toMatchObject([
      { sampler: "ddim", steps: 1, calls: 1, seconds: expect.any(Number) },
      { sampler: "ddim", steps: 3, calls: 3, seconds: expect.any(Number) },
    ]);
  });

  test.each([
    [["--samplers", "eulr"], /There is no sampler "eulr"/],
    [["--steps", "0"], /whole numbers from 1 on/],
    [["--steps", "5,"], /A list such as a,b,c is needed/],
    [["--steps", "101"], /None of these can be drawn: 101 steps were asked for/],
    [["--spread", "karras", "--samplers", "ddpm"], /cannot spread its steps "karras"/],
    [["--out", "sheet.txt"], /cannot be written to sheet.txt/],
    [["--class", "z"], /There is no class "z"/],
  ])("%j is a user's mistake and writes nothing", async (words, message) => {
    const before = await readdir(folder);
    const out = words.includes("--out") ? [] : ["--out", at("never.png")];
    const said = await command("compare", at("letters"), ...words, ...out);
    expect(said.status).toBe(2);
    expect(said.err).toMatch(message);
    expect(await readdir(folder)).toEqual(before);
  });
});

test("a sampler that goes wrong on the model's schedule is noted, once, with better ones", async () => {
  await writeTinyPipeline(at("cosine"), { imageChannels: 1, size: 8, beta_schedule: "squaredcos_cap_v2" });
  const note =
    /^note: the first step of heun, from σ 2030 to 3\.1, is too large .*; euler-ancestral or dpm\+\+2m draw better here.\n$/;
  const sampled = await command("sample", at("cosine"), "--sampler", "heun", "--steps", "5", "--out", at("heun.png"));
  expect(sampled).toMatchObject({ status: 0, err: expect.stringMatching(note) });
  const words = ["compare", at("cosine"), "--samplers", "euler,heun", "--steps", "5,6", "--out", at("noted.png")];
  expect(await command(...words)).toMatchObject({ status: 0, err: expect.stringMatching(note) });
  const late = ["--image", at("picture.png"), "--strength", "0.6", "--out", at("late.png")];
  expect(await command("sample", at("cosine"), "--sampler", "heun", "--steps", "5", ...late)).toMatchObject({
    err: "",
  });
});

test("guidance is rescaled and limited to an interval by flags, which the file tells", async () => {
  const flags = ["--guidance", "3", "--guidance-rescale", "0.7", "--guidance-interval", "0.3,3", "--steps", "3"];
  const words = ["sample", at("letters"), "--class", "a", "--count", "1", "--out", at("guided.png")];
  expect(await command(...words, ...flags)).toMatchObject({ status: 0, err: "" });
  const text = pngText(await readFile(at("guided.png"))).allegory!;
  expect(JSON.parse(text)).toMatchObject({ guidance: 3, guidanceRescale: 0.7, guidanceInterval: [0.3, 3] });
  const refused = await command("sample", at("letters"), "--guidance-interval", "3,1");
  expect(refused).toMatchObject({ status: 2, err: expect.stringContaining("guidanceInterval: [3,1] was given") });
});

test("the name of a spread for a grid's file is answered with the flag that was meant", async () => {
  const { status, err } = await command("sample", at("letters"), "--sampler", "euler", "--grid", "karras");
  expect(status).toBe(2);
  expect(err).toContain("A picture cannot be written to karras.\nHow steps are spread is said with --spread karras;");
});

describe("allegory sample from pictures", () => {
  test("image-to-image, inpainting and inversion are flags", async () => {
    const words = [
      "sample",
      at("letters"),
      "--image",
      at("picture.png"),
      "--count",
      "1",
      "--steps",
      "8",
      "--class",
      "a",
    ];
    for (const [file, flags] of [
      ["strength.png", ["--strength", "0.5"]],
      ["mask.out.png", ["--mask", at("mask.png")]],
      ["inverted.png", ["--invert", "--image-class", "b"]],
    ] as const) {
      expect(await command(...words, ...flags, "--out", at(file))).toMatchObject({ status: 0, err: "" });
      expect(await decodeImage(at(file))).toMatchObject({ width: 8, height: 8 });
    }
    const [painted, source] = [await decodeImage(at("mask.out.png")), await decodeImage(at("picture.png"))];
    expect(painted.data.subarray(0, 96)).toEqual(source.data.subarray(0, 96));
    expect(painted.data).not.toEqual(source.data);
    const refused = await command(...words.map((word) => word.replace("picture", "large")));
    expect(refused).toMatchObject({ status: 2, err: expect.stringContaining("8×9 (height × width); 8×8") });
    expect(existsSync("letters-seed0.png")).toBe(false);
  });

  test("pictures between two seeds are named by both", async () => {
    const words = ["sample", at("letters"), "--between", "3,8", "--count", "3", "--steps", "2"];
    expect(await command(...words, "--out", at("way"))).toMatchObject({ status: 0 });
    const names = ["letters-seed3-to-8-at-0.5.png", "letters-seed3-to-8-at-0.png", "letters-seed3-to-8-at-1.png"];
    expect((await readdir(at("way"))).sort()).toEqual(names);
    const text = pngText(await readFile(at("way", names[0]!))).allegory!;
    expect(JSON.parse(text)).toMatchObject({ seed: 3, toward: { seed: 8, share: 0.5 } });
    expect(await command("sample", at("letters"), "--between", "3")).toMatchObject({ status: 2 });
  });
});
