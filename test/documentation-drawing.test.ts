import { readdir } from "node:fs/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as allegory from "../src/index.ts";
import { decodeImage } from "../src/io/index.ts";
import { piecesOf, printed, readPage, typeErrors } from "./page-code.ts";
import { type PageFiles, pageFiles } from "./page-models.ts";

const OUTPUTS = ["lighthouse.png", "four.png", "cats.png"];
let here: PageFiles;
beforeAll(async () => {
  here = await pageFiles(OUTPUTS);
});
afterAll(() => here.remove());

/** What the code of each page prints, piece by piece, with the tiny models in the place of those it names. */
const PRINTED: Readonly<Record<string, readonly unknown[][]>> = {
  "text-to-image.md": [
    [[24, 24, 7, [3, 24, 24]]],
    [["1 of 50", 12], ["2 of 50", 12], ["seen enough"]],
    [[true, true]],
    [["3.9 GiB"]],
  ],
  "image-to-image.md": [
    [
      [0.2, 2, 60, 44],
      [0.5, 5, 60, 44],
      [0.9, 9, 60, 44],
      [32, 24],
    ],
  ],
  // The whole at the size of the image, the part at that of the model; the picture stays as large as it is.
  "inpainting.md": [Array(2).fill([60, 44])],
  "controlnet.md": [[[32, 24], [7]]],
  "lora-and-words.md": [
    [
      [0, false],
      [0.5, true],
      [1, true],
    ],
    [[2], ["a photo of my-cat on a sofa"]],
  ],
  // Four steps at the size of training, two at twice that.
  "large-pictures.md": [[[48, 48], [[...Array(4).fill("12×12"), ...Array(2).fill("24×24")]]], [[48, 48]]],
  "few-steps.md": [
    [
      [1, 1, 7],
      [4, 8.5, 7],
    ],
  ],
  "sdxl.md": [[[16, 7], [7]]],
  "prompts.md": [
    [
      [
        "text_encoder",
        75,
        "",
        expect.arrayContaining([
          ["a", 1],
          [expect.any(String), 1.3],
        ]),
      ],
    ],
    Array(1).fill([expect.any(Number), [12, 12]]),
  ],
  "reproduce-a-picture.md": [[[true, 7]]],
  "unconditional-generation.md": [
    [[[7, 8, 9, 10]], ["1 of 2", 1], ["2 of 2", 1]],
    [[[0, 0.25, 0.5, 0.75, 1]], [16]],
  ],
  "class-to-image.md": [
    [
      ["golden retriever", 16, 16],
      [["golden retriever", "cock", "golden retriever"]],
      [["cat", "dog", "horse"]],
      [["cat", "dog", "horse"]],
    ],
  ],
  "pixart-sd3-flux.md": [[[16, 16, "a lighthouse, seen from a boat at dawn"], [7]]],
};

/** Pages whose code runs in tests of their own: it needs a hub, or writes whole models. */
const ELSEWHERE = ["convert-models.md", "hub.md"];

test.each(Object.entries(PRINTED))("the code of docs/%s draws with tiny models", async (page, expected) => {
  const all = await printed(page, here.files);
  if (page !== "prompts.md") return expect(all).toEqual(expected);
  // The word may be of several tokens: each has its map.
  expect(all).toHaveLength(2);
  expect(all[0]).toEqual(expected[0]);
  expect(all[1]!.length).toBeGreaterThan(0);
  for (const line of all[1]!) expect(line).toEqual(expected[1]![0]);
});

test("pictures that the pages' code writes are those it drew", async () => {
  const written = (await readdir(here.folder)).filter((name) => OUTPUTS.includes(name));
  expect(written.sort()).toEqual([...OUTPUTS].sort());
  expect((await decodeImage(here.files["four.png"]!)).width).toBe(48);
});

test("the pages' code is right TypeScript", async () => {
  expect(await typeErrors([...Object.keys(PRINTED), ...ELSEWHERE])).toBe("");
});

describe("a table that names fields and options", () => {
  const requests = Object.keys(allegory.textToImageRequest.shape);
  const OPTIONS = ["controlNet", "embeddings", "lowMemory", "quantize", "refiner", "vae"];
  test.each([
    ["stable-diffusion.md", /^\| .*`--/, 3, 15, requests],
    ["text-to-image.md", /^\| .*`--/, 3, 7, requests],
    ["inpainting.md", /^\| .*`--/, 3, 4, requests],
    ["controlnet.md", /^\| .*`--/, 3, 3, requests],
    ["large-pictures.md", /^\| .*`--/, 3, 3, requests],
    ["sdxl.md", /^\| .*`--/, 3, 7, requests],
    ["pixart-sd3-flux.md", /^\| `/, 1, 5, requests],
    ["unconditional-generation.md", /^\| .*`--/, 3, 10, Object.keys(allegory.unconditionalRequest.shape)],
    ["class-to-image.md", /^\| .*`--/, 3, 2, Object.keys(allegory.unconditionalRequest.shape)],
  ] as const)("in docs/%s names those that there are", async (name, line, column, least, fields) => {
    const rows = (await readPage(name)).split("\n").filter((row) => line.test(row));
    const named = rows.flatMap((row) =>
      [...row.split(/(?<!\\)\|/)[column]!.matchAll(/`(\w+)/g)].map((match) => match[1]!),
    );
    expect(named.length).toBeGreaterThan(least);
    expect(named.filter((field) => !fields.includes(field) && !OPTIONS.includes(field))).toEqual([]);
  });
});

test("no piece of code is without a test", async () => {
  const pages = (await readPage("stable-diffusion.md")).matchAll(/\]\(([\w-]+\.md)/g);
  for (const [, page] of pages) {
    if ((await piecesOf(page!, "ts")).length > 0) expect([...Object.keys(PRINTED), ...ELSEWHERE]).toContain(page);
  }
});
