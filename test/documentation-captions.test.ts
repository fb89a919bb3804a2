import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { packTar } from "modern-tar";
import { expect, test, vi } from "vitest";
import { captionsOfFields } from "../src/data/caption-text.ts";
import { metadataCsv, metadataJsonl } from "../src/data/metadata-file.ts";
import * as allegory from "../src/index.ts";
import { readSafetensorsHeader } from "../src/io/index.ts";
import { smallAutoencoderFolder } from "./small-autoencoder.ts";

const page = await readFile(fileURLToPath(new URL("../docs/train-on-captioned-pictures.md", import.meta.url)), "utf8");

const exported = new Map<string, unknown>(Object.entries(allegory));

function blocks(language: string): string[] {
  return [...page.matchAll(new RegExp(`^\`\`\`${language}\n([\\s\\S]*?)^\`\`\``, "gm"))].map((match) => match[1]!);
}

/** Runs code of the page with what it imports, and its files in a folder; returns what it prints. */
async function run(code: string, folder: string): Promise<unknown[][]> {
  const names = [...code.matchAll(/^import \{ (.*) \} from "allegory";$/gm)].flatMap((match) => match[1]!.split(", "));
  const body = code
    .replace(/^import .*$/gm, "")
    .replace(/"((?:pets|shards|autoencoder)[^"]*)"/g, (_, path: string) => JSON.stringify(join(folder, path)));
  const lines: unknown[][] = [];
  const log = vi.spyOn(console, "log").mockImplementation((...words) => void lines.push(words));
  try {
    const AsyncFunction = (async () => {}).constructor as new (
      ...words: string[]
    ) => (...args: unknown[]) => Promise<void>;
    await new AsyncFunction(...names, body)(...names.map((name) => exported.get(name)));
  } finally {
    log.mockRestore();
  }
  return lines;
}

test("the code of docs/train-on-captioned-pictures.md reads captions, shards and emoji, and encodes", async () => {
  const folder = await mkdtemp(join(tmpdir(), "allegory-docs-captions-"));
  vi.stubEnv("ALLEGORY_CACHE", join(folder, "cache"));
  try {
    const picture = await allegory.encodeImage(
      { width: 8, height: 8, channels: 3, data: Uint8Array.from({ length: 192 }, (_, i) => i) },
      "png",
    );
    await mkdir(join(folder, "pets"));
    for (const name of ["jerry", "tom"]) {
      await writeFile(join(folder, "pets", `${name}.png`), picture);
      await writeFile(join(folder, "pets", `${name}.txt`), `this is ${name}`);
    }
    await mkdir(join(folder, "shards"));
    for (const i of [0, 1]) {
      const text = (words: string) => new TextEncoder().encode(words);
      const members = { png: picture, txt: text(`pet ${i}`), cls: text(String(i)) };
      const entries = Object.entries(members).map(([extension, body]) => ({
        header: { name: `00000${i}.${extension}`, size: body.length },
        body,
      }));
      await writeFile(join(folder, "shards", `pets-00000${i}.tar`), await packTar(entries));
    }
    await smallAutoencoderFolder(join(folder, "autoencoder"));

    const [ofFolder, ofShards, ofEmoji, encoding] = blocks("ts") as [string, string, string, string];
    expect(await run(ofFolder, folder)).toEqual([[2, ["this is jerry"]]]);
    expect(await run(ofShards, folder)).toEqual([[2, ["pet 0"], 0]]);
    const [[count, captions]] = (await run(ofEmoji, folder)) as [[number, string[]]];
    expect(count).toBe(159);
    expect(captions.length).toBeGreaterThan(1);
    const [[shape, words]] = (await run(encoding, folder)) as [[number[], string[]]];
    expect(shape).toEqual([2, 4, 32, 32]);
    expect([...words].sort()).toEqual(["this is jerry", "this is tom"]);

    // What the Python code of the page reads.
    const { tensors, metadata } = await readSafetensorsHeader(
      join(folder, "pets-latents", "latents-00000.safetensors"),
    );
    expect(tensors.get("moments")).toMatchObject({ dtype: "float16", shape: [2, 4, 32, 32] });
    expect(tensors.has("mirrored")).toBe(true);
    expect(JSON.parse(metadata.allegory!).captions).toEqual([["this is jerry"], ["this is tom"]]);
  } finally {
    vi.unstubAllEnvs();
    await rm(folder, { recursive: true, force: true });
  }
}, 120_000);

test("the metadata files of docs/train-on-captioned-pictures.md are read as it says", () => {
  const [jsonl] = blocks("json") as [string];
  expect(metadataJsonl(jsonl)).toEqual({
    problems: [],
    rows: [
      { line: 1, fileName: "tom.png", captions: ["a gray cat"] },
      { line: 2, fileName: "jerry/brown.jpg", captions: ["a mouse", "a brown mouse with a piece of cheese"] },
    ],
  });
  const [csv] = blocks("csv") as [string];
  const { rows, problems } = metadataCsv(csv);
  expect(problems).toEqual([]);
  expect(rows.map(({ captions }) => captions)).toEqual([["a gray cat, asleep"], ["a mouse"]]);
  expect(captionsOfFields({ text: "a", caption: "b", captions: ["a", " "] })).toEqual(["a", "b"]);
});
