import { mkdir, mkdtemp, rm, truncate, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { packTar } from "modern-tar";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { hostImage } from "../io/host-image.ts";
import { encodeImage } from "../io/images.ts";
import { tarMembers } from "./tar-members.ts";
import { webDataset } from "./web-dataset.ts";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "allegory-web-dataset-"));
});
afterAll(() => rm(root, { recursive: true, force: true }));

const png = (value: number) => encodeImage(hostImage(6, 6, 1, new Uint8Array(36).fill(value)), "png");

/** The bytes of a tar of these members, in order. */
async function tar(members: readonly (readonly [string, string | Uint8Array])[]): Promise<Uint8Array> {
  const entries = members.map(([name, content]) => {
    const data = typeof content === "string" ? new TextEncoder().encode(content) : content;
    return { header: { name, size: data.length, type: "file" as const }, body: data };
  });
  return packTar(entries);
}

async function shard(name: string, bytes: Uint8Array): Promise<string> {
  const path = join(root, name);
  await mkdir(join(path, ".."), { recursive: true });
  await writeFile(path, bytes);
  return path;
}

const read = (source: string | string[], options = {}) => webDataset(source, { size: 4, cache: false, ...options });

describe("a WebDataset", () => {
  it("is read from shards of a folder, of a pattern and of a list, with captions and classes", async () => {
    await shard(
      "set/shard-000008.tar",
      await tar([
        ["./a/0001.PNG", await png(10)],
        ["./a/0001.txt", "one\nuno\n"],
        ["./a/0001.json", '{"caption": "one", "width": 6}'],
        ["./a/0001.cls", "2\n"],
        ["0002.json", '{"text": ["two", "due"]}'],
        ["0002.npy", "\u0093NUMPY"],
        ["0002.cls", "0"],
        ["0002.png", await png(20)],
      ]),
    );
    await shard(
      "set/shard-000009.tar",
      await tar([
        ["0003.png", await png(30)],
        ["0003.cls", "1"],
        ["0003.txt", "three"],
      ]),
    );
    const dataset = await read(join(root, "set"));
    expect(dataset).toMatchObject({ name: "set", count: 3, channels: 3, height: 4, width: 4, flip: false });
    expect(dataset.captions).toEqual([["one", "uno"], ["two", "due"], ["three"]]);
    expect(dataset.labels).toEqual(Int32Array.of(2, 0, 1));
    expect([0, 48, 96].map((at) => dataset.images[at])).toEqual([10, 20, 30]);
    expect(dataset.warnings).toEqual(["Not taken: 1 .npy."]);

    const pattern = await read(join(root, "set/shard-{000008..000009}.tar"), { flip: true });
    expect(pattern.images).toEqual(dataset.images);
    expect(pattern.flip).toBe(true);
    const reversed = await read([join(root, "set/shard-00000{9,8}.tar")], { captions: "none", labels: "none" });
    expect([0, 48, 96].map((at) => reversed.images[at])).toEqual([30, 10, 20]);
    expect([reversed.captions, reversed.labels]).toEqual([undefined, undefined]);
  });

  it("is read from gzipped shards, and the second time from the cache until a shard changes", async () => {
    const members = [
      ["0.png", await png(1)],
      ["0.txt", "zero"],
      ["1.png", await png(2)],
      ["1.txt", "one"],
    ] as const;
    const bytes = gzipSync(await tar(members));
    const path = await shard("packed.tar.gz", bytes);
    const cache = join(root, "cache");
    const first = await read(path, { cache });
    expect(first.captions).toEqual([["zero"], ["one"]]);
    // The same size and time: a shard that is not read cannot be found damaged.
    const time = new Date(1_700_000_000_000);
    await utimes(path, time, time);
    await read(path, { cache });
    await writeFile(path, new Uint8Array(bytes.length));
    await utimes(path, time, time);
    expect(await read(path, { cache })).toEqual(first);
    await utimes(path, new Date(), new Date());
    await expect(read(path, { cache })).rejects.toThrow(/packed\.tar\.gz is damaged or no tar; no member was found/);
  });

  it("refuses truncated and damaged shards by name, also those that were cut between two members", async () => {
    const members = [
      ["0.png", await png(1)],
      ["1.png", await png(2)],
    ] as const;
    const whole = await tar(members);
    const path = await shard("cut.tar", whole);
    await truncate(path, 1200);
    await expect(read(path)).rejects.toThrow(
      /cut\.tar is damaged or no tar; the last member found is 0\.png: .*truncated/,
    );
    // Each member is a block of 512 bytes and its content up to the next multiple.
    await truncate(await shard("between.tar", whole), 1024);
    await expect(read(join(root, "between.tar"))).rejects.toThrow(
      /between\.tar .* member found is 0\.png: it is truncated/,
    );
    const bits = whole.slice();
    bits[3]! ^= 255;
    await expect(read(await shard("bits.tar", bits))).rejects.toThrow(/bits\.tar is damaged .* checksum/);
    await expect(read(await shard("text.tar", new TextEncoder().encode("no tar")))).rejects.toThrow(
      /text\.tar is damaged/,
    );
    await expect(read(await shard("empty.tar", new Uint8Array()))).rejects.toThrow(/empty\.tar is damaged/);
    const half = gzipSync(whole);
    await expect(read(await shard("half.tgz", half.subarray(0, half.length / 2)))).rejects.toThrow(
      /half\.tgz is damaged/,
    );
  });

  it("names samples that cannot be used with shard and key", async () => {
    const picture = await png(1);
    const path = await shard(
      "bad.tar",
      await tar([
        ["0.png", picture],
        ["0.json", '{"text": 3}'],
        ["1.txt", "no picture"],
        ["2.png", picture],
        ["2.jpg", picture],
        ["3.png", picture],
        ["3.cls", "cat"],
        ["4.png", picture],
        ["4.json", "[]"],
        ["5.png", picture],
        ["5.txt", new Uint8Array([0x64, 0xf6])],
        ["0.txt", "late"],
      ]),
    );
    const error = String(await read(path).catch((caught: Error) => caught));
    expect(error).toMatch(/7 samples in .*bad\.tar cannot be used/);
    for (const line of [
      '0: .json: "text" is 3, not text',
      "1: no picture (only .txt)",
      "2: 2 pictures (.png, .jpg)",
      '3: .cls is "cat", not the number of a class',
      "4: .json: not a JSON object",
      "5: .txt is not UTF-8 text.",
      "0: its members do not lie together; no picture (only .txt)",
    ]) {
      expect(error).toContain(`bad.tar: ${line}`);
    }
  });

  it("names samples without a caption or class where others have one, and pictures that cannot be decoded", async () => {
    const picture = await png(1);
    const words = [
      ["a.png", picture],
      ["a.txt", "a"],
      ["b.png", picture],
      ["b.txt", " "],
    ] as const;
    const path = await shard("words.tar", await tar(words));
    await expect(read(path)).rejects.toThrow(/1 of 2 images in .* have no caption:\n {2}.*words\.tar: b\n/);
    expect((await read(path, { captions: "none" })).count).toBe(2);
    const classes = [
      ["a.png", picture],
      ["b.png", picture],
      ["b.cls", "1"],
    ] as const;
    await expect(read(await shard("classes.tar", await tar(classes)))).rejects.toThrow(
      /have no \.cls:\n.*classes\.tar: a/,
    );
    const broken = [
      ["a.png", picture],
      ["b.png", picture.subarray(0, 40)],
      ["c.png", picture],
    ] as const;
    const damaged = await shard("broken.tar", await tar(broken));
    await expect(read(damaged)).rejects.toThrow(/1 of 3 images .*\n {2}.*broken\.tar: b\.png cannot be decoded/);
    const rest = await read(damaged, { skipUnreadable: true });
    expect([rest.count, rest.warnings.length]).toEqual([2, 1]);
  });

  it("refuses what holds no shards, and patterns of shards that are not there", async () => {
    await mkdir(join(root, "nothing"));
    await expect(read(join(root, "nothing"))).rejects.toThrow(/holds no \.tar, \.tar\.gz or \.tgz file/);
    await expect(read(join(root, "gone"))).rejects.toThrow(/There is no folder/);
    await shard("p-0.tar", await tar([["0.png", await png(1)]]));
    await expect(read(join(root, "p-{0..3}.tar"))).rejects.toThrow(
      /3 of 4 shards are not there, for example .*p-1\.tar/,
    );
    await expect(read("p-{3..0}.tar")).rejects.toThrow(/counts from 3 down to 0/);
    await expect(read("p-{0..9999999}.tar")).rejects.toThrow(/more than 100000 files/);
    await expect(read(join(root, "p-0.tar"))).rejects.toThrow(/has 1 image; at least 2/);
  });
});

