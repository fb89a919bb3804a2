import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { packTar } from "modern-tar";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { hostImage } from "../io/host-image.ts";
import { encodeImage } from "../io/images.ts";
import { datasetOf } from "./dataset.ts";
import { readRecipe } from "./recipe.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-recipe-data-"));
  const png = await encodeImage(hostImage(4, 4, 1, new Uint8Array(16).fill(9)), "png");
  const members = ["0.png", "0.txt", "1.png", "1.txt"].map((name) => {
    const body = name.endsWith(".txt") ? new TextEncoder().encode(`picture ${name}`) : png;
    return { header: { name, size: body.length }, body };
  });
  await writeFile(join(folder, "s-0.tar"), await packTar(members));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const open = (fields: object) => datasetOf(readRecipe({ run: "run", size: 4, ...fields }), { cache: false });

describe("the data of a recipe", () => {
  it("may be tar shards: a folder of them, one or a pattern", async () => {
    for (const data of [folder, join(folder, "s-0.tar"), join(folder, "s-{0..0}.tar")]) {
      expect((await open({ data })).captions).toEqual([["picture 0.txt"], ["picture 1.txt"]]);
    }
    await expect(open({ data: folder, labels: "folders" })).rejects.toThrow(/classes of tar shards are in their/);
    await expect(open({ data: folder, size: undefined })).rejects.toThrow(/Pictures in tar shards need a size/);
  });

  it("is a folder's pictures where an archive merely lies with them", async () => {
    const png = await encodeImage(hostImage(4, 4, 1, new Uint8Array(16).fill(9)), "png");
    for (const name of ["a.png", "b.png", "c.png"]) await writeFile(join(folder, name), png);
    const { count, warnings } = await open({ data: folder });
    expect([count, warnings]).toEqual([3, ["Files that are no images were not taken: 1 .tar."]]);
  });

  it("may be the emoji, which have classes of their own", async () => {
    await expect(open({ data: "emoji", labels: "folders" })).rejects.toThrow(/emoji have classes of their own/);
  });
});
