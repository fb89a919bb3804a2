import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeAtomically, writeFileAtomically } from "./atomic-file.ts";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "allegory-atomic-"));
});
afterAll(() => rm(root, { recursive: true, force: true }));

describe("writing a file atomically", () => {
  it("makes folders, replaces what was there and leaves nothing else", async () => {
    const path = join(root, "a", "b", "c.txt");
    await writeFileAtomically(path, "one");
    await writeAtomically(path, async (append) => {
      await append(new TextEncoder().encode("two "));
      expect(await readFile(path, "utf8")).toBe("one");
      await append(new TextEncoder().encode("parts"));
    });
    expect(await readFile(path, "utf8")).toBe("two parts");
    expect(await readdir(join(root, "a", "b"))).toEqual(["c.txt"]);
  });

  it("ends with one whole content when several write at once", async () => {
    const path = join(root, "race.txt");
    const contents = Array.from({ length: 8 }, (_, i) => String(i).repeat(50_000));
    await Promise.all(contents.map((content) => writeFileAtomically(path, content)));
    expect(contents).toContain(await readFile(path, "utf8"));
  });

  it("keeps the old file when the process is killed halfway, and clears up the next time", async () => {
    const folder = join(root, "killed");
    const path = join(folder, "state.bin");
    await writeFileAtomically(path, "old");
    const script = join(root, "writer.mjs");
    const source = pathToFileURL(join(import.meta.dirname, "atomic-file.ts")).href;
    await writeFile(
      script,
      `import { writeAtomically } from ${JSON.stringify(source)};
       await writeAtomically(process.argv[2], async (append) => {
         await append(new TextEncoder().encode("half"));
         console.log("half");
         await new Promise((resolve) => setTimeout(resolve, 60_000));
       });`,
    );
    const child = spawn(process.execPath, ["--import", "tsx", script, path], { stdio: ["ignore", "pipe", "inherit"] });
    await once(child.stdout, "data");
    child.kill("SIGKILL");
    await once(child, "exit");
    expect(await readFile(path, "utf8")).toBe("old");
    expect((await readdir(folder)).length).toBe(2);
    await writeFileAtomically(path, "new");
    expect(await readdir(folder)).toEqual(["state.bin"]);
    expect(await readFile(path, "utf8")).toBe("new");
  });
});
