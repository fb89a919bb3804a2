import { readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { UserError } from "../src/core/errors.ts";
import { checkpointName, readCheckpoint, runPaths, train } from "../src/train/index.ts";
import { smallDataset, smallRecipe, standOf, temporaryFolder } from "./train-small.ts";

const dataset = smallDataset();

/** The message of the UserError that a run ends with. */
async function refusal(running: Promise<unknown>): Promise<string> {
  const error = await running.then(
    () => "it was not refused",
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(UserError);
  return (error as UserError).message;
}

/** The contents of a folder's files by name. */
async function contentsOf(folder: string): Promise<Record<string, string>> {
  const names = await readdir(folder);
  const files = names.map(async (name) => [name, (await readFile(join(folder, name))).toString("base64")] as const);
  return Object.fromEntries(await Promise.all(files));
}

describe("a loss that is no finite number", () => {
  test("stops the run and names step, learning rate and last good checkpoint, which stays as it was", async () => {
    const run = await temporaryFolder();
    const seen: Record<string, string>[] = [];
    // Every step multiplies the weights by −9 (weight decay times lr), until their products exceed what float32 holds.
    const recipe = smallRecipe(run, {
      lr: 0.1,
      weightDecay: 100,
      warmup: 0,
      lrSchedule: "constant",
      checkpointEvery: 1,
      keep: 100,
    });
    const steps: number[] = [];
    const running = train(recipe, {
      dataset,
      onEvent: (event) => {
        if (event.kind === "step") steps.push(event.step);
      },
    });
    const message = await refusal(running);
    const failed = steps.length + 1;
    expect(failed).toBeGreaterThan(2);
    expect(message).toMatch(/The loss is (NaN|Infinity|[\d.e+]+) and the gradient's norm (NaN|Infinity)/);
    expect(message).toContain(`at step ${failed} (learning rate 0.100)`);
    const { checkpoints } = runPaths(run);
    expect(message).toContain(`The last good checkpoint is ${join(checkpoints, checkpointName(failed - 2))}`);
    expect(message).toContain(`${checkpointName(failed - 1)} holds the weights that led here`);
    const { tensors, progress } = await readCheckpoint(checkpoints, checkpointName(failed - 2));
    expect(progress.step).toBe(failed - 2);
    for (const { data } of tensors.values()) expect(data.every(Number.isFinite)).toBe(true);

    // Started again it fails at the same step and changes no checkpoint.
    seen.push(await contentsOf(checkpoints));
    expect(await refusal(train(recipe, { dataset }))).toContain(`at step ${failed} `);
    expect(await contentsOf(checkpoints)).toEqual(seen[0]);
  });

  test("before any checkpoint is said to be so", async () => {
    const run = await temporaryFolder();
    const recipe = smallRecipe(run, { lr: 1e30, warmup: 0, checkpointEvery: 100 });
    expect(await refusal(train(recipe, { dataset }))).toContain("There is no good checkpoint");
  });
});

describe("a damaged checkpoint", () => {
  test("is named with what to do, whichever byte is wrong; without it the run continues from the one before", async () => {
    const run = await temporaryFolder();
    const recipe = smallRecipe(run, { channels: [8], steps: 10 });
    await train(recipe, { dataset });
    const whole = await standOf(run, 10);
    const { checkpoints } = runPaths(run);
    const name = checkpointName(10);
    const path = join(checkpoints, name);
    const intact = await readFile(path);
    // All over the header, where the progress stands, and over the numbers.
    const headerEnd = 8 + Number(intact.readBigUInt64LE(0));
    const places = [
      ...Array.from({ length: 60 }, (_, i) => Math.floor((i / 60) * headerEnd)),
      ...Array.from({ length: 20 }, (_, i) => headerEnd + Math.floor((i / 20) * (intact.length - headerEnd))),
      intact.length - 1,
    ];
    for (const place of places) {
      const damaged = Buffer.from(intact);
      damaged[place]! ^= 1;
      await writeFile(path, damaged);
      const message = await refusal(readCheckpoint(checkpoints, name));
      expect(message, `byte ${place}`).toContain(`The checkpoint ${path} is damaged`);
      expect(message).toContain(`Delete it to continue from ${checkpointName(5)}`);
    }
    expect(await refusal(train(recipe, { dataset }))).toContain(`The checkpoint ${path} is damaged`);

    await rm(path);
    await train(recipe, { dataset });
    expect(await standOf(run, 10)).toEqual(whole);
  });

  test("that is cut short is named too, and that there is none before it", async () => {
    const run = await temporaryFolder();
    const recipe = smallRecipe(run, { channels: [8], steps: 2 });
    await train(recipe, { dataset });
    const { checkpoints } = runPaths(run);
    const path = join(checkpoints, checkpointName(2));
    const { length } = await readFile(path);
    for (const size of [length - 1, length >> 1, 100, 0]) {
      await truncate(path, size);
      const message = await refusal(train(recipe, { dataset }));
      expect(message).toContain(`The checkpoint ${path} is damaged`);
      expect(message).toContain("There is no checkpoint before it: delete it to start again.");
    }
  });
});

describe("a run is not continued", () => {
  test("with another recipe: each change is named, and nothing in the folder changes", async () => {
    const run = await temporaryFolder();
    await train(smallRecipe(run, { steps: 2 }), { dataset });
    const before = await readFile(runPaths(run).recipe, "utf8");
    const message = await refusal(train(smallRecipe(run, { steps: 4, lr: 5e-4, predict: "v", batch: 8 }), { dataset }));
    expect(message).toContain("holds a run with another recipe");
    expect(message).toContain("lr: 0.001 before, 0.0005 now");
    expect(message).toContain('predict: "noise" before, "v" now');
    expect(message).toContain("batch: 4 before, 8 now");
    expect(message).not.toContain("steps");
    expect(await readFile(runPaths(run).recipe, "utf8")).toBe(before);
  });

  test("on other data, and its recipe stays", async () => {
    const run = await temporaryFolder();
    await train(smallRecipe(run, { steps: 2 }), { dataset });
    const before = await readFile(runPaths(run).recipe, "utf8");
    const others = [
      smallDataset({ seed: 2 }),
      smallDataset({ count: 11 }),
      { ...dataset, flip: true },
      { ...dataset, images: dataset.images.with(17, dataset.images[17]! ^ 1) },
    ];
    for (const other of others) {
      const message = await refusal(train(smallRecipe(run, { steps: 4, data: "elsewhere" }), { dataset: other }));
      expect(message).toContain("The run was started on other data than random images.");
    }
    expect(await readFile(runPaths(run).recipe, "utf8")).toBe(before);
  });

  test("with images of a size that the network cannot take", async () => {
    const run = await temporaryFolder();
    const message = await refusal(train(smallRecipe(run), { dataset: smallDataset({ size: 9 }) }));
    expect(message).toContain("must be multiples of 2");
    expect(message).toMatch(/Set size to (8|10)/);
    expect(await readdir(run)).toEqual([]);
  });
});

test("only the newest checkpoints are kept, as many as asked for", async () => {
  const run = await temporaryFolder();
  await train(smallRecipe(run, { steps: 10, checkpointEvery: 2, keep: 3 }), { dataset });
  expect(await readdir(runPaths(run).checkpoints)).toEqual([6, 8, 10].map(checkpointName));
});
