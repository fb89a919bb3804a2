import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { float32 } from "../../core/host-tensor.ts";
import { type HostImage, hostImage } from "../../io/index.ts";
import { type Box, blackAndWhite, cropped, feathered, paintedBox } from "./mask.ts";
import { pasted } from "./paste.ts";

/** A black mask with a white box. */
function maskWith(width: number, height: number, box: Box): HostImage {
  const data = new Uint8Array(width * height);
  for (let y = box.top; y < box.top + box.height; y++)
    data.fill(255, y * width + box.left, y * width + box.left + box.width);
  return hostImage(width, height, 1, data);
}

const noisy = (width: number, height: number, channels: 1 | 3) =>
  hostImage(
    width,
    height,
    channels,
    Uint8Array.from({ length: width * height * channels }, (_, i) => (i * 7919) % 251),
  );

const gray = (side: number, value: number) => hostImage(side, side, 1, new Uint8Array(side * side).fill(value));

describe("the box around what a mask paints", () => {
  test("has room on all sides and the proportions that are drawn", () => {
    const mask = maskWith(100, 80, { left: 40, top: 30, width: 10, height: 6 });
    expect(paintedBox(mask, { padding: 4, size: [64, 64] })).toEqual({ left: 36, top: 24, width: 18, height: 18 });
    expect(paintedBox(mask, { padding: 0, size: [32, 64] })).toEqual({ left: 39, top: 30, width: 12, height: 6 });
    // At an edge it moves inwards.
    const corner = maskWith(100, 80, { left: 97, top: 0, width: 3, height: 20 });
    expect(paintedBox(corner, { padding: 0, size: [64, 64] })).toEqual({ left: 80, top: 0, width: 20, height: 20 });
    // What is wider than the picture reaches evenly beyond it.
    const wide = maskWith(100, 20, { left: 0, top: 5, width: 100, height: 2 });
    expect(paintedBox(wide, { padding: 3, size: [64, 64] })).toEqual({ left: 0, top: -40, width: 100, height: 100 });
  });

  test("holds all of the paint and, where it fits, lies inside the picture", () => {
    const side = (most: number) => fc.integer({ min: 1, max: most });
    const cases = fc.record({
      w: side(60),
      h: side(60),
      padding: side(20),
      width: side(9),
      height: side(9),
      seed: side(1e6),
    });
    fc.assert(
      fc.property(cases, ({ w, h, padding, width, height, seed }) => {
        const tight = { left: seed % w, top: (seed >> 3) % h };
        const own = { ...tight, width: 1 + (seed % (w - tight.left)), height: 1 + (seed % (h - tight.top)) };
        const box = paintedBox(maskWith(w, h, own), { padding, size: [height * 8, width * 8] });
        expect(box.left).toBeLessThanOrEqual(own.left);
        expect(box.top).toBeLessThanOrEqual(own.top);
        expect(box.left + box.width).toBeGreaterThanOrEqual(own.left + own.width);
        expect(box.top + box.height).toBeGreaterThanOrEqual(own.top + own.height);
        // One side follows from the other, rounded.
        const exact = [Math.round((box.height * width) / height), Math.round((box.width * height) / width)];
        expect(box.width === exact[0] || box.height === exact[1]).toBe(true);
        if (box.width <= w) expect([box.left >= 0, box.left + box.width <= w]).toEqual([true, true]);
        if (box.height <= h) expect([box.top >= 0, box.top + box.height <= h]).toEqual([true, true]);
      }),
    );
  });

  test("is not there for a mask that paints nothing", () => {
    const mask = hostImage(4, 4, 1, new Uint8Array(16));
    expect(() => paintedBox(mask, { padding: 0, size: [8, 8] })).toThrow(/black everywhere/);
  });
});

test("a crop repeats the last pixels beyond the edges", () => {
  const image = hostImage(2, 2, 1, Uint8Array.of(1, 2, 3, 4));
  const { data } = cropped(image, { left: -1, top: -1, width: 4, height: 4 });
  expect([...data]).toEqual([1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]);
});

