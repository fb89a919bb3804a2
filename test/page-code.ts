import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { vi } from "vitest";
import * as graph from "../src/graph/index.ts";
import * as allegory from "../src/index.ts";
import * as io from "../src/io/index.ts";
import * as models from "../src/models/index.ts";
import * as nn from "../src/nn/index.ts";
import * as pipelines from "../src/pipelines/index.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

/** What the code of pages imports from. */
const MODULES: Readonly<Record<string, object>> = {
  allegory,
  "allegory/graph": graph,
  "allegory/io": io,
  "allegory/models": models,
  "allegory/nn": nn,
  "allegory/pipelines": pipelines,
};

/** The text of a page of docs/. */
export function readPage(name: string): Promise<string> {
  return readFile(join(root, "docs", name), "utf8");
}

/** A page's pieces of code in a language, as the page has them. */
export async function piecesOf(page: string, language: "ts" | "sh"): Promise<string[]> {
  const pattern = new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, "gm");
  return [...(await readPage(page)).matchAll(pattern)].map((match) => match[1]!);
}

/**
 * What each of a page's pieces of code prints.
 *
 * @param files a path for each model and picture that the page names
 */
export async function printed(page: string, files: Readonly<Record<string, string>>): Promise<unknown[][][]> {
  const all: unknown[][][] = [];
  for (const code of await piecesOf(page, "ts")) {
    const here = Object.entries(files).reduce(
      (text, [name, path]) => text.replaceAll(JSON.stringify(name), JSON.stringify(path)),
      code,
    );
    // What TypeScript has there beyond JavaScript; that it is right TypeScript, `typeErrors` says.
    const body = here
      .replace(/^import (\{.*\}) from ("allegory.*");$/gm, "const $1 = modules[$2];")
      .replaceAll(/ as (const|Error)\b/g, "")
      .replaceAll(/(?<=[\w\])])!(?=[.,;)\]])/g, "")
      .replaceAll(/^(\s*(?:const|let) \w+): [\w[\]]+ =/gm, "$1 =");
    const lines: unknown[][] = [];
    const log = vi.spyOn(console, "log").mockImplementation((...words) => void lines.push(words));
    try {
      const AsyncFunction = (async () => {}).constructor as new (...words: string[]) => (m: object) => Promise<void>;
      await new AsyncFunction("modules", body)(MODULES);
    } finally {
      log.mockRestore();
    }
    all.push(lines);
  }
  return all;
}

/** What TypeScript finds wrong with the code of pages; empty where it is right. */
export async function typeErrors(pages: readonly string[]): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "allegory-page-types-"));
  try {
    await mkdir(join(folder, "pieces"));
    await symlink(join(root, "node_modules"), join(folder, "node_modules"));
    for (const page of pages) {
      for (const [i, code] of (await piecesOf(page, "ts")).entries()) {
        await writeFile(join(folder, "pieces", `${page.replace(/\.md$/, "")}-${i + 1}.mts`), code);
      }
    }
    const paths = Object.fromEntries(
      Object.keys(MODULES).map((name) => [name, [join(root, "src", name.split("/")[1] ?? "", "index.ts")]]),
    );
    const config = { extends: join(root, "tsconfig.json"), compilerOptions: { paths }, include: ["pieces"] };
    await writeFile(join(folder, "tsconfig.json"), JSON.stringify(config));
    const { stdout } = await promisify(execFile)(join(root, "node_modules", ".bin", "tsc"), ["-p", folder]).catch(
      (error: { readonly stdout: string }) => error,
    );
    return stdout;
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** The words of a page's command lines that begin with `allegory`, that word left out. */
export async function commandsOf(page: string): Promise<string[][]> {
  const lines = (await piecesOf(page, "sh")).join("\n").replaceAll("\\\n", " ").split("\n");
  return lines
    .map((line) => line.replace(/^npx /, "").replace(/\s# .*$/, ""))
    .filter((line) => line.startsWith("allegory "))
    .map((line) => [...line.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map((match) => match[1] ?? match[2] ?? match[3]!))
    .map((words) => words.slice(1));
}
