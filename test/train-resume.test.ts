import { appendFile, readFile, rm } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { type RecipeInput, runPaths, train } from "../src/train/index.ts";
import {
  type Dataset,
  loggedSteps,
  smallDataset,
  smallRecipe,
  standOf,
  stopAfter,
  temporaryFolder,
} from "./train-small.ts";

const variants: readonly (readonly [string, Dataset, Partial<RecipeInput>])[] = [
  ["plainly", smallDataset(), {}],
  ["with classes, some of them dropped", smallDataset({ classes: 3 }), { classes: true, classDropout: 0.3 }],
  ["with mirrored images", smallDataset({ flip: true, channels: 3 }), { batch: 3 }],
  ["with accumulated gradients", smallDataset(), { accumulate: 2 }],
  [
    "with v-prediction, zero terminal SNR and min-SNR weights",
    smallDataset(),
    { predict: "v", zeroTerminalSnr: true, weighting: "min-snr", patch: 2, channels: [8], lrSchedule: "constant" },
  ],
];

describe("a run that is stopped and continued on one thread ends bit for bit like one that never stopped", () => {
  test.each(variants)("%s", async (_, dataset, changes) => {
    const whole = await temporaryFolder();
    const parts = await temporaryFolder();
    await train(smallRecipe(whole, changes), { dataset });
    const first = await train(smallRecipe(parts, changes), { dataset, ...stopAfter(10) });
    expect(first).toMatchObject({ step: 10, ended: "stopped" });
    const second = await train(smallRecipe(parts, changes), { dataset });
    expect(second).toMatchObject({ step: 20, ended: "steps" });
    expect(await standOf(parts, 20)).toEqual(await standOf(whole, 20));
    expect(await loggedSteps(parts)).toEqual(await loggedSteps(whole));
    const weights = (run: string) => readFile(`${runPaths(run).model}/unet/diffusion_pytorch_model.safetensors`);
    expect((await weights(parts)).equals(await weights(whole))).toBe(true);
  });

  test("stopped between checkpoints, and again", async () => {
    const dataset = smallDataset();
    const whole = await temporaryFolder();
    const parts = await temporaryFolder();
    await train(smallRecipe(whole), { dataset });
    for (const step of [3, 4, 13]) {
      expect((await train(smallRecipe(parts), { dataset, ...stopAfter(step) })).step).toBe(step);
    }
    await train(smallRecipe(parts), { dataset });
    expect(await standOf(parts, 20)).toEqual(await standOf(whole, 20));
  });

  test("with a constant learning rate, also when the first session was told to take fewer steps", async () => {
    const dataset = smallDataset();
    const whole = await temporaryFolder();
    const parts = await temporaryFolder();
    const changes = { lrSchedule: "constant" } as const;
    await train(smallRecipe(whole, changes), { dataset });
    await train(smallRecipe(parts, { ...changes, steps: 10 }), { dataset });
    await train(smallRecipe(parts, changes), { dataset });
    expect(await standOf(parts, 20)).toEqual(await standOf(whole, 20));
  });

  test("another seed or one byte of the data changed ends elsewhere", async () => {
    const dataset = smallDataset();
    const changed = { ...dataset, images: dataset.images.with(0, dataset.images[0]! ^ 1) };
    const [first, otherSeed, otherData] = await Promise.all([0, 1, 2].map(temporaryFolder));
    await train(smallRecipe(first!, { steps: 4 }), { dataset });
    await train(smallRecipe(otherSeed!, { steps: 4, seed: 4 }), { dataset });
    await train(smallRecipe(otherData!, { steps: 4 }), { dataset: changed });
    const { hashes } = await standOf(first!, 4);
    const name = "parameters/conv_in.weight";
    expect((await standOf(otherSeed!, 4)).hashes[name]).not.toBe(hashes[name]);
    expect((await standOf(otherData!, 4)).hashes[name]).not.toBe(hashes[name]);
  });
});

test("a signal given before the first step stops the run without a checkpoint", async () => {
  const run = await temporaryFolder();
  const result = await train(smallRecipe(run), { dataset: smallDataset(), signal: AbortSignal.abort() });
  expect(result).toMatchObject({ step: 0, ended: "stopped" });
});

test("a run whose time is up takes no further step when it is started again", async () => {
  const run = await temporaryFolder();
  const recipe = smallRecipe(run, { minutes: 1e-6 });
  const first = await train(recipe, { dataset: smallDataset() });
  expect(first).toMatchObject({ step: 1, ended: "minutes" });
  expect(await train(recipe, { dataset: smallDataset() })).toMatchObject({ step: 1, ended: "minutes" });
});

test("metrics of steps that a crash undid are cut off, half a line too", async () => {
  const run = await temporaryFolder();
  const dataset = smallDataset();
  await train(smallRecipe(run), { dataset, ...stopAfter(10) });
  const { metrics } = runPaths(run);
  const line = (await readFile(metrics, "utf8")).split("\n")[0]!;
  const later = [11, 12].map((step) => line.replace(/"step":\d+/, `"step":${step}`));
  await appendFile(metrics, `${later.join("\n")}\n${line.slice(0, 20)}`);
  expect(await loggedSteps(run).catch(() => "unreadable")).toBe("unreadable");
  await train(smallRecipe(run), { dataset });
  expect(await loggedSteps(run)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20]);
});

test("a run killed after its last checkpoint writes the model when it is started again", async () => {
  const run = await temporaryFolder();
  const dataset = smallDataset();
  const { model } = await train(smallRecipe(run), { dataset });
  const file = `${model}/unet/diffusion_pytorch_model.safetensors`;
  const before = await readFile(file);
  await rm(model, { recursive: true });
  await train(smallRecipe(run), { dataset });
  expect((await readFile(file)).equals(before)).toBe(true);
});
