import { createHash } from "node:crypto";
import { appendFile, mkdir, readFile } from "node:fs/promises";
import { dirname } from "node:path";

/** Measurements of a file with a JSON object a line; none where there is no file. */
export async function readLines<Line>(path: string): Promise<Line[]> {
  const text = await readFile(path, "utf8").catch(() => "");
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Line);
}

/** Prints a measurement and appends it to a file, so that it is not lost when the next one is stopped. */
export async function writeLine(path: string, line: object): Promise<void> {
  const text = `${JSON.stringify(line)}\n`;
  process.stdout.write(text);
  await mkdir(dirname(path), { recursive: true });
  await appendFile(path, text);
}

/** Twelve letters that stand for the contents of files: those of another training are others. */
export async function digestOf(files: readonly string[]): Promise<string> {
  const hash = createHash("sha256");
  for (const file of files) hash.update(await readFile(file));
  return hash.digest("hex").slice(0, 12);
}
