import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const blocks = async (kind: string) => {
  const page = await readFile(`${root}docs/graph-and-gradients.md`, "utf8");
  return [...page.matchAll(new RegExp(`^\`\`\`${kind}\\n([\\s\\S]*?)^\`\`\``, "gm"))].map((match) => match[1]!);
};

test("the example of docs/graph-and-gradients.md is examples/learn-xor.ts and prints what the page says", async () => {
  const [example] = await blocks("ts");
  expect(example).toBe(await readFile(`${root}examples/learn-xor.ts`, "utf8"));
  const { stdout } = await promisify(execFile)(process.execPath, ["--import", "tsx", "examples/learn-xor.ts"], {
    cwd: root,
  });
  const [printed] = await blocks("text");
  // The last digits of a loss depend on the machine.
  const roughly = (text: string) => text.replace(/(\d\.\d\d)\d\d/g, "$1");
  expect(roughly(stdout)).toBe(roughly(printed!));
  expect(stdout).toContain("predicted 0.0 1.0 1.0 0.0");
});

test("the operator that docs/graph-and-gradients.md shows is the one in the code", async () => {
  const [, operator] = await blocks("ts");
  expect(await readFile(`${root}src/graph/ops/activation.ts`, "utf8")).toContain(operator!.trim());
});
