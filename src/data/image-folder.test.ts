import { copyFile, cp, mkdir, mkdtemp, readdir, rm, symlink, truncate, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { hostImage } from "../io/host-image.ts";
import { decodeImage, encodeImage } from "../io/images.ts";
import { cacheFolder } from "./cache.ts";
import { picturesAt } from "./dataset.ts";
import { imageFolder } from "./image-folder.ts";

const reference = "test/fixtures/reference/images";
let root: string;
let cache: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "allegory-image-folder-"));
  cache = join(root, "cache");
});
afterAll(() => rm(root, { recursive: true, force: true }));
afterEach(() => vi.unstubAllEnvs());

/** A folder with plain 8×8 images of these values at these paths. */
async function folderOf(name: string, values: Record<string, number>): Promise<string> {
  const folder = join(root, name);
  for (const [path, value] of Object.entries(values)) {
    await mkdir(join(folder, path, ".."), { recursive: true });
    await writeFile(join(folder, path), await encodeImage(hostImage(8, 8, 1, new Uint8Array(64).fill(value)), "png"));
  }
  return folder;
}

describe("an image folder", () => {
  it("is read at any depth in the order of paths, planes before pixels", async () => {
    const folder = await folderOf("deep", { "b.png": 20, "a/x/y.png": 10, "a/z.PNG": 15 });
    const dataset = await imageFolder(folder, { size: 4, cache });
    expect(dataset).toMatchObject({
      name: "deep",
      count: 3,
      channels: 3,
      height: 4,
      width: 4,
      flip: false,
      warnings: [],
    });
    expect([0, 48, 96].map((at) => dataset.images[at])).toEqual([10, 15, 20]);
    expect(dataset.labels).toBeUndefined();
  });

  it("holds the same pixels as decoding each image alone", async () => {
    const folder = join(root, "odd");
    await mkdir(folder);
    const names = ["cmyk.jpg", "exif-orientation.jpg", "gray16.png", "palette-transparent.png", "rgba.png", "wide.png"];
    for (const name of names) await copyFile(join(reference, name), join(folder, name));
    const size = { width: 12, height: 10 };
    const dataset = await imageFolder(folder, { size, cache, background: "#102030" });
    const pictures = picturesAt(dataset, [0, 1, 2, 3, 4, 5]);
    for (const [i, name] of names.entries()) {
      const { original: _, ...image } = await decodeImage(join(folder, name), { size, background: "#102030" });
      expect(pictures[i]).toEqual(image);
    }
  });

  it("takes classes from the sub-folders of the first level", async () => {
    const folder = await folderOf("classes", { "dog/1.png": 1, "cat/2.png": 2, "cat/old/3.png": 3 });
    const dataset = await imageFolder(folder, { size: 8, channels: 1, labels: "folders", cache });
    expect(dataset.classNames).toEqual(["cat", "dog"]);
    expect(dataset.labels).toEqual(Int32Array.of(0, 0, 1));
    expect([0, 64, 128].map((at) => dataset.images[at])).toEqual([2, 3, 1]);
    await folderOf("classes", { "loose.png": 4 });
    await expect(imageFolder(folder, { size: 8, labels: "folders", cache })).rejects.toThrow(
      /every image must lie in a sub-folder; 1 in .* for example loose\.png/,
    );
  });

  it("with unreadable files is refused naming each, or leaves them out when told to", async () => {
    const folder = join(root, "damaged");
    await cp(reference, folder, { recursive: true });
    const bad = ["empty.png", "text.png", "truncated.jpg", "truncated.png"];
    const refusal = await imageFolder(folder, { size: 8, cache }).catch((error: Error) => error.message);
    expect(refusal).toContain("4 of 16 images");
    for (const name of bad) expect(refusal).toContain(`${name} cannot be decoded`);
    for (let round = 0; round < 2; round++) {
      const dataset = await imageFolder(folder, { size: 8, cache, skipUnreadable: true });
      expect(dataset.count).toBe(12);
      expect(dataset.images.length).toBe(12 * 3 * 64);
      for (const name of bad) expect(dataset.warnings[0]).toContain(name);
      expect(dataset.warnings[1]).toBe("1 of 12 images are smaller than 8×8 and were enlarged.");
      expect(dataset.warnings[2]).toBe("Files that are no images were not taken: 1 .json.");
    }
    // The cache of the lenient run does not make the strict one accept.
    await expect(imageFolder(folder, { size: 8, cache })).rejects.toThrow(/4 of 16 images/);
  });

  it("names images of kinds that are not read instead of passing over them", async () => {
    const folder = await folderOf("kinds", { "a.png": 1, "b.png": 2 });
    await writeFile(join(folder, "c.svg"), '<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>');
    await writeFile(join(folder, ".hidden.png"), "");
    await symlink(join(folder, "nowhere.png"), join(folder, "d.png"));
    await symlink(folder, join(folder, "loop"));
    await expect(imageFolder(folder, { size: 4, cache })).rejects.toThrow(
      /2 of 4 images .*\n {2}c\.svg is a SVG image.*\n {2}There is no file .*d\.png/,
    );
  });

  it("is decoded once, and again when a file or an option changes", async () => {
    const folder = await folderOf("cached", { "a.png": 1, "b.png": 2 });
    const own = join(root, "own-cache");
    const decoded = async (options: object = {}) => {
      const progress = vi.fn();
      const dataset = await imageFolder(folder, { size: 4, cache: own, progress, ...options });
      return [progress.mock.calls.length, dataset.images[0]];
    };
    expect(await decoded()).toEqual([2, 1]);
    expect(await decoded()).toEqual([0, 1]);
    expect(await decoded({ flip: true })).toEqual([0, 1]);
    expect(await decoded({ channels: 1 })).toEqual([2, 1]);
    expect(await decoded({ cache: false })).toEqual([2, 1]);
    await folderOf("cached", { "a.png": 3 });
    await utimes(join(folder, "a.png"), 1, 1);
    expect(await decoded()).toEqual([2, 3]);
    expect(await decoded()).toEqual([0, 3]);
    // A damaged cache file is made anew.
    for (const name of await readdir(own)) await truncate(join(own, name), 90);
    expect(await decoded()).toEqual([2, 3]);
    expect(await decoded()).toEqual([0, 3]);
  });

  it("refuses too few images, a missing folder, a file, and impossible options", async () => {
    const folder = await folderOf("one", { "a.png": 1 });
    await expect(imageFolder(folder, { size: 4, cache })).rejects.toThrow(/has 1 image; at least 2/);
    await mkdir(join(root, "none"));
    await expect(imageFolder(join(root, "none"), { size: 4, cache })).rejects.toThrow(/holds no image/);
    await writeFile(join(root, "none", "a.txt"), "");
    await expect(imageFolder(join(root, "none"), { size: 4, cache })).rejects.toThrow(/holds no image \(but 1 \.txt\)/);
    await expect(imageFolder(join(root, "nowhere"), { size: 4, cache })).rejects.toThrow(/There is no folder/);
    await expect(imageFolder(join(folder, "a.png"), { size: 4, cache })).rejects.toThrow(/is a file; a folder/);
    await expect(imageFolder(folder, { size: 0, cache })).rejects.toThrow(/size of 0×0/);
    await expect(imageFolder(folder, { size: 4, channels: 2 as 1, cache })).rejects.toThrow(/channels is 2/);
    await expect(imageFolder(folder, { size: 4, background: "x", cache })).rejects.toThrow(/"x" is no colour/);
    const aborted = imageFolder(folder, { size: 4, cache: false, signal: AbortSignal.abort() });
    await expect(aborted).rejects.toThrow(/abort/i);
  });
});

describe("the cache folder", () => {
  it("is the given one, ALLEGORY_CACHE, or the user's cache folder, in this order", async () => {
    vi.stubEnv("XDG_CACHE_HOME", join(root, "xdg"));
    vi.stubEnv("ALLEGORY_CACHE", "");
    if (process.platform !== "win32") expect(await cacheFolder()).toBe(join(root, "xdg", "allegory"));
    vi.stubEnv("ALLEGORY_CACHE", join(root, "variable"));
    expect(await cacheFolder()).toBe(join(root, "variable"));
    expect(await cacheFolder(join(root, "given"))).toBe(join(root, "given"));
    await writeFile(join(root, "file"), "");
    await expect(cacheFolder(join(root, "file", "in"))).rejects.toThrow(/cannot be made[\s\S]*ALLEGORY_CACHE/);
  });
});
