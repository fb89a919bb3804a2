import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { belongsTo, type EmojiRow, emojiTable, type RealEmoji, withEmojiTable } from "../bench/emoji-table.ts";
import { neighbourSheet } from "../bench/neighbour-sheet.ts";
import { type Jitter, jittered } from "../bench/picture-jitter.ts";
import { hostTensor } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import type { Dataset } from "../src/data/index.ts";
import { type HostImage, hostImage } from "../src/io/index.ts";
import type { Memorization } from "../src/metrics/index.ts";

const distance = (mean: number) => ({ mean, deviation: 0.1 });
const nearness = (features: number, pixels: number) => ({
  features: { nearerThanTypical: features, copies: features / 10 },
  pixels: { nearerThanTypical: pixels, copies: pixels / 10 },
});
const row = (guidance: number, more: Partial<EmojiRow> = {}): EmojiRow => ({
  ...{ judge: "j", model: "m", pictures: 200, captions: 100, seed: 0, sampler: "euler", steps: 25, trainedOn: "train" },
  ...{ guidance, alignment: { top1: 0.25, top5: 0.5, top10: guidance / 10 } },
  ...{ frechet: distance(12.345), kernel: distance(0.0123) },
  ...{ nearness: { own: 0.3, ...nearness(0.6, 0.7) }, seconds: 60 },
  ...more,
});
const real: RealEmoji = {
  halves: { frechet: distance(2), kernel: distance(-0.0001) },
  trainedOn: { count: 100, top1: 0.99, top5: 1, top10: 1 },
  heldOut: { count: 159, top1: 0.2, top5: 0.4, top10: 0.555, nearness: nearness(0.5, 0.48) },
};

describe("the table of judgements", () => {
  test("goes from little to much guidance, then to what real pictures and chance give", () => {
    const lines = emojiTable([row(5), row(1)], real).split("\n");
    expect(lines[0]).toContain("200 pictures of 100 captions, 25 steps of `euler`, seeds from 0 on");
    expect(lines.slice(-5)).toEqual([
      "| guidance 1 | 25 % | 50 % | 10 % | 12.3 | 12.3 | 30 % | 60 %, 70 % | 6 %, 7 % |",
      "| guidance 5 | 25 % | 50 % | 50 % | 12.3 | 12.3 | 30 % | 60 %, 70 % | 6 %, 7 % |",
      "| *real, trained on* | 99 % | 100 % | 100 % | 2.00 | -0.100 |  |  |  |",
      "| *real, held out* | 20 % | 40 % | 55.5 % |  |  |  | 50 %, 48 % | 5 %, 4.8 % |",
      "| *chance* | 1 % | 5 % | 10 % | | | | | |",
    ]);
    for (const line of lines.slice(-7)) expect(line.split("|")).toHaveLength(lines.at(-6)!.split("|").length);
  });

  test("shows real pictures before anything is drawn, in the page that is there for it", async () => {
    const page = await readFile(fileURLToPath(new URL("../docs/text-alignment.md", import.meta.url)), "utf8");
    const written = withEmojiTable(page, emojiTable([], real));
    expect(written).toContain("| *real, trained on* | 99 % |");
    expect(withEmojiTable(written, "| other |")).toBe(withEmojiTable(page, "| other |"));
  });

  test("holds only what one model drew under one judge in the same way", () => {
    const place = row(3);
    expect(belongsTo(row(5), place)).toBe(true);
    const others = [{ judge: "k" }, { model: "n" }, { pictures: 100 }, { captions: 50 }, { seed: 1 }, { steps: 10 }];
    for (const other of [...others, { sampler: "ddim" }, { trainedOn: "all" }]) {
      expect(belongsTo(row(3, other), place)).toBe(false);
    }
  });
});

