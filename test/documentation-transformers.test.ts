import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test, vi } from "vitest";
import * as allegory from "../src/index.ts";
import { tinySd3, writeTiny } from "./tiny-transformers.ts";

const page = readFile(fileURLToPath(new URL("../docs/pixart-sd3-flux.md", import.meta.url)), "utf8");

test("the code of docs/pixart-sd3-flux.md draws with a tiny model", async () => {
  const folder = await mkdtemp(join(tmpdir(), "allegory-page-"));
  await writeTiny(folder, tinySd3());
  const [, code] = /^```ts\n([\s\S]*?)^```/m.exec(await page)!;
  const body = code!
    .replace('import { pipeline } from "allegory";', "")
    .replace('"stable-diffusion-3.5-medium/"', JSON.stringify(folder))
    .replaceAll("!,", ",");
  const lines: unknown[][] = [];
  const log = vi.spyOn(console, "log").mockImplementation((...words) => void lines.push(words));
  try {
    const AsyncFunction = (async () => {}).constructor as new (...words: string[]) => (p: unknown) => Promise<void>;
    await new AsyncFunction("pipeline", body)(allegory.pipeline);
  } finally {
    log.mockRestore();
    await rm(folder, { recursive: true });
  }
  expect(lines).toEqual([[16, 16, "a lighthouse, seen from a boat at dawn"], [7]]);
});

test("docs/pixart-sd3-flux.md names fields that there are", async () => {
  const fields = Object.keys(allegory.textToImageRequest.shape);
  const table = (await page).split("## Coming from")[0]!;
  const named = [...table.matchAll(/^\| `(\w+)`/gm)].map((match) => match[1]!);
  expect(named.length).toBeGreaterThan(5);
  expect(named.filter((name) => !fields.includes(name))).toEqual([]);
});