describe("the members of a tar", () => {
  it("come one after the other whatever their size and whether their content is asked for", async () => {
    const members = Array.from({ length: 300 }, (_, i) => {
      const size = [0, 1, 511, 512, 513, 5000, 70_000, 300_000][(i * 5 + (i >> 3)) % 8]!;
      return [`folder/${i}.bin`, new Uint8Array(size).fill(i)] as const;
    });
    const path = await shard("many.tar", await tar(members));
    let at = 0;
    for await (const member of tarMembers(path)) {
      const [name, content] = members[at]!;
      expect(member.name).toBe(name);
      if (at % 3 !== 1) expect(Buffer.compare(await member.bytes(), content)).toBe(0);
      at++;
    }
    expect(at).toBe(300);
  });

  it("are streamed: what is cut off while the first are read was not read before", async () => {
    const members = Array.from({ length: 16 }, (_, i) => [`${i}.bin`, new Uint8Array(2 ** 20).fill(i)] as const);
    const path = await shard("large.tar", await tar(members));
    const names: string[] = [];
    const all = async () => {
      for await (const member of tarMembers(path)) {
        names.push(member.name);
        if (names.length !== 2) continue;
        expect(Buffer.compare(await member.bytes(), members[1]![1])).toBe(0);
        await truncate(path, 8 * 2 ** 20);
      }
    };
    await expect(all()).rejects.toThrow(
      /large\.tar is damaged or no tar; the last member found is 7\.bin: .*truncated/,
    );
    expect(names).toEqual(["0.bin", "1.bin", "2.bin", "3.bin", "4.bin", "5.bin", "6.bin", "7.bin"]);
  });
});
