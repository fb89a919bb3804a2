import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import * as allegory from "../src/index.ts";
import { codeOf, printedBy } from "./page-code.ts";
import { tinySd3, writeTiny } from "./tiny-transformers.ts";

const page = readFile(fileURLToPath(new URL("../docs/pixart-sd3-flux.md", import.meta.url)), "utf8");

test("the code of docs/pixart-sd3-flux.md draws with a tiny model", async () => {
  const folder = await mkdtemp(join(tmpdir(), "allegory-page-"));
  await writeTiny(folder, tinySd3());
  const [code] = codeOf(await page);
  const body = code!.replace('"stable-diffusion-3.5-medium/"', JSON.stringify(folder)).replaceAll("!,", ",");
  const lines = await printedBy(body);
  await rm(folder, { recursive: true });
  expect(lines).toEqual([[16, 16, "a lighthouse, seen from a boat at dawn"], [7]]);
});

test("docs/pixart-sd3-flux.md names fields that there are", async () => {
  const fields = Object.keys(allegory.textToImageRequest.shape);
  const table = (await page).split("## Coming from")[0]!;
  const named = [...table.matchAll(/^\| `(\w+)`/gm)].map((match) => match[1]!);
  expect(named.length).toBeGreaterThan(5);
  expect(named.filter((name) => !fields.includes(name))).toEqual([]);
});
