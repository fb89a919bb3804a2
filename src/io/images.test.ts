import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { UserError } from "../core/errors.ts";
import { float32 } from "../core/host-tensor.ts";
import { hostImage, imagesFromTensor, tensorFromImages, toByte } from "./host-image.ts";
import { imageGrid, saveAnimation, saveGrid } from "./image-grid.ts";
import { decodeImage, encodeImage, saveImage } from "./images.ts";
import { pngText } from "./png-text.ts";
import { terminalImage } from "./terminal-image.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-images-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** An image in which every pixel differs: red grows to the right, green downwards. */
function ramp(width: number, height: number) {
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => {
    const pixel = Math.floor(i / 3);
    return [(pixel % width) * 9, Math.floor(pixel / width) * 9, 77][i % 3]!;
  });
  return hostImage(width, height, 3, data);
}

const raw = (width: number, height: number, channels: 1 | 2 | 3 | 4) => ({ raw: { width, height, channels } });

describe("decoding", () => {
  it("reads PNG, lossless WebP and GIF exactly, AVIF and JPEG closely, whatever the name", async () => {
    const image = ramp(24, 16);
    const pipeline = () => sharp(image.data, raw(24, 16, 3));
    for (const [bytes, tolerance] of [
      [await pipeline().png().toBuffer(), 0],
      [await pipeline().webp({ lossless: true }).toBuffer(), 0],
      [await pipeline().gif({ colours: 256, dither: 0 }).toBuffer(), 12],
      [await pipeline().avif({ quality: 95, chromaSubsampling: "4:4:4" }).toBuffer(), 12],
      [await pipeline().jpeg({ quality: 100, chromaSubsampling: "4:4:4" }).toBuffer(), 4],
    ] as const) {
      const decoded = await decodeImage(bytes);
      expect([decoded.width, decoded.height, decoded.channels]).toEqual([24, 16, 3]);
      const worst = decoded.data.reduce((most, value, i) => Math.max(most, Math.abs(value - image.data[i]!)), 0);
      expect(worst).toBeLessThanOrEqual(tolerance);
    }
  });

  it("takes the first frame of an animation", async () => {
    const path = join(folder, "two.gif");
    const plain = (value: number) => hostImage(8, 8, 3, new Uint8Array(192).fill(value));
    await saveAnimation(path, [plain(200), plain(10)]);
    const decoded = await decodeImage(path);
    expect([decoded.width, decoded.height, decoded.data[0]]).toEqual([8, 8, 200]);
  });

  it("shows the chosen colour behind transparent pixels, also in 16 bits", async () => {
    // Opaque, clear, half: red 200.
    const eight = await sharp(Uint8Array.of(200, 0, 0, 255, 200, 0, 0, 0, 200, 0, 0, 128), raw(3, 1, 4))
      .png()
      .toBuffer();
    expect([...(await decodeImage(eight, { background: "#ffffff" })).data]).toEqual([
      200, 0, 0, 255, 255, 255, 227, 127, 127,
    ]);
    expect([...(await decodeImage(eight, { background: "#0000ff" })).data.subarray(3, 6)]).toEqual([0, 0, 255]);
    expect([...(await decodeImage(eight, { background: "ignore" })).data]).toEqual([200, 0, 0, 200, 0, 0, 200, 0, 0]);
    const deep = await sharp(Uint16Array.of(51400, 0, 0, 65535, 51400, 0, 0, 0, 51400, 0, 0, 32768), raw(3, 1, 4))
      .toColourspace("rgb16")
      .png()
      .toBuffer();
    expect((await sharp(deep).metadata()).depth).toBe("ushort");
    expect([...(await decodeImage(deep, { background: "white" })).data]).toEqual([
      200, 0, 0, 255, 255, 255, 227, 127, 127,
    ]);
  });

  it("turns images upright in all eight EXIF orientations, by both ways of decoding", async () => {
    const stored = ramp(6, 4);
    const alpha = Uint8Array.from({ length: 96 }, (_, i) =>
      i % 4 === 3 ? 255 : stored.data[Math.floor(i / 4) * 3 + (i % 4)]!,
    );
    for (let orientation = 1; orientation <= 8; orientation++) {
      const bytes = await sharp(alpha, raw(6, 4, 4))
        .withMetadata({ orientation })
        .png()
        .toBuffer();
      const blended = await decodeImage(bytes);
      const own = await decodeImage(bytes, { background: "ignore" });
      expect(own).toEqual(blended);
      expect(own.original).toEqual({ width: own.width, height: own.height });
      // Where the stored top left corner is seen (TIFF 6.0, tag 274).
      const [x, y] = [
        [0, 0],
        [5, 0],
        [5, 3],
        [0, 3],
        [0, 0],
        [3, 0],
        [3, 5],
        [0, 5],
      ][orientation - 1]!;
      const pixel = (y! * own.width + x!) * 3;
      expect([...own.data.subarray(pixel, pixel + 3)]).toEqual([0, 0, 77]);
      expect((await decodeImage(bytes, { upright: false })).data).toEqual(stored.data);
    }
  });

  it("fills the wanted size and cuts the middle out", async () => {
    // Left and right thirds red, the middle third green.
    const data = Uint8Array.from({ length: 30 * 10 * 3 }, (_, i) => {
      const x = Math.floor(i / 3) % 30;
      return (x >= 10 && x < 20 ? [0, 255, 0] : [255, 0, 0])[i % 3]!;
    });
    const png = await sharp(data, raw(30, 10, 3))
      .png()
      .toBuffer();
    const square = await decodeImage(png, { size: 10 });
    expect([square.width, square.height, square.original]).toEqual([10, 10, { width: 30, height: 10 }]);
    expect([...square.data.subarray(15, 18)]).toEqual([0, 255, 0]);
    const wide = await decodeImage(png, { size: { width: 12, height: 8 }, channels: 1 });
    expect([wide.width, wide.height, wide.data.length]).toEqual([12, 8, 96]);
  });

  it("makes gray of colours by luma and keeps gray as it is", async () => {
    const colours = await sharp(Uint8Array.of(255, 0, 0, 0, 255, 0, 0, 0, 255), raw(3, 1, 3))
      .png()
      .toBuffer();
    expect([...(await decodeImage(colours, { channels: 1 })).data]).toEqual([76, 150, 29]);
    const values = Uint8Array.from({ length: 256 }, (_, i) => i);
    const gray = await sharp(values, raw(256, 1, 1))
      .toColourspace("b-w")
      .png()
      .toBuffer();
    expect((await decodeImage(gray, { channels: 1 })).data).toEqual(values);
  });

  it("refuses by name what is no image, another format, a bad size or colour", async () => {
    await expect(decodeImage(join(folder, "none.png"))).rejects.toThrow(/There is no file .*none\.png/);
    const path = join(folder, "a.svg");
    await writeFile(path, '<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>');
    await expect(decodeImage(path)).rejects.toThrow(/a\.svg is a SVG image; PNG, JPEG, WebP, AVIF and GIF/);
    await writeFile(path, "not an image");
    await expect(decodeImage(path)).rejects.toBeInstanceOf(UserError);
    const png = await encodeImage(ramp(2, 2), "png");
    await expect(decodeImage(png, { size: 0 })).rejects.toThrow(/size of 0×0/);
    await expect(decodeImage(png, { background: "mauve" })).rejects.toThrow(/"mauve" is no colour/);
    await expect(decodeImage(png.subarray(0, 60), { name: "cut.png" })).rejects.toThrow(/cut\.png cannot be decoded/);
  });
});

