import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { hostImage } from "../io/host-image.ts";
import { encodeImage } from "../io/images.ts";
import type { CaptionSource } from "./folder-captions.ts";
import { imageFolder } from "./image-folder.ts";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "allegory-captions-"));
});
afterAll(() => rm(root, { recursive: true, force: true }));

/** A folder of 4×4 pictures at the paths that are null, and of text files (or bytes) at the others. */
async function folderOf(files: Record<string, string | Uint8Array | null>): Promise<string> {
  const folder = await mkdtemp(join(root, "folder-"));
  const png = await encodeImage(hostImage(4, 4, 1, new Uint8Array(16).fill(50)), "png");
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(folder, path)), { recursive: true });
    await writeFile(join(folder, path), content ?? png);
  }
  return folder;
}

async function read(files: Record<string, string | Uint8Array | null>, captions: CaptionSource = "auto") {
  return imageFolder(await folderOf(files), { size: 4, captions, cache: false });
}

describe("captions of a folder", () => {
  it("are read from text files beside the pictures, one a line", async () => {
    const files = {
      "a.png": null,
      "a.txt": "a cat\n\n  a small cat \r\n",
      "b/c.d.png": null,
      "b/c.d.txt": "\ufeffa dög",
    };
    const dataset = await read(files);
    expect(dataset.captions).toEqual([["a cat", "a small cat"], ["a dög"]]);
    expect(dataset.warnings).toEqual([]);
    // A text file of no picture is no caption.
    const readme = await read({ ...files, "readme.txt": "my pictures" }, "sidecar");
    expect(readme.captions).toEqual(dataset.captions);
    expect(readme.warnings).toEqual([expect.stringContaining("1 .txt")]);
  });

  it("are read from metadata.jsonl in the folder and below it, several a picture", async () => {
    const dataset = await read({
      "a.png": null,
      "sub/b.png": null,
      "sub/deep/c.png": null,
      "metadata.jsonl":
        '{"file_name": "a.png", "text": "one"}\n\n{"file_name": "a.png", "caption": "two", "width": 4}\n',
      "sub/metadata.jsonl":
        '{"file_name": "b.png", "captions": ["three", "four"]}\n{"file_name": "deep/c.png", "text": "five"}',
    });
    expect(dataset.captions).toEqual([["one", "two"], ["three", "four"], ["five"]]);
    expect(dataset.warnings).toEqual([]);
  });

  it("are read from metadata.csv with quotes, commas and line breaks within", async () => {
    const csv = '\ufefffile_name,id,text\r\na.png,1,"red, ""round""\nand small"\r\n\r\nb.png,2,blue\r\n';
    const dataset = await read({ "a.png": null, "b.png": null, "metadata.csv": csv }, "metadata");
    expect(dataset.captions).toEqual([['red, "round"\nand small'], ["blue"]]);
  });

  it("are none unless asked for, and auto finds none where there are none", async () => {
    const files = { "a.png": null, "b.png": null, "a.txt": "a cat" };
    expect((await read(files, "none")).captions).toBeUndefined();
    expect((await read({ "a.png": null, "b.png": null })).captions).toBeUndefined();
    const folder = await folderOf(files);
    expect((await imageFolder(folder, { size: 4, cache: false })).captions).toBeUndefined();
  });

  it("stay with their pictures where others are left out", async () => {
    const folder = await folderOf({
      "a.png": new Uint8Array([1, 2, 3]),
      "b.png": null,
      "c.png": null,
      "a.txt": "broken",
      "b.txt": "second",
      "c.txt": "third",
    });
    const dataset = await imageFolder(folder, { size: 4, captions: "auto", cache: false, skipUnreadable: true });
    expect(dataset.captions).toEqual([["second"], ["third"]]);
  });

  it("are missed by name, the first twenty", async () => {
    const pictures = Object.fromEntries(
      Array.from({ length: 23 }, (_, i) => [`${String(i).padStart(2, "0")}.png`, null]),
    );
    const error = await read({ ...pictures, "00.txt": "a cat", "01.txt": " \n" }).catch((caught: Error) => caught);
    expect(String(error)).toMatch(/22 of 23 images in .* have no caption:\n {2}01\.png\n {2}02\.png/);
    expect(String(error)).toMatch(/20\.png\n {2}and 2 more/);
    await expect(read(pictures, "sidecar")).rejects.toThrow(/23 of 23 images .* have no caption/);
    await expect(read(pictures, "metadata")).rejects.toThrow(/has no metadata\.jsonl and no metadata\.csv/);
  });

  it("in metadata that cannot be used are refused with their lines", async () => {
    const lines = [
      '{"file_name": "a.png", "text": "fine"}',
      '{"file_name": "gone.png", "text": "x"}',
      '{"file_name": "a.png", "text": ',
      '["a.png", "x"]',
      '{"text": "x"}',
      '{"file_name": "b.png", "text": 7}',
    ];
    const error = await read({ "a.png": null, "b.png": null, "metadata.jsonl": lines.join("\n") }).catch(
      (caught: Error) => caught,
    );
    expect(String(error)).toMatch(/metadata\.jsonl line 2: there is no picture gone\.png/);
    expect(String(error)).toMatch(/metadata\.jsonl line 3: .*JSON/);
    expect(String(error)).toMatch(/metadata\.jsonl line 4: not a JSON object/);
    expect(String(error)).toMatch(/metadata\.jsonl line 5: no file_name/);
    expect(String(error)).toMatch(/metadata\.jsonl line 6: "text" is 7, not text/);

    const csv = (text: string) => read({ "a.png": null, "b.png": null, "metadata.csv": text });
    await expect(csv("file_name,text\na.png,x,y\n")).rejects.toThrow(/metadata\.csv line 2: Invalid Record Length/);
    await expect(csv('file_name,text\na.png,"x\n')).rejects.toThrow(/metadata\.csv line 2: Quote Not Closed/);
    await expect(csv("name,text\na.png,x\n")).rejects.toThrow(/line 1: no column file_name, only name, text/);
    await expect(csv("file_name,label\na.png,x\n")).rejects.toThrow(/none of text, caption, captions is among/);
    await expect(csv("file_name,text\n../a.png,x\n")).rejects.toThrow(/line 2: there is no picture \.\.\/a\.png/);
    await expect(csv("")).rejects.toThrow(/no column file_name, only \(nothing\)/);
  });

  it("named in two metadata files, in parquet or in another encoding are refused", async () => {
    const row = '{"file_name": "a.png", "text": "x"}';
    const twice = { "s/a.png": null, "s/b.png": null, "s/metadata.jsonl": row };
    await expect(read({ ...twice, "metadata.csv": "file_name,text\ns/a.png,y\n" })).rejects.toThrow(
      /s\/metadata\.jsonl line 1: s\/a\.png is also named in metadata\.csv/,
    );
    await expect(read({ "a.png": null, "b.png": null, "metadata.parquet": "PAR1" })).rejects.toThrow(
      /metadata\.parquet cannot be read: of metadata, JSON lines and CSV are/,
    );
    const latin1 = { "a.png": null, "b.png": null, "a.txt": new Uint8Array([0x64, 0xf6, 0x67]), "b.txt": "x" };
    await expect(read(latin1)).rejects.toThrow(/a\.txt is not UTF-8 text/);
    await expect(read({ "a.png": null }, "filename" as never)).rejects.toThrow(/auto, sidecar, metadata and none/);
  });
});
