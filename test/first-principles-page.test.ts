import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));
const page = await readFile(`${root}docs/diffusion-from-first-principles.md`, "utf8");
const blocks = (kind: string) =>
  [...page.matchAll(new RegExp(`^\`\`\`${kind}\\n([\\s\\S]*?)^\`\`\``, "gm"))].map((match) => match[1]!);

test("the chapter's code is the example from top to bottom", async () => {
  const example = await readFile(`${root}examples/diffusion-from-first-principles.ts`, "utf8");
  expect(blocks("ts").join("\n")).toBe(example);
});

test("the example prints what the chapter says, and what was learned draws the data", async () => {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ["--import", "tsx", "examples/diffusion-from-first-principles.ts"],
    { cwd: root },
  );
  const [known, drawn] = stdout.split("learned, and sampled from:\n") as [string, string];
  const [saidKnown, saidDrawn] = blocks("text").join("").split("learned, and sampled from:\n") as [string, string];
  // Training's last digits depend on the machine, and so does all that is drawn with it.
  const losses = /(learned: .*: )(\d\.\d+)/g;
  expect(known.replace(losses, "$1")).toBe(saidKnown.replace(losses, "$1"));
  const values = (text: string) => [...text.matchAll(losses)].map((match) => Number(match[2]));
  values(known).forEach((loss, i) => {
    expect(Math.abs(loss - values(saidKnown)[i]!)).toBeLessThan(0.02);
  });
  const bars = (text: string) =>
    [...text.matchAll(/^(.*)\|(.{50})\| (\d+) % below 0$/gm)].map(([, name, bins, below]) => {
      const heights = [...bins!].map((bar) => " ▁▂▃▄▅▆▇█".indexOf(bar));
      return { name, heights, below: Number(below) };
    });
  const data = bars(known)[0]!;
  expect(bars(drawn).map(({ name }) => name)).toEqual(bars(saidDrawn).map(({ name }) => name));
  for (const { heights, below } of bars(drawn)) {
    expect(Math.abs(below - data.below)).toBeLessThan(5);
    const between = heights.reduce((sum, height, i) => sum + Math.abs(height - data.heights[i]!), 0);
    expect(between).toBeLessThan(40); // of 8 × 50
  }
});