test("a feather shows all inside the mask, fades out like a Gaussian beside it, and ends", async () => {
  const mask = maskWith(81, 41, { left: 0, top: 0, width: 40, height: 41 });
  const share = await feathered(mask, 4);
  const row = Array.from(share.data.subarray(20 * 81, 21 * 81), (value) => value / 255);
  expect(row.slice(0, 40).every((value) => value === 1)).toBe(true);
  // Twice the tail of a normal distribution, whose edge lies half a pixel before the first black one.
  for (let distance = 1; distance < 10; distance++) {
    const z = (distance - 0.5) / 4;
    expect(Math.abs(row[39 + distance]! - 2 * tail(z))).toBeLessThan(0.03);
  }
  expect(row.slice(60).every((value) => value === 0)).toBe(true);
  expect(await feathered(mask, 0)).toBe(mask);
});

/** 1 − Φ(z), by Simpson's rule. */
function tail(z: number): number {
  const density = (x: number) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
  const step = (8 - z) / 1000;
  let sum = density(z) + density(8);
  for (let i = 1; i < 1000; i++) sum += density(z + i * step) * (i % 2 === 1 ? 4 : 2);
  return (sum * step) / 3;
}

describe("pasting", () => {
  const original = noisy(20, 16, 3);

  test("keeps every byte where nothing of what was drawn shows, and only these", async () => {
    const box = { left: 5, top: 4, width: 8, height: 8 };
    const share = maskWith(8, 8, { left: 0, top: 0, width: 4, height: 8 });
    const drawn = float32([3, 8, 8], new Float32Array(192).fill(0.5));
    const { image, float } = await pasted(drawn, { original, box, share });
    for (let i = 0; i < 20 * 16; i++) {
      const [x, y] = [i % 20, Math.floor(i / 20)];
      const fresh = x >= 5 && x < 9 && y >= 4 && y < 12;
      const kept = [...original.data.subarray(3 * i, 3 * i + 3)];
      expect([...image.data.subarray(3 * i, 3 * i + 3)]).toEqual(fresh ? [128, 128, 128] : kept);
      for (let c = 0; c < 3; c++) {
        expect(float.data[c * 320 + i]).toBeCloseTo(fresh ? 0.5 : kept[c]! / 255, 6);
      }
    }
  });

  test("blends by the share, scales to the box, and leaves out what lies beyond the picture", async () => {
    const box = { left: -6, top: 10, width: 12, height: 12 };
    const white = float32([3, 4, 4], new Float32Array(48).fill(1));
    const { image } = await pasted(white, { original, box, share: gray(12, 51) });
    for (let i = 0; i < 20 * 16; i++) {
      const inside = i % 20 < 6 && Math.floor(i / 20) >= 10;
      for (let c = 0; c < 3; c++) {
        const before = original.data[3 * i + c]!;
        const after = inside ? Math.round(0.2 * 255 + 0.8 * before) : before;
        expect(Math.abs(image.data[3 * i + c]! - after)).toBeLessThanOrEqual(inside ? 1 : 0);
      }
    }
  });

  test("of a crop that was not changed gives the picture back", async () => {
    const box = { left: 2, top: 3, width: 10, height: 10 };
    const crop = cropped(original, box);
    const planes = float32(
      [3, 10, 10],
      Float32Array.from({ length: 300 }, (_, i) => crop.data[(i % 100) * 3 + Math.floor(i / 100)]! / 255),
    );
    const { image } = await pasted(planes, { original, box, share: gray(10, 255) });
    expect(image.data).toEqual(original.data);
  });
});

test("masks become black and white at half gray", () => {
  expect([...blackAndWhite(hostImage(4, 1, 1, Uint8Array.of(0, 127, 128, 255))).data]).toEqual([0, 0, 255, 255]);
});
