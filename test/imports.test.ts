import { existsSync, readdirSync, readFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { basename, dirname, join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

/** The rules of the code base that a compiler does not know: who may import whom, and how files are kept. */

const root = fileURLToPath(new URL("..", import.meta.url));

/** What each folder of `src` may import besides itself and `core`. A new folder needs a line here. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  core: [],
  graph: [],
  diffusion: [],
  io: [],
  runtime: ["graph"],
  nn: ["graph"],
  optim: ["graph"],
  models: ["nn", "graph"],
  data: ["io"],
  train: ["graph", "diffusion", "io", "runtime", "nn", "optim", "models", "data", "metrics"],
  metrics: ["graph", "diffusion", "io", "runtime", "nn", "models", "data"],
  pipelines: ["models", "nn", "graph", "diffusion", "runtime", "io"],
  server: ["pipelines", "train"],
  cli: [
    ...["server", "pipelines", "train", "metrics"],
    // what these import
    ...["graph", "diffusion", "io", "runtime", "nn", "optim", "models", "data"],
  ],
};

/** Folders that run in a browser as they are: nothing of Node, nothing of the DOM. */
const PORTABLE = ["core", "graph", "nn", "models", "diffusion", "optim"];
/** Packages that are plain JavaScript and need neither Node nor a browser. */
const PORTABLE_PACKAGES = ["@bufbuild/protobuf", "onnx-buf", "zod"];

/** The most lines a file has; lists of test cases may be longer. */
const LINES = 400;
const TEST_LINES = 600;
/** Files that are longer, each with the reason. */
const LONGER: Readonly<Record<string, string>> = {};

interface SourceFile {
  /** From the root, with slashes. */
  readonly path: string;
  readonly text: string;
  readonly imports: readonly string[];
}

function filesUnder(folder: string): SourceFile[] {
  const full = join(root, folder);
  if (!existsSync(full)) return [];
  return readdirSync(full, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.(ts|tsx|mjs)$/.test(entry.name))
    .map((entry) => {
      const file = join(entry.parentPath, entry.name);
      const text = readFileSync(file, "utf8");
      return { path: relative(root, file).split(sep).join("/"), text, imports: importsOf(text) };
    })
    .filter(({ path }) => !path.includes("node_modules/"));
}

/** What a module imports: statements, re-exports and `import()`, types included. */
function importsOf(text: string): string[] {
  const code = withoutComments(text);
  const statements = /^\s*(?:import|export)\b(?:[\s\w*{},]*?\bfrom)?\s*["']([^"'\n]+)["']/gm;
  const calls = /\bimport\(\s*["'`]([^"'`\n]+)["'`]\s*\)/g;
  return [...code.matchAll(statements), ...code.matchAll(calls)].map((match) => match[1]!);
}

const withoutComments = (text: string) => text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");

const isTest = (path: string) => /\.test\.tsx?$/.test(path);
const source = filesUnder("src");
/** What the build compiles. */
const shipped = source.filter(({ path }) => path.endsWith(".ts") && !isTest(path));
const everything = [...source, ...["test", "bench", "examples", "studio"].flatMap(filesUnder)];

/** `graph` of `src/graph/ops/conv.ts`; empty for files directly in `src`. */
const folderOf = (path: string) => path.split("/").slice(1, -1)[0] ?? "";
const isRelative = (specifier: string) => specifier.startsWith(".");
const targetOf = (file: SourceFile, specifier: string) =>
  relative(root, resolve(root, dirname(file.path), specifier))
    .split(sep)
    .join("/");
/** `zod` of `zod/v4`, `@scope/name` of `@scope/name/part`. */
const packageOf = (specifier: string) =>
  specifier.split("/").slice(0, specifier.startsWith("@") ? 2 : 1).join("/"); // biome-ignore format: short

describe("imports", () => {
  test("are found in every form that the code uses", () => {
    const text = [
      'import { a,\n  type B } from "./a.ts";',
      'import type { C } from "../c.ts";',
      "import * as d from 'd';",
      'export * from "./e.ts";',
      'import "f";',
      'const g = await import("g/sub");',
      '// import h from "h";',
      'const text = `not from "i"`;',
    ].join("\n");
    expect(importsOf(text)).toEqual(["./a.ts", "../c.ts", "d", "./e.ts", "f", "g/sub"]);
  });

  test("between the folders of src follow the table", () => {
    const violations = shipped.flatMap((file) => {
      const from = folderOf(file.path);
      if (from === "") return []; // the package's entry points
      const allowed = MAY_IMPORT[from];
      if (!allowed) return [`${file.path}: src/${from} is not in the table`];
      return file.imports.filter(isRelative).flatMap((specifier) => {
        const target = targetOf(file, specifier);
        if (!target.startsWith("src/")) return [`${file.path} imports ${target}, outside src`];
        const to = folderOf(target);
        return to === from || to === "core" || allowed.includes(to) ? [] : [`${file.path} imports ${target}`];
      });
    });
    expect(violations).toEqual([]);
  });

  test("of files that exist are written with their extension", () => {
    const missing = everything.flatMap((file) =>
      file.imports
        .filter(isRelative)
        .map((specifier) => targetOf(file, specifier))
        .filter((target) => !existsSync(join(root, target)) || !/\.\w+$/.test(target))
        .map((target) => `${file.path} imports ${target}`),
    );
    // The sample texts above are no imports of this file.
    expect(missing.filter((line) => !line.startsWith("test/imports.test.ts"))).toEqual([]);
  });

  test("of ONNX Runtime happen in src/runtime only", () => {
    const violations = everything
      .filter(({ path }) => !path.startsWith("src/runtime/"))
      .filter(({ imports }) => imports.some((specifier) => specifier.startsWith("onnxruntime")))
      .map(({ path }) => path);
    expect(violations).toEqual([]);
  });

  test("of portable folders are portable", () => {
    const violations = shipped
      .filter(({ path }) => PORTABLE.includes(folderOf(path)))
      .flatMap((file) =>
        file.imports
          .filter((specifier) => !isRelative(specifier) && !PORTABLE_PACKAGES.includes(packageOf(specifier)))
          .map((specifier) => {
            const node = specifier.startsWith("node:") || builtinModules.includes(specifier);
            return `${file.path} imports ${specifier}${node ? ", which is Node's" : ""}`;
          }),
      );
    expect(violations).toEqual([]);
  });

  test("are not gone around: portable folders use no globals of Node or the DOM", () => {
    const globals =
      /\b(?:process\.(?:env|argv|cwd|exit|platform|stdout|stderr|hrtime|memoryUsage|on)|Buffer\.|__dirname|__filename|globalThis\.(?:process|Buffer|window|document)|(?:window|document|navigator|localStorage)\.)/;
    const violations = shipped
      .filter(({ path }) => PORTABLE.includes(folderOf(path)))
      .flatMap(({ path, text }) => {
        const found = globals.exec(withoutComments(text));
        return found ? [`${path} uses ${found[0]}`] : [];
      });
    expect(violations).toEqual([]);
  });

  test("of packages are dependencies of the package", () => {
    const { dependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    const violations = shipped.flatMap((file) =>
      file.imports
        .filter((specifier) => !isRelative(specifier) && !specifier.startsWith("node:"))
        .filter((specifier) => !(packageOf(specifier) in dependencies))
        .map((specifier) => `${file.path} imports ${specifier}`),
    );
    expect(violations).toEqual([]);
  });
});

describe("files", () => {
  test(`have at most ${LINES} lines, or a reason`, () => {
    const long = everything
      .map(({ path, text }) => ({ path, lines: text.trimEnd().split("\n").length }))
      .filter(({ path, lines }) => lines > (isTest(path) ? TEST_LINES : LINES));
    expect(long.filter(({ path }) => !(path in LONGER))).toEqual([]);
    // A reason outlives its file or its length only by mistake.
    expect(Object.keys(LONGER).filter((path) => !long.some((file) => file.path === path))).toEqual([]);
  });

  test("are named for a concept, in kebab-case", () => {
    const names = everything.map(({ path }) => path);
    const vague = /^(utils?|helpers?|base|managers?|common|misc)\b|-(utils?|helpers?|base|manager)\b/;
    expect(names.filter((path) => vague.test(basename(path)))).toEqual([]);
    expect(names.filter((path) => !/^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z]+)*\.(ts|tsx|mjs)$/.test(basename(path)))).toEqual(
      [],
    );
  });

  test("say nothing of the machine they were written on", () => {
    const absolute = /(?<![\w.~-])\/(?:home|root|Users|work)\/\w+/;
    const violations = everything.filter(({ text }) => absolute.test(text)).map(({ path }) => path);
    expect(violations.filter((path) => path !== "test/imports.test.ts")).toEqual([]);
  });
});
