import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import * as allegory from "../src/index.ts";
import type { HubOptions } from "../src/io/index.ts";
import type { TextToImageOptions, TextToImageRunOptions } from "../src/pipelines/index.ts";
import { readPage } from "./page-code.ts";

// That nothing is missing and nothing else is here, TypeScript sees to.
const OPTIONS = {
  ...{ device: 0, threads: 0, hub: 0, variant: 0, vae: 0, previewVae: 0, controlNet: 0, refiner: 0, tokenizer: 0 },
  ...{
    scheduler: 0,
    embeddings: 0,
    lowMemory: 0,
    memoryLimit: 0,
    quantize: 0,
    switchableLoras: 0,
    needs: 0,
    prediction: 0,
  },
} satisfies Record<keyof TextToImageOptions, 0>;
const RUN = { signal: 0, random: 0, attention: 0, latentsOnly: 0 } satisfies Record<keyof TextToImageRunOptions, 0>;
const HUB = {
  ...{ revision: 0, variant: 0, offline: 0, token: 0, cache: 0, endpoint: 0 },
  ...{ onProgress: 0, onWarning: 0, signal: 0, variantOptional: 0 },
} satisfies Record<keyof HubOptions, 0>;

/** What else stands in code there: words of the language, and what the page calls the reader's own things. */
const READERS_OWN = [
  ...["await", "const", "for", "of", "import", "from", "true", "false", "null"],
  ...["sd", "drawing", "folder", "file", "request", "state", "picture", "path", "a", "b", "s"],
];

const pipe = await allegory.pipeline(
  "text-to-image",
  fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url)),
);
await pipe.close();
const known = new Set([
  ...READERS_OWN,
  ...Object.keys(allegory),
  ...Object.keys(pipe),
  ...Object.keys(allegory.textToImageRequest.shape),
  ...Object.keys(allegory.unconditionalRequest.shape),
  ...[OPTIONS, RUN, HUB].flatMap(Object.keys),
  // Of a LoRA, of an embedding, and of a picture.
  ...["path", "scale", "token", "float"],
]);
const words = new Set([...Object.keys(allegory.SAMPLERS), ...allegory.GRIDS, "text-to-image", "class-to-image"]);

test("what docs/coming-from.md says is called here like that, is", async () => {
  const rows = (await readPage("coming-from.md")).split("\n").filter((line) => /^\| [^-]/.test(line));
  expect(rows.length).toBeGreaterThan(90);
  let names = 0;
  for (const row of rows) {
    const [, , ours] = row.split(/(?<!\\)\|/);
    for (const [, span] of ours!.matchAll(/`([^`]+)`/g)) {
      // Commands are checked with those of other pages; files and folders are named as they are.
      if (/^(--|allegory |.*\.json$|text_encoder|tokenizer_|\[null)/.test(span!)) continue;
      const texts = [...span!.matchAll(/"([^"]*)"/g)].map((match) => match[1]!);
      for (const text of texts.filter((one) => /^(dpm|euler|lcm|karras|trailing|.*-to-image$)/.test(one))) {
        expect([row, words.has(text)]).toEqual([row, true]);
      }
      const code = span!.replaceAll(/"[^"]*"/g, "");
      for (const [name] of code.matchAll(/[A-Za-z_]\w*/g)) {
        expect([row, name, known.has(name)]).toEqual([row, name, true]);
        names++;
      }
    }
  }
  expect(names).toBeGreaterThan(150);
});

test("every field of a request can be found there or on the pages of tasks", async () => {
  const pages = [
    ...["stable-diffusion", "text-to-image", "image-to-image", "inpainting", "controlnet", "lora-and-words", "prompts"],
    ...["large-pictures", "few-steps", "sdxl", "reproduce-a-picture", "pixart-sd3-flux", "coming-from"],
  ];
  const text = (await Promise.all(pages.map((page) => readPage(`${page}.md`)))).join("\n");
  const fields = Object.keys(allegory.textToImageRequest.shape);
  expect(fields.filter((field) => !new RegExp(`\\b${field}\\b`).test(text))).toEqual([]);
  const own = await Promise.all(["unconditional-generation.md", "class-to-image.md", "coming-from.md"].map(readPage));
  const unconditional = Object.keys(allegory.unconditionalRequest.shape);
  expect(unconditional.filter((field) => !new RegExp(`\\b${field}\\b`).test(own.join("\n")))).toEqual([]);
});

test("links of the pages lead to pages and headings that there are", async () => {
  const pages = [
    ...["stable-diffusion", "text-to-image", "image-to-image", "inpainting", "controlnet", "lora-and-words", "prompts"],
    ...["large-pictures", "few-steps", "sdxl", "reproduce-a-picture", "pixart-sd3-flux", "coming-from"],
    ...["unconditional-generation", "class-to-image", "hub"],
  ];
  const anchor = (heading: string) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s-]/gu, "")
      .trim()
      .replaceAll(/\s/g, "-");
  for (const page of pages) {
    for (const [link, target, hash] of (await readPage(`${page}.md`)).matchAll(/\]\(([\w-]+\.md)(?:#([\w-]+))?\)/g)) {
      const text = await readPage(target!);
      const anchors = [...text.matchAll(/^#+ (.*)$/gm)].map((match) => anchor(match[1]!));
      if (hash !== undefined) expect([page, link, anchors.includes(hash)]).toEqual([page, link, true]);
    }
  }
});
