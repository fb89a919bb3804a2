import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Dataset, fingerprint, imagesAt, sliceOf } from "./dataset.ts";
import { emoji } from "./emoji.ts";
import { emojiCaptions } from "./emoji-captions.ts";

let cache: string;
let all: Dataset;
const labelsOf = (dataset: Dataset) => dataset.captions!.map(([label]) => label!);
beforeAll(async () => {
  cache = await mkdtemp(join(tmpdir(), "allegory-emoji-"));
  all = await emoji({ size: 16, split: "all", cache });
}, 60_000);
afterAll(() => rm(cache, { recursive: true, force: true }));

describe("the emoji", () => {
  it("are 1,599 pictures without flags, each with its captions and its group as class", () => {
    expect(all).toMatchObject({ count: 1599, channels: 3, height: 16, width: 16, flip: false, warnings: [] });
    expect(all.images.length).toBe(1599 * 3 * 16 * 16);
    expect(all.captions).toHaveLength(1599);
    expect(all.captions!.every((captions) => captions.length > 0 && captions.every((text) => text.trim()))).toBe(true);
    const labels = labelsOf(all);
    expect(new Set(labels).size).toBe(1599);
    expect(labels.filter((label) => /flag: /.test(label))).toEqual([]);
    const classOf = (label: string) => all.classNames![all.labels![labels.indexOf(label)]!];
    expect(classOf("grinning cat")).toBe("smileys and emotion");
    expect(classOf("cat")).toBe("animals and nature");
    // Both packages write the code points of ©, 0xA9, differently.
    expect(classOf("copyright")).toBe("symbols");
  });

  it("look like what their captions say, on white", () => {
    const labels = labelsOf(all);
    const pixel = (label: string, x: number, y: number) => {
      const { data } = imagesAt(all, [labels.indexOf(label)]);
      return [0, 1, 2].map((channel) => data[channel * 256 + y * 16 + x]!);
    };
    expect(pixel("red heart", 0, 15)).toEqual([255, 255, 255]);
    const [red, green, blue] = pixel("red heart", 8, 8) as [number, number, number];
    expect(red).toBeGreaterThan(2 * Math.max(green, blue));
    const [r, g, b] = pixel("green heart", 8, 8) as [number, number, number];
    expect(g).toBeGreaterThan(Math.max(r, b));
  });

  it("are split by emoji, the same for every size, so that no skin tone of one held out is trained on", async () => {
    // Nothing is decoded twice: each split has a cache file, the second reading takes it.
    const train = await emoji({ size: 16, cache });
    const heldOut = await emoji({ size: 16, split: "held-out", cache });
    expect([train.count, heldOut.count]).toEqual([1440, 159]);
    expect([...labelsOf(train), ...labelsOf(heldOut)].sort()).toEqual(labelsOf(all).sort());
    expect(labelsOf(await emoji({ size: 8, split: "held-out", cache }))).toEqual(labelsOf(heldOut));

    const tones = await emoji({ size: 8, split: "held-out", skins: true, cache });
    expect(tones.count).toBeGreaterThan(heldOut.count);
    const bases = new Set(labelsOf(heldOut));
    const strays = labelsOf(tones).filter((label) => !bases.has(label) && !/skin tone/.test(label));
    expect(strays).toEqual([]);
    // "man: dark skin tone, curly hair" varies "man: curly hair".
    const stem = (label: string) => label.replace(/[a-z-]+( [a-z-]+)? skin tone(, )?/g, "").replace(/[:, ]+$/, "");
    const without = labelsOf(tones).filter((label) => /skin tone/.test(label) && !bases.has(stem(label)));
    // Couples' variants are named by both: "kiss: person, person, light skin tone, dark skin tone".
    expect(without.filter((label) => !/person, person/.test(label))).toEqual([]);
  }, 60_000);

  it("of an unknown split are refused", async () => {
    await expect(emoji({ size: 8, split: "test" as never })).rejects.toThrow(/accepted are train, held-out and all/);
  });
});

describe("the captions of an emoji", () => {
  it("are its label, with an article, with what its tags add, and its tags", () => {
    expect(emojiCaptions({ label: "red heart", tags: ["emotion", "heart", "love", "red"] })).toEqual([
      "red heart",
      "a red heart",
      "red heart, emotion, love",
      "emotion, heart, love, red",
    ]);
  });

  it("have no article before names, plurals and signs, and keep what is the same once", () => {
    const articles = (label: string) => emojiCaptions({ label, tags: [] }).filter((text) => /^an? /.test(text));
    for (const label of ["Libra", "two hearts", "no smoking", "men wrestling", "pancakes", "eyes"]) {
      expect(articles(label), label).toEqual([]);
    }
    expect(articles("octopus")).toEqual(["an octopus"]);
    expect(articles("unicorn")).toEqual(["a unicorn"]);
    expect(articles("hourglass done")).toEqual(["an hourglass done"]);
    expect(articles("smiling cat with heart-eyes")).toEqual(["a smiling cat with heart-eyes"]);
    expect(emojiCaptions({ label: "Leo", tags: [] })).toEqual(["Leo"]);
  });

  it("name the skin tone, which the tags do not, and no man where a woman is", () => {
    expect(emojiCaptions({ label: "woman walking: dark skin tone", tags: ["hike", "man", "woman"] })).toEqual([
      "woman walking: dark skin tone",
      "a woman walking, dark skin tone",
      "woman walking, dark skin tone, hike",
      "hike, woman, dark skin tone",
    ]);
    expect(emojiCaptions({ label: "man’s shoe", tags: ["man"] })[0]).toBe("man's shoe");
  });
});

describe("captions of a data set", () => {
  it("go with their images into a slice and into the fingerprint", () => {
    const slice = sliceOf(all, 10, 12);
    expect(slice.captions).toEqual(all.captions!.slice(10, 12));
    const other = { ...slice, captions: [["something else"], slice.captions![1]!] };
    expect(fingerprint(other)).not.toBe(fingerprint(slice));
    const { captions: _, ...none } = slice;
    expect(fingerprint(none)).not.toBe(fingerprint(slice));
  });
});
