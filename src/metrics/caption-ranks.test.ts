import { describe, expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { float32 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { captionRanks, expectedShareWithin, judgeAlignment, shareWithin } from "./index.ts";

const captions = float32([4, 2], [1, 0, 0, 1, -1, 0, 0, -1]); // right, up, left, down

describe("the rank of a caption", () => {
  test("counts the captions that are more similar", () => {
    const pictures = float32([3, 2], [2, 1, 2, 1, 2, 1]); // similarities 2, 1, −2, −1
    expect([...captionRanks(pictures, captions, [0, 1, 2])]).toEqual([1, 2, 4]);
  });

  test("is the last among equals, so that telling nothing apart is worth nothing", () => {
    const same = float32([4, 2], [1, 1, 1, 1, 1, 1, 1, 1]);
    expect([...captionRanks(same, same, [0, 1, 2, 3])]).toEqual([4, 4, 4, 4]);
    expect([...captionRanks(float32([1, 2], [1, 1]), captions, [1])]).toEqual([2]);
  });

  test("needs one caption that exists for each picture", () => {
    const picture = float32([1, 2], [1, 0]);
    expect(() => captionRanks(picture, captions, [])).toThrow(UserError);
    expect(() => captionRanks(picture, captions, [4])).toThrow(/there are captions 0 to 3/);
    expect(() => captionRanks(float32([1, 2], [1, Number.NaN]), captions, [0])).toThrow(UserError);
  });

  test("is within the first so many for a share of the pictures", () => {
    expect([1, 2, 5, 10, 11].map((top) => shareWithin([1, 2, 6, 10], top))).toEqual([0.25, 0.5, 0.5, 1, 1]);
  });
});

describe("the share expected among fewer captions", () => {
  test("is the share itself among all, and certain among one", () => {
    const ranks = [1, 3, 4];
    for (const top of [1, 2, 3, 4]) {
      expect(expectedShareWithin(ranks, top, { of: 6, among: 6 })).toBeCloseTo(shareWithin(ranks, top), 12);
    }
    expect(expectedShareWithin(ranks, 1, { of: 6, among: 1 })).toBeCloseTo(1, 12);
  });

  test("is 1 − k/(N − 1) beside one other caption, of which k stand before", () => {
    expect(expectedShareWithin([3], 1, { of: 11, among: 2 })).toBeCloseTo(1 - 2 / 10, 12);
  });

  test("is what drawing the others again and again gives", () => {
    const [of, among, top, rank, draws] = [30, 10, 3, 9, 20_000];
    const random = seeded(0);
    let within = 0;
    for (let draw = 0; draw < draws; draw++) {
      // Of the 29 others, those numbered below 8 stand before the right caption.
      const before = random.permutation(of - 1).subarray(0, among - 1);
      if (before.filter((other) => other < rank - 1).length < top) within++;
    }
    const deviation = 0.5 / Math.sqrt(draws);
    expect(Math.abs(within / draws - expectedShareWithin([rank], top, { of, among }))).toBeLessThan(4 * deviation);
  });

  test("cannot be among more captions than there are", () => {
    expect(() => expectedShareWithin([1], 1, { of: 50, among: 100 })).toThrow(/1 to 50 are accepted/);
  });
});

describe("a judgement of alignment", () => {
  const places: Record<string, readonly number[]> = { right: [1, 0], up: [0, 1], left: [-1, 0] };
  /** Sees a picture of one pixel as the direction of its red and green. */
  const model = {
    see: async ({ shape, data }: { readonly shape: readonly number[]; readonly data: Float32Array }) => {
      const embeddings = Array.from({ length: shape[0]! }, (_, i) => [data[3 * i]!, data[3 * i + 1]!]).flat();
      return { embeddings: float32([shape[0]!, 2], embeddings), features: float32([shape[0]!, 1], [5, 6]) };
    },
    read: async (texts: readonly string[]) =>
      float32(
        [texts.length, 2],
        texts.flatMap((text) => places[text]!),
      ),
  };
  const pictures = float32([2, 3, 1, 1], [1, 0.5, 0, 0.2, 1, 0]);

  test("says how many pictures have their caption among the most similar", async () => {
    const judged = await judgeAlignment(model, pictures, { captions: ["right", "up", "left"], asked: [0, 2] });
    expect(judged).toMatchObject({ count: 2, among: 3, top1: 0.5, top5: 1, top10: 1 });
    expect([...judged.ranks]).toEqual([1, 3]);
    expect([...judged.features.data]).toEqual([5, 6]);
  });

  test("is refused where a caption stands twice", async () => {
    const twice = { captions: ["right", "up", "right"], asked: [0, 1] };
    await expect(judgeAlignment(model, pictures, twice)).rejects.toThrow(/"right" was given twice/);
  });
});
