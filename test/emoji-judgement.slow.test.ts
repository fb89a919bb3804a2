import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { decodeImage } from "../src/io/index.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "emoji-judgement-"));
});
afterAll(() => rm(folder, { recursive: true }));

test("a model with random weights is judged by chance, and what is measured is not drawn again", async () => {
  const [out, table, sheet] = ["rows.jsonl", "page.md", "sheet.png"].map((name) => join(folder, name));
  const page = await readFile(join(root, "docs/text-alignment.md"), "utf8");
  await writeFile(table!, page);
  const judge = async (guidance: string) => {
    const model = "test/fixtures/reference/pipelines/sd15";
    const few = ["--captions", "20", "--pictures", "40", "--steps", "2", "--threads", "1"];
    const files = ["--out", out!, "--table", table!, "--sheet", sheet!];
    const script = ["--import", "tsx", "bench/emoji-judgement.ts", model, "--guidance", guidance, ...few, ...files];
    return promisify(execFile)(process.execPath, script, { cwd: root });
  };
  const rowsOf = (text: string) => text.split("\n").filter((line) => line !== "");

  const first = await judge("3");
  const [row] = rowsOf(first.stdout).map((line) => JSON.parse(line));
  expect(first.stderr).toContain("pictures of 24×24 are judged at 64×64");
  // Noise looks the same for every prompt, so 10 of 20 captions hold half of the pictures.
  expect(Math.abs(row.alignment.top10 - 0.5)).toBeLessThan(0.3);
  expect(row.nearness.features.copies).toBe(0);
  const { width, height } = await decodeImage(sheet!);
  expect([width > 7 * 64, height > 20 * 64]).toEqual([true, true]);

  const second = await judge("1,3");
  expect(second.stderr).toContain("1 weights are measured, 1 to draw");
  expect(rowsOf(second.stdout)).toHaveLength(1);
  expect(rowsOf(await readFile(out!, "utf8"))).toHaveLength(2);
  const written = await readFile(table!, "utf8");
  for (const line of ["| guidance 1 |", "| guidance 3 |", "| *real, held out* |"]) expect(written).toContain(line);
});