describe("writing", () => {
  it("keeps pixels in PNG and WebP of quality 100, gray as one channel", async () => {
    const gray = hostImage(
      16,
      16,
      1,
      Uint8Array.from({ length: 256 }, (_, i) => i),
    );
    for (const name of ["a.png", "a.webp"]) {
      const path = join(folder, name);
      await saveImage(path, gray, { quality: 100 });
      expect((await decodeImage(path, { channels: 1 })).data).toEqual(gray.data);
    }
    expect((await sharp(join(folder, "a.png")).metadata()).channels).toBe(1);
    await expect(saveImage(join(folder, "a.bmp"), gray)).rejects.toThrow(/accepted extensions are/);
  });

  it("keeps notes in the file", async () => {
    const text = { parameters: '{"prompt":"ein Löwe 🦁","seed":7}', Software: "allegory" };
    const png = await encodeImage(ramp(4, 4), "png", { text });
    expect(pngText(png)).toEqual(text);
    expect((await decodeImage(png)).data).toEqual(ramp(4, 4).data);
    // libpng checks the chunks' CRC; sharp shows them as comments.
    expect((await sharp(png).metadata()).comments?.map((comment) => comment.text)).toEqual(Object.values(text));
    for (const format of ["jpeg", "webp"] as const) {
      const { exif } = await sharp(await encodeImage(ramp(4, 4), format, { text: { seed: "7" } })).metadata();
      expect(exif!.toString("latin1")).toContain('{"seed":"7"}');
    }
    await expect(encodeImage(ramp(4, 4), "png", { text: { "": "x" } })).rejects.toThrow(/PNG keyword/);
  });

  it("lays a grid out row by row with gaps, scaled by whole pixels", async () => {
    const images = [10, 20, 30].map((value) => hostImage(2, 2, 1, new Uint8Array(4).fill(value)));
    const grid = await imageGrid(images, { columns: 2, gap: 1, background: "black", scale: 2 });
    expect([grid.width, grid.height, grid.channels]).toEqual([11, 11, 1]);
    const rows = Array.from({ length: 11 }, (_, y) => [...grid.data.subarray(y * 11, y * 11 + 11)]);
    const blank = new Array(11).fill(0);
    const first = [0, 10, 10, 10, 10, 0, 20, 20, 20, 20, 0];
    const second = [0, 30, 30, 30, 30, 0, 0, 0, 0, 0, 0];
    expect(rows).toEqual([blank, first, first, first, first, blank, second, second, second, second, blank]);
    const path = join(folder, "grid.png");
    await saveGrid(path, images, { columns: 2, gap: 1, background: "black", scale: 2 });
    expect((await decodeImage(path, { channels: 1 })).data).toEqual(grid.data);
  });

  it("puts labels under the images and leaves the images as they are", async () => {
    const images = [ramp(40, 20), ramp(40, 20)];
    const grid = await imageGrid(images, { gap: 2, labels: ["a < b", "&"] });
    expect([grid.width, grid.height]).toEqual([86, 40]);
    for (let y = 0; y < 20; y++) {
      const from = ((y + 2) * 86 + 44) * 3;
      expect(grid.data.slice(from, from + 120)).toEqual(images[1]!.data.slice(y * 120, y * 120 + 120));
    }
    await expect(imageGrid(images, { labels: ["a"] })).rejects.toThrow(/1 labels were given for 2 images/);
    await expect(imageGrid([images[0]!, ramp(3, 3)])).rejects.toThrow(/image 1 is 3×3/);
    await expect(imageGrid([])).rejects.toThrow(/at least one/);
    await expect(imageGrid(images, { columns: 0 })).rejects.toThrow(/columns of a grid is 0/);
  });

  it("writes animations with every frame and its time", async () => {
    const frames = [0, 80, 160, 240].map((value) => hostImage(8, 6, 1, new Uint8Array(48).fill(value)));
    for (const name of ["a.gif", "b.webp"]) {
      const path = join(folder, name);
      await saveAnimation(path, frames, { fps: 10, hold: 1 });
      const metadata = await sharp(path, { animated: true }).metadata();
      expect([metadata.pages, metadata.width, metadata.pageHeight, metadata.loop]).toEqual([4, 8, 6, 0]);
      expect(metadata.delay).toEqual([100, 100, 100, 1100]);
      const { data } = await sharp(path, { animated: true }).removeAlpha().raw().toBuffer({ resolveWithObject: true });
      [0, 80, 160, 240].forEach((value, n) => {
        expect(Math.abs(data[n * 144]! - value)).toBeLessThanOrEqual(3);
      });
    }
    await expect(saveAnimation(join(folder, "a.mp4"), frames)).rejects.toThrow(/\.gif and \.webp/);
    await expect(saveAnimation(join(folder, "a.gif"), frames, { fps: 0 })).rejects.toThrow(/fps is 0/);
    expect((await readFile(join(folder, "a.gif"))).subarray(0, 6).toString()).toBe("GIF89a");
  });
});

