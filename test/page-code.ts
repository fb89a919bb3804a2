import { vi } from "vitest";
import * as allegory from "../src/index.ts";

/** The pieces of TypeScript of a page, in their order. */
export function codeOf(page: string): string[] {
  return [...page.matchAll(/^```ts\n([\s\S]*?)^```/gm)].map((match) => match[1]!);
}

/** What a piece of code that imports `pipeline` alone prints, each line as it was given to `console.log`. */
export async function printedBy(code: string): Promise<unknown[][]> {
  const lines: unknown[][] = [];
  const log = vi.spyOn(console, "log").mockImplementation((...words) => void lines.push(words));
  try {
    const AsyncFunction = (async () => {}).constructor as new (...words: string[]) => (p: unknown) => Promise<void>;
    const body = code.replace('import { pipeline } from "allegory";', "");
    await new AsyncFunction("pipeline", body)(allegory.pipeline);
  } finally {
    log.mockRestore();
  }
  return lines;
}
