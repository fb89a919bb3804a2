import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readJsonObject, writeJsonObject } from "../src/io/index.ts";
import { pipeline, type TextToImagePipeline, type TextToImageState } from "../src/pipelines/index.ts";

const sd15 = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
const BETAS = { beta_schedule: "scaled_linear", beta_start: 0.00085, beta_end: 0.012 };
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-few-steps-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** The tiny model with another scheduler, as it lies on disk. */
async function withScheduler(name: string, scheduler: object): Promise<TextToImagePipeline> {
  const path = join(folder, name);
  await cp(sd15, path, { recursive: true });
  await writeJsonObject(join(path, "scheduler", "scheduler_config.json"), { ...BETAS, ...scheduler });
  return pipeline("text-to-image", path, { threads: 1 });
}

const trailing = { prediction_type: "epsilon", timestep_spacing: "trailing", steps_offset: 1 };
const image = { width: 24, height: 24, channels: 3 as const, data: new Uint8Array(1728).fill(90) };

describe("a model whose scheduler is that of Turbo", () => {
  let turbo: TextToImagePipeline;
  beforeAll(async () => {
    turbo = await withScheduler("turbo", { _class_name: "EulerAncestralDiscreteScheduler", ...trailing });
  });
  afterAll(() => turbo.close());

  test("draws with one call of its network, and from an image too", async () => {
    for (const more of [{}, { image }]) {
      const states: TextToImageState[] = [];
      for await (const state of turbo.stream({ prompt: "a cat", ...more })) states.push(state);
      expect(states.map(({ calls, timestep, images }) => [calls, timestep, images?.length])).toEqual([
        [1, "image" in more ? 499 : 999, 1],
      ]);
    }
    // 0, as its model cards have it, is none as well.
    const [first, second] = [
      await turbo.generate({ prompt: "a cat" }),
      await turbo.generate({ prompt: "a cat", guidance: 0 }),
    ];
    expect(second[0]!.data).toEqual(first[0]!.data);
  });

  test("draws a picture again, larger, with one step more", async () => {
    const sizes: number[] = [];
    for await (const { x } of turbo.stream({ prompt: "a cat", enlarge: 2 })) sizes.push(x.shape[3]!);
    expect(sizes).toEqual([12, 24]);
  });

  test("does what is said where something is said", async () => {
    expect(turbo.resolve({ prompt: "a cat", steps: 3, guidance: 2, negativePrompt: "fog" })).toMatchObject({
      ...{ steps: 3, guidance: 2 },
    });
    expect(() => turbo.resolve({ prompt: "a cat", negativePrompt: "fog" })).toThrow(/no effect, since guidance is 1/);
  });
});

test.each<[string, object, { steps: number; guidance: number }]>([
  ["sd-turbo", { _class_name: "EulerDiscreteScheduler", ...trailing }, { steps: 1, guidance: 1 }],
  // Consistency distillation with a guidance that is built in, as `allegory train` and merged LCM LoRAs have it.
  ["lcm", { _class_name: "LCMScheduler" }, { steps: 4, guidance: 1 }],
  ["tcd", { _class_name: "TCDScheduler" }, { steps: 4, guidance: 1 }],
  ["euler", { _class_name: "EulerDiscreteScheduler", timestep_spacing: "leading" }, { steps: 50, guidance: 7.5 }],
  // A terminal SNR of zero has trailing timesteps too (Lin et al. 2024).
  [
    "v",
    { _class_name: "EulerDiscreteScheduler", ...trailing, prediction_type: "v_prediction" },
    { steps: 50, guidance: 7.5 },
  ],
  [
    "zero-snr",
    { _class_name: "EulerDiscreteScheduler", ...trailing, rescale_betas_zero_snr: true },
    { steps: 50, guidance: 7.5 },
  ],
  ["ddim", { _class_name: "DDIMScheduler", timestep_spacing: "trailing" }, { steps: 50, guidance: 7.5 }],
])("the scheduler of %s says how many steps there are by default", async (name, scheduler, expected) => {
  const pipe = await withScheduler(name, scheduler);
  expect(pipe.resolve({ prompt: "a cat" })).toMatchObject(expected);
  await pipe.close();
});

test("a scheduler that is given in the place of the folder's decides", async () => {
  const own = await readJsonObject(join(sd15, "scheduler", "scheduler_config.json"));
  const scheduler = { ...own, _class_name: "LCMScheduler" };
  const pipe = await pipeline("text-to-image", sd15, { scheduler });
  expect(pipe.resolve({ prompt: "a cat" })).toMatchObject({ steps: 4, guidance: 1 });
  await pipe.close();
});