describe("images and tensors", () => {
  it("round half to even and clamp", () => {
    expect([-1, 1, -7, 7, 0, Number.NaN].map(toByte)).toEqual([0, 255, 0, 255, 128, 0]);
    // 255 * (x / 2 + 0.5) is exactly 0.5, 1.5 and 63.75 for these.
    expect([-1 + 1 / 255, -0.5].map(toByte)).toEqual([0, 64]);
    for (let byte = 0; byte < 256; byte++) expect(toByte(Math.fround(byte / 127.5) - 1)).toBe(byte);
  });

  it("turn from planes to pixels and back without loss", () => {
    const images = [ramp(5, 3), ramp(5, 3)];
    const tensor = tensorFromImages(images);
    expect(tensor.shape).toEqual([2, 3, 3, 5]);
    // Blue is 77 everywhere: the third plane.
    expect(new Set(tensor.data.subarray(30, 45))).toEqual(new Set([Math.fround(Math.fround(77 / 127.5) - 1)]));
    expect(imagesFromTensor(tensor)).toEqual(images);
    expect(() => imagesFromTensor(float32([1, 2, 1, 1], [0, 0]))).toThrow(/\[1, 2, 1, 1\] cannot be shown/);
  });
});

describe("images in the terminal", () => {
  it("show two pixels a character in colour", () => {
    const image = hostImage(1, 2, 3, Uint8Array.of(1, 2, 3, 4, 5, 6));
    expect(terminalImage(image)).toBe("\x1b[38;2;1;2;3;48;2;4;5;6m▀\x1b[0m");
    const odd = hostImage(1, 1, 1, Uint8Array.of(255));
    expect(terminalImage(odd)).toBe("\x1b[38;2;255;255;255;49m▀\x1b[0m");
    expect(terminalImage(hostImage(1, 2, 3, Uint8Array.of(255, 0, 0, 128, 128, 128)), { colour: "256" })).toBe(
      "\x1b[38;5;196;48;5;244m▀\x1b[0m",
    );
  });

  it("keep to the width and average what they leave out", () => {
    const columns = hostImage(4, 2, 1, Uint8Array.of(0, 100, 200, 200, 100, 0, 200, 200));
    const text = terminalImage(columns, { columns: 2 });
    expect(text).toBe("\x1b[38;2;50;50;50;49m▀\x1b[38;2;200;200;200;49m▀\x1b[0m");
    const wide = terminalImage(ramp(200, 100), { columns: 60, colour: "none" }).split("\n");
    expect(wide.length).toBe(15);
    for (const line of wide) expect([...line].length).toBe(60);
  });

  it("show shades from blank to full without colour", () => {
    const image = hostImage(5, 2, 1, Uint8Array.of(0, 60, 130, 190, 255, 0, 60, 130, 190, 255));
    expect(terminalImage(image, { colour: "none" })).toBe(" ░▒▓█");
  });
});
