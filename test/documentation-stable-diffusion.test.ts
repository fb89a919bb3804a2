import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import * as allegory from "../src/index.ts";
import { hostImage, saveImage } from "../src/io/index.ts";
import { codeOf, printedBy } from "./page-code.ts";

const at = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const readPage = (name: string) => readFile(at(`../docs/${name}`), "utf8");

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-pages-"));
  await saveImage(join(folder, "harbour.jpg"), hostImage(60, 44, 3, new Uint8Array(60 * 44 * 3).fill(120)));
  const mask = Uint8Array.from({ length: 60 * 44 }, (_, i) =>
    i % 60 > 30 && i % 60 < 40 && i > 600 && i < 1200 ? 255 : 0,
  );
  await saveImage(join(folder, "mask.png"), hostImage(60, 44, 1, mask));
});
afterAll(() => rm(folder, { recursive: true }));

/** What each of a page's pieces of code prints, run with the tiny model. */
async function printed(page: string): Promise<unknown[][][]> {
  const all: unknown[][][] = [];
  for (const code of codeOf(await readPage(page))) {
    const body = code
      .replace('"stable-diffusion-v1-5/"', JSON.stringify(at("fixtures/reference/pipelines/sd15")))
      .replaceAll(/"(harbour\.jpg|mask\.png)"/g, (_, name) => JSON.stringify(join(folder, name)))
      .replace(" as const", "");
    all.push(await printedBy(body));
  }
  return all;
}

test("the code of docs/stable-diffusion.md draws with the tiny model", async () => {
  const [first, attention] = await printed("stable-diffusion.md");
  expect(first).toEqual([
    ["step 1 of 2", 12],
    ["step 2 of 2", 12],
    [24, [3, 24, 24], 7],
  ]);
  expect(attention!.at(-1)).toEqual([expect.any(Number), [12, 12]]);
  const [tokens] = attention![0] as [string[]];
  expect(tokens.join("")).toBe("acatonaredsofa");
});

test("the code of docs/inpainting.md draws with the tiny model", async () => {
  // The whole at the size of the image, the part at that of the model; the picture stays as large as it is.
  expect(await printed("inpainting.md")).toEqual([Array(2).fill([60, 44])]);
});

test.each(["stable-diffusion.md", "inpainting.md"])("docs/%s names fields and options that there are", async (name) => {
  const page = await readPage(name);
  const rows = page.split("\n").filter((line) => line.startsWith("| ") && line.includes("`--"));
  const fields = Object.keys(allegory.textToImageRequest.shape);
  const named = rows.flatMap((row) => [...row.split("|")[3]!.matchAll(/`(\w+)/g)].map((match) => match[1]!));
  const options = ["controlNet", "lowMemory", "vae"];
  expect(named.length).toBeGreaterThan(name === "inpainting.md" ? 4 : 15);
  expect(named.filter((field) => !fields.includes(field) && !options.includes(field))).toEqual([]);
});
