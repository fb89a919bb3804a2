import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { output, pack, root, typeErrors, writeConsumer } from "./packed.ts";
import { writeTinyPipeline } from "./tiny-pipeline.ts";

let folder: string;
let project: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-install-"));
  const archive = await pack(folder);
  project = join(folder, "project");
  await writeConsumer(project);
  await output("npm", ["install", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund", archive], project);
}, 300_000);

afterAll(() => rm(folder, { recursive: true, force: true }));

test("npm installs the packed package, which type-checks and whose command knows its version", async () => {
  expect(await typeErrors(project)).toBe("");
  const { version } = JSON.parse(await readFile(join(root, "package.json"), "utf8"));
  expect(await output("npx", ["--no-install", "allegory", "--version"], project)).toBe(version);
});

test("the installed command draws a picture", async () => {
  await writeTinyPipeline(join(project, "model"));
  const words = ["--no-install", "allegory", "sample", "model", "--count", "2", "--steps", "3", "--json"];
  const { files } = JSON.parse(await output("npx", words, project));
  expect(files).toEqual(["model-seed0.png"]);
  expect((await readFile(join(project, files[0]))).subarray(1, 4).toString()).toBe("PNG");
});
