import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { modules, output, pack, root, typeErrors, writeConsumer } from "./packed.ts";

// The packed files in a project whose node_modules hold them and links to the dependencies; `package.slow.test.ts`
// lets npm install them.

let folder: string;
let project: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-package-"));
  const archive = await pack(folder);
  project = join(folder, "project");
  await writeConsumer(project);
  const installed = join(project, "node_modules", "allegory");
  await mkdir(installed, { recursive: true });
  await promisify(execFile)("tar", ["-xzf", archive, "-C", installed, "--strip-components=1"]);
  const { dependencies } = JSON.parse(await readFile(join(installed, "package.json"), "utf8"));
  for (const name of Object.keys(dependencies)) {
    const link = join(project, "node_modules", name);
    await mkdir(dirname(link), { recursive: true });
    await symlink(join(root, "node_modules", name), link, "dir");
  }
}, 120_000);

afterAll(() => rm(folder, { recursive: true, force: true }));

test("the packed package type-checks in an empty project, declarations included", async () => {
  expect(await typeErrors(project)).toBe("");
});

test("every sub-path of the packed package loads", async () => {
  const names = await modules();
  expect(names.length).toBeGreaterThan(10);
  const program = `for (const name of ${JSON.stringify(names)}) {
    if (Object.keys(await import(name)).length === 0) throw new Error(name + " exports nothing");
  }
  console.log("loaded");`;
  expect(await output(process.execPath, ["--input-type=module", "--eval", program], project)).toBe("loaded");
});

test("the packed command runs and knows its version, and packs no tests and no source maps", async () => {
  const installed = join(project, "node_modules", "allegory");
  const { version, bin } = JSON.parse(await readFile(join(installed, "package.json"), "utf8"));
  expect(await output(process.execPath, [join(installed, bin.allegory), "--version"], project)).toBe(version);
  const files = await output("find", [installed, "-type", "f"], project);
  expect(files.split("\n").filter((name) => /\.test\.|\.map$|\.tsbuildinfo$/.test(name))).toEqual([]);
  expect(files).toContain("recipe.schema.json");
});
