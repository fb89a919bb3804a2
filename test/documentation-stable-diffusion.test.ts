import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import * as allegory from "../src/index.ts";
import { hostImage, saveImage } from "../src/io/index.ts";
import { printed, readPage } from "./page-code.ts";
import { tinySd3, tinyXl, writeTiny } from "./tiny-models.ts";

let folder: string;
const at = (name: string) => join(folder, name);
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-pages-"));
  await saveImage(at("harbour.jpg"), hostImage(60, 44, 3, new Uint8Array(60 * 44 * 3).fill(120)));
  const mask = Uint8Array.from({ length: 60 * 44 }, (_, i) =>
    i % 60 > 30 && i % 60 < 40 && i > 600 && i < 1200 ? 255 : 0,
  );
  await saveImage(at("mask.png"), hostImage(60, 44, 1, mask));
  await writeTiny(at("base"), tinyXl("base"));
  await writeTiny(at("refiner"), tinyXl("refiner"));
  await writeTiny(at("sd3"), tinySd3());
});
afterAll(() => rm(folder, { recursive: true }));

const files = () => ({
  "stable-diffusion-v1-5/": fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url)),
  ...{ "sdxl-base/": at("base"), "sdxl-refiner/": at("refiner"), "stable-diffusion-3.5-medium/": at("sd3") },
  ...{ "harbour.jpg": at("harbour.jpg"), "mask.png": at("mask.png") },
});

test("the code of docs/stable-diffusion.md draws with tiny models", async () => {
  const [first, attention, refined] = await printed("stable-diffusion.md", files());
  expect(first).toEqual([
    ["step 1 of 2", 12],
    ["step 2 of 2", 12],
    [24, [3, 24, 24], 7],
  ]);
  expect(attention!.at(-1)).toEqual([expect.any(Number), [12, 12]]);
  const [tokens] = attention![0] as [string[]];
  expect(tokens.join("")).toBe("acatonaredsofa");
  expect(refined).toEqual([[16, 7], [7]]);
});

test("the code of docs/inpainting.md draws with the tiny model", async () => {
  // The whole at the size of the image, the part at that of the model; the picture stays as large as it is.
  expect(await printed("inpainting.md", files())).toEqual([Array(2).fill([60, 44])]);
});

test("the code of docs/pixart-sd3-flux.md draws with a tiny model", async () => {
  expect(await printed("pixart-sd3-flux.md", files())).toEqual([
    [[16, 16, "a lighthouse, seen from a boat at dawn"], [7]],
  ]);
});

test.each([
  ["stable-diffusion.md", /^\| .*`--/, 3, 15],
  ["inpainting.md", /^\| .*`--/, 3, 4],
  ["pixart-sd3-flux.md", /^\| `/, 1, 5],
] as const)("docs/%s names fields and options that there are", async (name, line, column, least) => {
  const table = (await readPage(name)).split("## Coming from")[0]!;
  const rows = table.split("\n").filter((row) => line.test(row));
  const fields = Object.keys(allegory.textToImageRequest.shape);
  const named = rows.flatMap((row) => [...row.split("|")[column]!.matchAll(/`(\w+)/g)].map((match) => match[1]!));
  const options = ["controlNet", "embeddings", "lowMemory", "refiner", "vae"];
  expect(named.length).toBeGreaterThan(least);
  expect(named.filter((field) => !fields.includes(field) && !options.includes(field))).toEqual([]);
});
