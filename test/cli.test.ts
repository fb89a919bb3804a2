import { existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run, version } from "../src/cli/program.ts";
import {
  decodeImage,
  hostImage,
  imageGrid,
  pngText,
  readJsonObject,
  readSafetensors,
  saveImage,
} from "../src/io/index.ts";
import { allegory, type CommandOptions } from "./cli.ts";
import { writeTinyPipeline } from "./tiny-pipeline.ts";

let folder: string;
const at = (...names: string[]) => join(folder, ...names);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-cli-"));
  await writeTinyPipeline(at("plain"));
  await writeTinyPipeline(at("animals"), { classes: ["cat", "dog"], classDropout: true, imageChannels: 1 });
  await writeTinyPipeline(at("patched"), { patch: 2, imageChannels: 1 });
  for (let i = 0; i < 8; i++) {
    const data = Uint8Array.from({ length: 64 }, (_, k) => (i * 31 + k * (i + 1)) % 256);
    await saveImage(at("pictures", i % 2 ? "odd" : "even", `${i}.png`), hostImage(8, 8, 1, data));
  }
  const pixels = Uint8Array.from({ length: 40 * 30 * 3 }, (_, i) => (i * 7) % 256);
  await saveImage(at("photo.png"), hostImage(40, 30, 3, pixels));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

/** Options for training on the small pictures, in an instant. */
const options = () => [
  ...["--data", at("pictures"), "--size", "8", "--channels", "8", "--layers", "1", "--batch", "4", "--warmup", "1"],
  ...["--patch", "2", "--colour", "gray", "--labels", "folders", "--classes", "--no-middle-attention"],
  ...["--sample-count", "4", "--sample-steps", "3", "--sample-every", "1000"],
];

/** Runs a command line in this process. */
async function command(...words: string[]) {
  const texts = { out: "", err: "" };
  const io = consoleOn({ write: (text) => (texts.out += text) }, { write: (text) => (texts.err += text) });
  const status = await run(words, io);
  return { status, ...texts };
}

describe("help", () => {
  test("has a line for every command, and for every option of each", async () => {
    const { status, out } = await command("--help");
    expect(status).toBe(0);
    for (const name of ["train", "sample", "inspect", "noise", "export"])
      expect(out).toMatch(new RegExp(`^  ${name}\\b`, "m"));
    const { out: help } = await command("train", "--help");
    const options = help.split("\n").filter((line) => line.startsWith("  -"));
    expect(options.length).toBeGreaterThan(45);
    for (const line of options) expect(line).toMatch(/^ {2}-\S.* {2,}\S+/);
    expect(help).toMatch(/--channels <list> +.*\(default: 64,128,256\)/);
    expect(help).toMatch(/--no-middle-attention +turn off: /);
    expect(help).toMatch(/--predict <text> +.*one of noise, x0, v; default: noise/);
  });

  test("comes up when nothing is asked; --version is the package's", async () => {
    expect(await command()).toMatchObject({ status: 0, out: expect.stringContaining("Usage: allegory") });
    expect(await command("--version")).toEqual({ status: 0, out: `${version()}\n`, err: "" });
  });
});

