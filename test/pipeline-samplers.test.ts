import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { UserError } from "../src/core/errors.ts";
import { SAMPLERS, type SamplerName } from "../src/diffusion/index.ts";
import { type UnconditionalPipeline, unconditionalPipeline } from "../src/pipelines/index.ts";
import { writeTinyPipeline } from "./tiny-pipeline.ts";

/** What holds of every named sampler where a network really runs: in a pipeline. */

let folder: string;
let pipe: UnconditionalPipeline;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-samplers-"));
  await writeTinyPipeline(folder, { size: 8, imageChannels: 1, classes: ["a", "b", "c"] });
  pipe = await unconditionalPipeline(folder, { threads: 1 });
});

afterAll(async () => {
  await pipe.close();
  await rm(folder, { recursive: true });
});

/** The last x of each picture, [pictures][values]. */
async function drawn(sampler: SamplerName, batch: number, steps: number): Promise<number[][]> {
  const pictures: number[][] = [];
  for await (const { x, images } of pipe.stream({ sampler, batch, steps, count: 3, seed: 4 })) {
    if (!images) continue;
    const size = x.data.length / images.length;
    images.forEach((_, i) => {
      pictures.push([...x.data.subarray(i * size, (i + 1) * size)]);
    });
  }
  return pictures;
}

describe.each(Object.keys(SAMPLERS) as SamplerName[])("%s in a pipeline", (sampler) => {
  const steps = sampler === "pndm" ? 5 : 4;

  test("draws the same pictures from the same seeds, however they are split into batches", async () => {
    const whole = await drawn(sampler, 3, steps);
    expect(whole).toHaveLength(3);
    expect(await drawn(sampler, 3, steps)).toEqual(whole);
    // Convolutions of another batch size may add up in another order: equal but for float32's rounding.
    const scale = Math.max(...whole.flat().map(Math.abs), 1);
    // Two batches of two, the last filled up.
    const split = await drawn(sampler, 2, steps);
    expect(split).toHaveLength(3);
    split.forEach((picture, n) => {
      picture.forEach((value, i) => {
        expect(Math.abs(value - whole[n]![i]!)).toBeLessThan(1e-4 * scale);
      });
    });
  });

  test("stops between steps when aborted, with the reason, and the pipeline goes on", async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    let seen = 0;
    const run = async () => {
      for await (const { step } of pipe.stream({ sampler, steps, count: 2 }, { signal: controller.signal })) {
        seen = step;
        if (step === 2) controller.abort(reason);
      }
    };
    await expect(run()).rejects.toBe(reason);
    expect(seen).toBe(2);
    expect(await pipe.generate({ sampler, steps, count: 2 })).toHaveLength(2);
  });

  test("takes one step, and not more than the network was trained with", async () => {
    const one = pipe.generate({ sampler, steps: 1, count: 2 });
    if (sampler === "pndm") await expect(one).rejects.toThrow(/needs 4 steps or more/);
    else expect(await one).toHaveLength(2);
    const many = pipe.generate({ sampler, steps: 101, count: 1 });
    await expect(many).rejects.toBeInstanceOf(UserError);
    await expect(many).rejects.toThrow(/101 steps were asked for/);
  });
});

test("aborting while the network runs ends the run, and nothing of it shows in the next", async () => {
  const request = { steps: 50, count: 2 };
  const before = await pipe.generate(request);
  const controller = new AbortController();
  let steps = 0;
  const run = async () => {
    for await (const { step } of pipe.stream(request, { signal: controller.signal })) {
      steps = step;
      // In the middle of the next call, as far as a timer can say.
      if (step === 3) setTimeout(() => controller.abort(), 1);
    }
  };
  await expect(run()).rejects.toThrow(/abort/i);
  expect(steps).toBeLessThan(50);
  const ended = steps;
  expect(await pipe.generate(request)).toEqual(before);
  expect(steps).toBe(ended);
});
