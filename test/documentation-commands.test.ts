import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run } from "../src/cli/program.ts";
import { decodeImage } from "../src/io/index.ts";
import { commandsOf, readPage } from "./page-code.ts";
import { type PageFiles, pageFiles } from "./page-models.ts";

let here: PageFiles;
beforeAll(async () => {
  here = await pageFiles();
});
afterAll(() => here.remove());

/** Runs a command line in this process. */
async function command(words: readonly string[]) {
  const texts = { out: "", err: "" };
  const io = consoleOn({ write: (text) => (texts.out += text) }, { write: (text) => (texts.err += text) });
  const status = await run(words, io);
  return { status, ...texts };
}

/** Options whose value is something to write. */
const WRITTEN = ["--out", "--grid", "--animation", "--attention-maps"];

/** Sizes that tiny models draw in the place of pages'. */
const SIZES: Readonly<Record<string, string>> = { "512": "32" };

/** The words with paths of the tiny models in the place of names, and what is written in the tests' folder. */
function resolved(words: readonly string[]): {
  readonly words: readonly string[];
  readonly outputs: readonly string[];
} {
  const outputs: string[] = [];
  const toBeWritten = words[0] === "generate" && !words.some((word) => WRITTEN.includes(word));
  const all = [...words, ...(toBeWritten ? ["--out", "drawn.png"] : [])].map((word, i, whole) => {
    if (/^--(width|height)$/.test(whole[i - 1] ?? "")) return SIZES[word] ?? word;
    if (WRITTEN.includes(whole[i - 1] ?? "")) {
      outputs.push(join(here.folder, word));
      return outputs.at(-1)!;
    }
    const name = Object.keys(here.files).find((one) => word.includes(one));
    if (name) return word.replace(name, here.files[name]!);
    // What an earlier command of the page wrote.
    return /\.(png|jpg|webp)$/.test(word) ? join(here.folder, word) : word;
  });
  return { words: ["generate", "sample"].includes(words[0]!) ? [...all, "--threads", "1"] : all, outputs };
}

const PAGES: readonly (readonly [page: string, commands: number])[] = [
  ["stable-diffusion.md", 1],
  ["pixart-sd3-flux.md", 2],
  ["text-to-image.md", 2],
  ["image-to-image.md", 2],
  ["inpainting.md", 1],
  ["controlnet.md", 1],
  ["lora-and-words.md", 3],
  ["large-pictures.md", 2],
  ["few-steps.md", 4],
  ["sdxl.md", 2],
  ["prompts.md", 3],
  ["reproduce-a-picture.md", 6],
  ["unconditional-generation.md", 2],
  ["class-to-image.md", 2],
];

test.each(PAGES)("the command lines of docs/%s do what they say with tiny models", async (page, count) => {
  const commands = await commandsOf(page);
  expect(commands).toHaveLength(count);
  for (const given of commands) {
    const { words, outputs } = resolved(given);
    const { status, out, err } = await command(words);
    expect([given.join(" "), status, err.replace(/^note: .*\n/gm, "")]).toEqual([given.join(" "), 0, ""]);
    expect(out).not.toBe("");
    for (const output of outputs) {
      const isFolder = (await stat(output)).isDirectory();
      if (isFolder) expect((await readdir(output)).length).toBeGreaterThan(0);
      else if (!output.endsWith(".gif")) expect((await decodeImage(output)).width).toBeGreaterThan(0);
    }
  }
});

test("pages name no option that there is not", async () => {
  const names = ["generate", "sample", "tokens", "info", "train", "compare"];
  const help = (await Promise.all(names.map((name) => command([name, "--help"])))).map(({ out }) => out).join("\n");
  const known = new Set([...help.matchAll(/--[a-z][\w-]*/g)].map(([option]) => option));
  expect(known.size).toBeGreaterThan(100);
  const pages = [...PAGES.map(([page]) => page), "fine-tuning.md", "coming-from.md", "hub.md"];
  for (const page of pages) {
    const named = [...(await readPage(page)).matchAll(/(?<=[\s`"'])--[a-z][\w-]*/g)].map(([option]) => option);
    expect([page, named.filter((option) => !known.has(option))]).toEqual([page, []]);
  }
});
