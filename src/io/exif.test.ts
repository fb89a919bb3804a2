import sharp from "sharp";
import { describe, expect, test } from "vitest";
import { exifBlock, exifTexts, withExifBlock } from "./exif.ts";
import { hostImage } from "./host-image.ts";
import { decodeImage, encodeImage, imageText } from "./images.ts";

const image = hostImage(
  6,
  5,
  3,
  Uint8Array.from({ length: 90 }, (_, i) => (i * 29) % 256),
);
const parameters = "ein Löwe, 🦁 (sitting:1.2)\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, Seed: 7";
const notes = { parameters, allegory: JSON.stringify({ request: { prompt: "ein Löwe, 🦁" } }), other: "x" };

describe.each(["jpeg", "webp"] as const)("in %s files", (format) => {
  test("notes come back, and the picture is that of a file without them", async () => {
    const [plain, noted] = [await encodeImage(image, format), await encodeImage(image, format, { text: notes })];
    expect(await imageText(noted)).toEqual(notes);
    expect(await imageText(plain)).toEqual({});
    expect((await decodeImage(noted)).data).toEqual((await decodeImage(plain)).data);
  });

  test("the parameters are the user comment, in big-endian UTF-16", async () => {
    const bytes = Buffer.from(await encodeImage(image, format, { text: notes }));
    const { exif } = await sharp(bytes).metadata();
    const comment = Buffer.concat([Buffer.from("UNICODE\0"), Buffer.from(parameters, "utf16le").swap16()]);
    expect(exif!.includes(comment)).toBe(true);
    // The other notes are escaped: a description is ASCII.
    expect(exifTexts(exif!).description).toMatch(/^[\x20-\x7e]+$/);
  });

  test("comments of other programs are read as they are, whatever their order of bytes", async () => {
    for (const [text, name] of [
      [parameters, "parameters"],
      ["Screenshot", "UserComment"],
    ] as const) {
      const little = littleEndian(Buffer.concat([Buffer.from("UNICODE\0"), Buffer.from(text, "utf16le")]));
      const plain = await encodeImage(image, format, { text: { allegory: "{}" } });
      expect(await imageText(withExifBlock(plain, format, little))).toEqual({ [name]: text });
    }
    const written = littleEndian(Buffer.from("ASCII\0\0\0a cat\nSteps: 3"));
    expect(exifTexts(written)).toEqual({ comment: "a cat\nSteps: 3" });
  });
});

test("texts of any length stand where their directory says", () => {
  for (const description of [undefined, "", "abc", "abcd", "a longer one"]) {
    for (const comment of [undefined, "", "é", "comment"]) {
      const block = exifBlock({ description, comment });
      expect(exifTexts(block)).toEqual({
        ...(description === undefined ? {} : { description }),
        ...(comment === undefined ? {} : { comment }),
      });
      expect(exifTexts(Buffer.concat([Buffer.from("Exif\0\0"), block]))).toEqual(exifTexts(block));
    }
  }
});

test("a damaged block says nothing, or what is left of it", () => {
  const block = exifBlock({ description: "a description", comment: "a comment" });
  for (let length = 0; length < block.length; length++) {
    const { description = "a description", comment = "a comment" } = exifTexts(block.subarray(0, length));
    expect([description, comment]).toEqual(["a description", "a comment"]);
  }
});

test("what does not fit into a JPEG file is refused, and fits into WebP", async () => {
  const text = { parameters: "a".repeat(40_000) };
  await expect(encodeImage(image, "jpeg", { text })).rejects.toThrow(
    /take \d+ bytes; it has room for 65535.\nWrite a PNG/,
  );
  expect(await imageText(await encodeImage(image, "webp", { text }))).toEqual({ UserComment: text.parameters });
});

/** A little-endian TIFF with a user comment, as some programs write it. */
function littleEndian(comment: Buffer): Uint8Array {
  const bytes = Buffer.alloc(8 + 18 + 18);
  bytes.write("II*\0", "latin1");
  bytes.writeUInt32LE(8, 4);
  const entry = (at: number, tag: number, type: number, count: number, value: number) => {
    bytes.writeUInt16LE(1, at);
    bytes.writeUInt16LE(tag, at + 2);
    bytes.writeUInt16LE(type, at + 4);
    bytes.writeUInt32LE(count, at + 6);
    bytes.writeUInt32LE(value, at + 10);
  };
  entry(8, 0x8769, 4, 1, 26);
  entry(26, 0x9286, 7, comment.length, 44);
  return Buffer.concat([bytes, comment]);
}