describe("a mistake ends with status 2 and says what to do", () => {
  test.each([
    [["sampel"], /unknown command 'sampel'\n\(Did you mean sample\?\)/],
    [["sample", "MODEL", "--sed", "1"], /unknown option '--sed'\n\(Did you mean --seed\?\)/],
    [["sample"], /missing required argument 'model'/],
    [["sample", "MODEL", "--steps", "many"], /'many' is invalid. A number is needed/],
    [["sample", "MODEL", "--count", "0"], /count: 0 was given. Accepted is at least 1/],
    [["sample", "MODEL", "--sampler", "eulr"], /Accepted are ddpm, .*Did you mean euler\?/],
    [["sample", "MODEL", "--out", "grid.bmp"], /cannot be written to grid.bmp.\nAccepted extensions are .png/],
    [["sample", "MODEL", "--animation", "film.mp4"], /Accepted extensions are .gif, .webp/],
    [["sample", "MODEL", "--device", "abacus"], /no device 'abacus'/],
    [["sample", "MODEL", "--threads", "0"], /A whole number from 1 on is needed/],
    [["sample", "nowhere"], /There is no folder nowhere/],
    [["train"], /data: it is needed: folder of images[\s\S]*run: it is needed/],
    [["train", "--data", "nowhere", "--run", "RUN", "--batch", "-3"], /batch: -3 was given. Accepted is at least 1/],
    [["train", "--data", "nowhere", "--run", "RUN"], /There is no folder or file nowhere/],
    [["train", "recipe.json"], /There is no recipe file recipe.json/],
    [["inspect", "nowhere"], /There is no file or folder nowhere/],
    [["noise", "nowhere.png"], /There is no file nowhere.png/],
    [["noise", "PHOTO", "--schedule", "cosin"], /Accepted are linear/],
    [["noise", "PHOTO", "--schedule", "squaredcos_cap_v3"], /Did you mean squaredcos_cap_v2\?/],
    [["noise", "PHOTO", "--beta-start", "0.1"], /squaredcos_cap_v2 has no first and last beta/],
    [["noise", "PHOTO", "--timesteps", "5"], /10 pictures were asked for; there are 5 timesteps/],
    [["export", "PATCHED", "OUT"], /patch 2[\s\S]*no pipeline of diffusers/],
    [["export", "MODEL", "MODEL"], /is not empty/],
  ])("%j", async (words, message) => {
    const paths: Record<string, string> = { MODEL: at("plain"), PATCHED: at("patched"), PHOTO: at("photo.png") };
    const given = words.map((word) => paths[word] ?? (/^[A-Z]+$/.test(word) ? at(word) : word));
    const { status, out, err } = await command(...given);
    expect({ status, out }).toEqual({ status: 2, out: "" });
    expect(err).toMatch(message);
    expect(err).toMatch(/^error: /);
    expect(existsSync(at("RUN"))).toBe(false);
  });

  test("a misspelt field of a recipe file is named with the nearest", async () => {
    await writeFile(at("typo.json"), '{"$schema": "recipe.schema.json", "stesp": 3}');
    const { status, err } = await command("train", at("typo.json"));
    expect(status).toBe(2);
    expect(err).toMatch(/stesp \(did you mean steps\?\)/);
    expect(err).not.toMatch(/\$schema \(/);
  });
});

describe("allegory sample", () => {
  test("writes a grid with the request inside, named for the model and the seed", async () => {
    await mkdir(at("here"));
    const words = ["sample", "../plain", "--count", "3", "--steps", "2", "--seed", "5"];
    const { status, out, err } = await allegory(words, { cwd: at("here") });
    expect({ status, err }).toEqual({ status: 0, err: "" });
    expect(out).toMatch(/^3 pictures in .*\n {2}plain-seed5.png\n$/);
    const png = await readFile(at("here", "plain-seed5.png"));
    expect(JSON.parse(pngText(png).allegory!)).toMatchObject({ model: "plain", steps: 2, seeds: [5, 6, 7] });
    const { width, height } = await sharp(png).metadata();
    // 2 by 2 pictures of 16 pixels, enlarged 20 times, and 3 gaps of 2.
    expect([width, height]).toEqual([646, 646]);
  });

  test("writes a file each into a folder, which are the pictures of the grid, besides a grid and an animation", async () => {
    const words = ["--seeds", "8,2", "--class", "dog", "--guidance", "2", "--steps", "3", "--json"];
    const outputs = ["--out", at("each"), "--grid", at("each.webp"), "--animation", at("film.gif")];
    const { status, out } = await command("sample", at("animals"), ...words, ...outputs);
    expect(status).toBe(0);
    const { files, pictures } = JSON.parse(out);
    const each = [at("each", "animals-seed8.png"), at("each", "animals-seed2.png")];
    expect(files).toEqual([...each, at("each.webp"), at("film.gif")]);
    expect(pictures).toEqual([8, 2].map((seed) => ({ seed, class: "dog", width: 16, height: 16 })));
    expect(JSON.parse(pngText(await readFile(each[1]!)).allegory!)).toMatchObject({
      seed: 2,
      class: "dog",
      guidance: 2,
    });
    expect((await sharp(at("film.gif"), { pages: -1 }).metadata()).pages).toBe(3);
    const alone = await command(
      "sample",
      at("animals"),
      "--seed",
      "2",
      "--count",
      "1",
      "--class",
      "1",
      ...words.slice(4, -1),
      "--out",
      at("alone.png"),
    );
    expect(alone.status).toBe(0);
    const pixels = (path: string) => sharp(path).raw().toBuffer();
    expect(await pixels(at("alone.png"))).toEqual(await pixels(each[1]!));
  });

  test("shows the grid in characters where it cannot show colours", async () => {
    const { out } = await command(
      "sample",
      at("plain"),
      "--count",
      "1",
      "--steps",
      "1",
      "--terminal",
      "--out",
      at("t.png"),
    );
    expect(out).toMatch(/^[ ░▒▓█\n]{100,}1 picture in/);
  });

  test.each(["SIGINT", "SIGTERM"] as const)("that gets a %s leaves no file, with status 130", async (signal) => {
    const cwd = at(`stopped-${signal}`);
    await mkdir(cwd);
    // A network without a schedule: its warning tells that drawing begins.
    await cp(at("plain", "unet"), at(`bare-${signal}`), { recursive: true });
    const words = [
      "sample",
      `../bare-${signal}`,
      "--count",
      "200",
      "--steps",
      "500",
      "--out",
      "each",
      "--grid",
      "g.png",
    ];
    const watch = sendOnce(signal, /says nothing about its noise schedule/);
    const { status, out, err } = await allegory(words, { cwd, watch });
    expect({ status, out }).toEqual({ status: 130, out: "" });
    expect(err).toContain("Stopping; nothing is written");
    expect(await readdir(cwd)).toEqual([]);
  });
});

describe("allegory train", () => {
  test("that is interrupted checkpoints, says how to continue, continues, and draws what its own preview shows", async () => {
    const words = ["train", ...options(), "--run", "run", "--steps", "100000"];
    const stopped = await allegory(words, { cwd: folder, watch: sendOnce("SIGINT", /^step \d+\/100000 {2}loss /m) });
    expect(stopped.status).toBe(130);
    expect(stopped.err).toContain("Stopping after this step");
    const step = Number(
      /Stopped after step (\d+), with a checkpoint. Continue with: allegory train run/.exec(stopped.out)?.[1],
    );
    expect(step).toBeGreaterThan(0);
    expect(await readdir(at("run", "checkpoints"))).toEqual([`step-${String(step).padStart(8, "0")}.safetensors`]);

    const steps = String(step + 3);
    const events = (await command("train", at("run"), "--steps", steps, "--json")).out.trim().split("\n");
    const [started, ...rest] = events.map((line) => JSON.parse(line));
    expect(started).toMatchObject({ event: "started", from: step, images: 8 });
    expect(rest.filter(({ event }) => event === "step").map((event) => event.step)).toEqual([
      step + 1,
      step + 2,
      step + 3,
    ]);
    expect(rest.at(-1)).toMatchObject({ event: "ended", ended: "steps", step: step + 3 });

    // The preview is drawn by training, from weights in memory; this by a pipeline, from the model's folder.
    const [preview] = await readdir(at("run", "samples"));
    const words2 = ["--count", "4", "--sampler", "ddim", "--steps", "3", "--out", at("drawn"), "--json"];
    const { files, pictures } = JSON.parse((await command("sample", at("run"), ...words2)).out);
    expect(pictures.map((picture: { class: string }) => picture.class)).toEqual(["even", "odd", "even", "odd"]);
    const drawn = await Promise.all(files.map((file: string) => decodeImage(file, { channels: 1 })));
    const grid = await imageGrid(drawn, { scale: 2 });
    const shown = await decodeImage(at("run", "samples", preview!), { channels: 1 });
    expect([shown.width, shown.height]).toEqual([grid.width, grid.height]);
    const apart = grid.data.reduce((most, value, i) => Math.max(most, Math.abs(value - shown.data[i]!)), 0);
    expect(apart).toBeLessThanOrEqual(2);
  });

  test("reads a recipe file, whose fields options override, and a dry run writes nothing", async () => {
    const recipe = {
      $schema: "../recipe.schema.json",
      data: at("pictures"),
      size: 8,
      channels: [8, 8],
      steps: 7,
      flip: true,
    };
    await writeFile(at("recipe.json"), JSON.stringify(recipe));
    const words = [at("recipe.json"), "--run", at("dry"), "--batch", "2", "--no-flip", "--dry-run", "--json"];
    const { status, out } = await command("train", ...words);
    expect(status).toBe(0);
    const plan = JSON.parse(out);
    expect(plan.recipe).toMatchObject({ batch: 2, flip: false, steps: 7, channels: [8, 8], lr: 2e-4 });
    expect(plan).toMatchObject({
      images: { count: 8, width: 8, height: 8, channels: 3, classes: 0 },
      done: 0,
      steps: 7,
    });
    expect(plan.parameters).toBeGreaterThan(1000);
    expect(plan.memory.peak).toBeGreaterThan(1e6);
    expect(plan.time.total).toBeCloseTo(7 * plan.time.perStep, 5);
    const { out: text } = await command("train", ...words.slice(0, -1));
    expect(text).toMatch(/^data +8 images of 8×8×3\nnetwork +[\d,]+ parameters .*\nmemory .*\ntime .* 7 steps of /);
    expect(text).toMatch(/Nothing was trained or written.\n$/);
    expect(existsSync(at("dry"))).toBe(false);
  });
});

describe("allegory inspect", () => {
  beforeAll(async () => {
    expect((await command("train", ...options(), "--run", at("short"), "--steps", "2")).status).toBe(0);
  });

  test("shows a run: recipe, progress, network, schedule", async () => {
    const { status, out } = await command("inspect", at("short"));
    expect(status).toBe(0);
    expect(out).toMatch(/training run/);
    expect(out).toMatch(/progress: step \d+ of \d+/);
    expect(out).toMatch(/ channels +\[8\]/);
    expect(out).toMatch(/unet: UNet2DModel, [\d,]+ parameters, .* \(float32\)/);
    expect(out).toMatch(/ 999 +\S+ +\S+/);
    expect(out).toMatch(/classes: even, odd/);
  });

  test("shows a checkpoint: its step, and every tensor with dtype, shape and size", async () => {
    const [name] = await readdir(at("short", "checkpoints"));
    const path = at("short", "checkpoints", name!);
    const { out } = await command("inspect", path);
    expect(out).toMatch(/checkpoint of a training run/);
    expect(out).toMatch(/step: \d+\n/);
    expect(out).toMatch(/average\/conv_in.weight +float32 +\[8, 4, 3, 3\] +1.15 kB/);
    const facts = JSON.parse((await command("inspect", path, "--json")).out);
    const tensors = await readSafetensors(path);
    expect(facts.tensors.map(({ name, shape }: { name: string; shape: number[] }) => [name, shape])).toEqual(
      [...tensors].map(([name, { shape }]) => [name, [...shape]]),
    );
  });

  test("shows a pipeline, a model and a safetensors file alike", async () => {
    const count = async (...path: string[]) =>
      /[\d,]{5,} (?:parameters|numbers)/.exec((await command("inspect", at(...path))).out)?.[0];
    const found = await Promise.all([
      count("plain"),
      count("plain", "unet"),
      count("plain", "unet", "diffusion_pytorch_model.safetensors"),
    ]);
    expect(found).toEqual(["41,899 parameters", "41,899 parameters", "41,899 numbers"]);
    const listed = await command("inspect", at("plain"), "--tensors");
    expect(listed.out).toMatch(/mid_block.attentions.0.to_q.weight +float32 +\[16, 16\]/);
    expect((await command("inspect", at("photo.png"))).status).toBe(2);
  });
});

describe("allegory noise", () => {
  test("draws an image at several timesteps, from the image to noise, and lists alpha-bar and SNR", async () => {
    const words = ["--steps", "4", "--size", "64", "--out", at("noise.png"), "--animation", at("noise.gif"), "--json"];
    const { status, out } = await command("noise", at("photo.png"), ...words);
    expect(status).toBe(0);
    const { levels, files } = JSON.parse(out);
    expect(files).toEqual([at("noise.png"), at("noise.gif")]);
    expect(levels.map(({ t }: { t: number }) => t)).toEqual([0, 333, 666, 999]);
    for (const { alphaBar, snr } of levels) expect(snr).toBeCloseTo(alphaBar / (1 - alphaBar), 5);
    expect(levels[0].alphaBar).toBeGreaterThan(0.999);
    expect(levels[3].alphaBar).toBeLessThan(1e-6);
    // The first picture is the image as it is decoded at this size, but for noise of 1 % deviation.
    const grid = await sharp(at("noise.png")).extract({ left: 6, top: 6, width: 64, height: 64 }).raw().toBuffer();
    const image = await decodeImage(at("photo.png"), { size: 64 });
    const apart = grid.reduce((sum, value, i) => sum + Math.abs(value - image.data[i]!), 0) / grid.length;
    expect(apart).toBeGreaterThan(0);
    expect(apart).toBeLessThan(3);
  });

  test("prints a table", async () => {
    const { out } = await command(
      "noise",
      at("photo.png"),
      "--steps",
      "3",
      "--zero-terminal-snr",
      "--out",
      at("zero.png"),
    );
    expect(out).toMatch(/^t +alpha-bar +SNR +dB\n0 +0\.9\d+/);
    expect(out).toMatch(/\n999 +0 +0 +-∞\n/);
  });
});

describe("allegory export", () => {
  test("writes a DDPMPipeline with the run's weights, which draws the same pictures", async () => {
    const { status, out } = await command("export", at("animals"), at("exported"));
    expect(status).toBe(0);
    expect(out).toContain("DDPMPipeline.from_pretrained");
    expect(await readJsonObject(at("exported", "model_index.json"))).toMatchObject({
      _class_name: "DDPMPipeline",
      unet: ["diffusers", "UNet2DModel"],
      scheduler: ["diffusers", "DDPMScheduler"],
      id2label: { 0: "cat", 1: "dog" },
    });
    const weights = (name: string) => readFile(at(name, "unet", "diffusion_pytorch_model.safetensors"));
    expect(await weights("exported")).toEqual(await weights("animals"));
    const draw = async (name: string) => {
      const words = ["--count", "2", "--class", "dog", "--guidance", "3", "--steps", "2", "--out", at(`${name}.png`)];
      expect((await command("sample", at(name), ...words)).status).toBe(0);
      return sharp(at(`${name}.png`))
        .raw()
        .toBuffer();
    };
    expect(await draw("exported")).toEqual(await draw("animals"));
  });
});

/** Watches what a command writes and sends it a signal when it has written `text`. */
function sendOnce(signal: NodeJS.Signals, text: RegExp): CommandOptions["watch"] {
  let sent = false;
  return (written, kill) => {
    if (sent || !text.test(written)) return;
    sent = true;
    kill(signal);
  };
}