test("the sheet has drawn pictures beside their neighbours, the nearest first", async () => {
  const colours = [10, 60, 110, 160, 210];
  const images = Uint8Array.from(colours.flatMap((colour) => Array<number>(3 * 64).fill(colour)));
  const training: Dataset = {
    ...{ name: "plain", images, count: 5, channels: 3, height: 8, width: 8, flip: false, warnings: [] },
  };
  const drawn: HostImage[] = [250, 230].map((colour) => hostImage(8, 8, 3, new Uint8Array(192).fill(colour)));
  const found = (indices: number[], distances: number[]): Memorization => ({
    ...{ nearerThanTypical: 0, copies: 0, medianDistance: 0, typicalDistance: 0 },
    neighbours: { indices: Uint32Array.from(indices), distances: Float64Array.from(distances) },
  });
  const near = {
    features: found([0, 1, 2, 2, 1, 0], [5, 6, 7, 1, 2, 3]),
    pixels: found([3, 4, 0, 4, 3, 0], [1, 1, 1, 2, 2, 2]),
  };
  const sheet = await neighbourSheet(drawn, training, near, { prompts: ["far", "near"], title: "t", shown: 5 });
  // What is crossed on the way through the middles of the pictures: two lines of text above, rows of 12 pixels, and letters are
  // thinner than pictures.
  const row = (n: number) => {
    const y = 40 + 2 + 2 + 12 * n + 4;
    const line = Array.from({ length: sheet.width }, (_, x) => sheet.data[3 * (y * sheet.width + x)]!);
    return line.filter(
      (value, x) => value !== 255 && value !== line[x - 1] && line.slice(x, x + 8).every((v) => v === value),
    );
  };
  expect([row(0), row(1)]).toEqual([
    [230, 110, 60, 10, 210, 160, 10],
    [250, 10, 60, 110, 160, 210, 10],
  ]);
});

describe("jitter", () => {
  const none: Jitter = { shift: 0, scale: 0, turn: 0, gain: 0, blur: 0 };
  const noise = Uint8Array.from(seeded(0).uniform([2 * 3 * 64], { low: 0, high: 256 }).data);
  const pictures = hostTensor("uint8", [2, 3, 8, 8], noise);

  test("of no amount leaves pictures as they are", () => {
    expect(jittered(pictures, seeded(1), none).data).toEqual(pictures.data);
  });

  test("changes each picture in its own way, and plain ones by the gain of each colour alone", () => {
    const strong: Jitter = { shift: 2, scale: 0.2, turn: 0.2, gain: 0.1, blur: 1 };
    const [one] = [hostTensor("uint8", [2, 3, 8, 8], new Uint8Array(384).fill(100))];
    const { data } = jittered(one, seeded(1), strong);
    const colours = Array.from({ length: 6 }, (_, plane) => new Set(data.subarray(plane * 64, plane * 64 + 64)));
    expect(colours.every((values) => values.size === 1)).toBe(true);
    const means = colours.flatMap((values) => [...values]);
    expect(new Set(means).size).toBeGreaterThan(3);
    expect(Math.min(...means)).toBeGreaterThanOrEqual(90);
    expect(Math.max(...means)).toBeLessThanOrEqual(110);
  });

  test("moves by parts of a pixel, and goes on with the edge's colour", () => {
    const ramp = hostTensor(
      "uint8",
      [4, 3, 8, 8],
      Uint8Array.from({ length: 768 }, (_, p) => 30 * (p % 8)),
    );
    const { data } = jittered(ramp, seeded(4), { ...none, shift: 3 });
    const moves = Array.from({ length: 4 }, (_, i) => {
      const row = Array.from(data.subarray(i * 192, i * 192 + 8));
      const right = 3.5 - (row[3]! + row[4]!) / 60;
      const expected = row.map((_, x) => 30 * Math.min(Math.max(x - right, 0), 7));
      for (const [x, value] of row.entries()) expect(Math.abs(value - expected[x]!)).toBeLessThan(1.5);
      return right;
    });
    expect(new Set(moves.map((right) => right.toFixed(2))).size).toBe(4);
    expect(Math.max(...moves.map(Math.abs))).toBeLessThan(3.1);
  });
});
