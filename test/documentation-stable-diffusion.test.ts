import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { expect, test, vi } from "vitest";
import * as allegory from "../src/index.ts";

const at = (path: string) => fileURLToPath(new URL(path, import.meta.url));

test("the code of docs/stable-diffusion.md draws with the tiny model", async () => {
  const page = await readFile(at("../docs/stable-diffusion.md"), "utf8");
  const [, code] = /^```ts\n([\s\S]*?)^```/m.exec(page)!;
  const body = code!
    .replace('import { pipeline } from "allegory";', "")
    .replace('"stable-diffusion-v1-5/"', JSON.stringify(at("fixtures/reference/pipelines/sd15")))
    .replace(" as const", "");
  const lines: unknown[][] = [];
  const log = vi.spyOn(console, "log").mockImplementation((...words) => void lines.push(words));
  try {
    const AsyncFunction = (async () => {}).constructor as new (...words: string[]) => (p: unknown) => Promise<void>;
    await new AsyncFunction("pipeline", body)(allegory.pipeline);
  } finally {
    log.mockRestore();
  }
  expect(lines).toEqual([
    ["step 1 of 2", 12],
    ["step 2 of 2", 12],
    [24, [3, 24, 24], 7],
  ]);
});

test("docs/stable-diffusion.md names fields and options that there are", async () => {
  const page = await readFile(at("../docs/stable-diffusion.md"), "utf8");
  const rows = page.split("\n").filter((line) => line.startsWith("| ") && line.includes("`--"));
  const fields = Object.keys(allegory.textToImageRequest.shape);
  const named = rows.flatMap((row) => [...row.split("|")[3]!.matchAll(/`(\w+)/g)].map((match) => match[1]!));
  const options = ["controlNet", "lowMemory"];
  expect(named.length).toBeGreaterThan(15);
  expect(named.filter((name) => !fields.includes(name) && !options.includes(name))).toEqual([]);
});
