import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type HostImage, tensorFromImages } from "../src/io/index.ts";
import { judgeAlignment, openCaptionRetrieval } from "../src/metrics/index.ts";
import { type TextToImagePipeline, textToImagePipeline } from "../src/pipelines/index.ts";

const MODEL = fileURLToPath(new URL("../models/emoji/", import.meta.url));
const SAMPLING = { seed: 0, steps: 12, sampler: "dpm++2m", spread: "trailing", guidance: 5 } as const;

let emoji: TextToImagePipeline;
beforeAll(async () => {
  emoji = await textToImagePipeline(MODEL, {});
});
afterAll(() => emoji.close());

/** The mean of each channel over what is not nearly white. */
function colourOf({ data, width, height }: HostImage): [number, number, number] {
  const sum = [0, 0, 0, 0];
  for (let i = 0; i < width * height; i++) {
    const pixel = [data[3 * i]!, data[3 * i + 1]!, data[3 * i + 2]!] as const;
    if (Math.min(...pixel) > 200) continue;
    pixel.forEach((value, c) => {
      sum[c]! += value;
    });
    sum[3]!++;
  }
  return [sum[0]! / sum[3]!, sum[1]! / sum[3]!, sum[2]! / sum[3]!];
}

describe("the emoji model of the package", () => {
  test("hears colours", async () => {
    const prompt = ["a red heart", "a blue heart", "a green heart"];
    const drawn = await emoji.generate({ ...SAMPLING, prompt, batch: 3 });
    const strongest = drawn.map((picture) => {
      const colour = colourOf(picture);
      return colour.indexOf(Math.max(...colour));
    });
    expect(strongest).toEqual([0, 2, 1]);
  });

  test("draws what another network takes for what was asked", async () => {
    const captions = [
      "red heart",
      "grinning face",
      "blue circle",
      "pizza",
      "two o’clock",
      "tiger face",
      "left arrow",
      "bus",
    ];
    const drawn = await emoji.generate({ ...SAMPLING, prompt: captions, batch: captions.length });
    const judge = await openCaptionRetrieval();
    const asked = captions.map((_, i) => i);
    const { top1 } = await judgeAlignment(judge, tensorFromImages(drawn), { captions, asked });
    await judge.close();
    expect(top1).toBeGreaterThanOrEqual(0.5); // by chance 0.125
  });

  test("is small", async () => {
    const files = (await readdir(MODEL, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
    const sizes = await Promise.all(
      files.map(async ({ parentPath, name }) => (await stat(join(parentPath, name))).size),
    );
    expect(sizes.reduce((a, b) => a + b, 0)).toBeLessThan(12e6);
  });
});
