import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { vi } from "vitest";
import { pipeline } from "../src/index.ts";

/** The text of a page of docs/. */
export function readPage(name: string): Promise<string> {
  return readFile(fileURLToPath(new URL(`../docs/${name}`, import.meta.url)), "utf8");
}

/**
 * What each of a page's pieces of code prints; they import `pipeline`.
 *
 * @param files a path for each model and picture that the page names
 */
export async function printed(page: string, files: Readonly<Record<string, string>>): Promise<unknown[][][]> {
  const pieces = [...(await readPage(page)).matchAll(/^```ts\n([\s\S]*?)^```/gm)].map((match) => match[1]!);
  const all: unknown[][][] = [];
  for (const code of pieces) {
    const here = Object.entries(files).reduce(
      (text, [name, path]) => text.replaceAll(JSON.stringify(name), JSON.stringify(path)),
      code,
    );
    // What TypeScript has there beyond JavaScript.
    const body = here
      .replace('import { pipeline } from "allegory";', "")
      .replaceAll(" as const", "")
      .replaceAll("!,", ",");
    const lines: unknown[][] = [];
    const log = vi.spyOn(console, "log").mockImplementation((...words) => void lines.push(words));
    try {
      const AsyncFunction = (async () => {}).constructor as new (...words: string[]) => (p: unknown) => Promise<void>;
      await new AsyncFunction("pipeline", body)(pipeline);
    } finally {
      log.mockRestore();
    }
    all.push(lines);
  }
  return all;
}
