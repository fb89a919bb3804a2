import fc from "fast-check";
import { expect, test } from "vitest";
import { float32, type HostTensor } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { inTiles } from "./tiles.ts";

type Image = HostTensor<"float32">;

/** Every pixel repeated 2 × 2 times. */
function doubled({ shape, data }: Image): Image {
  const [n, c, h, w] = shape as [number, number, number, number];
  const pixels = Float32Array.from({ length: n * c * h * w * 4 }, (_, i) => {
    const plane = Math.floor(i / (4 * h * w));
    const row = Math.floor((i % (4 * h * w)) / (2 * w) / 2);
    return data[(plane * h + row) * w + Math.floor((i % (2 * w)) / 2)]!;
  });
  return float32([n, c, 2 * h, 2 * w], pixels);
}

const difference = (a: Image, b: Image) => {
  expect(a.shape).toEqual(b.shape);
  return a.data.reduce((most, x, i) => Math.max(most, Math.abs(x - b.data[i]!)), 0);
};

test("what works pixel by pixel gives the same in tiles, for any size, tile and overlap", async () => {
  const cases = fc.record({
    h: fc.integer({ min: 1, max: 40 }),
    w: fc.integer({ min: 1, max: 40 }),
    tile: fc.integer({ min: 2, max: 17 }),
    share: fc.double({ min: 0, max: 0.9, noNaN: true }),
  });
  await fc.assert(
    fc.asyncProperty(cases, async ({ h, w, tile, share }) => {
      const x = seeded(1).normal([2, 3, h, w]);
      const result = await inTiles(x, async (each) => doubled(each), { tile, overlap: Math.floor(tile * share) });
      expect(difference(result, doubled(x))).toBeLessThan(1e-5);
    }),
    { numRuns: 200 },
  );
});

test("all tiles have one shape, and a small image is one tile", async () => {
  const shapes: string[] = [];
  const run = async (tile: Image) => {
    shapes.push(String(tile.shape));
    return tile;
  };
  await inTiles(seeded(1).normal([1, 2, 20, 33]), run, { tile: 16, overlap: 4 });
  expect(shapes).toEqual(Array(6).fill("1,2,16,16"));
  shapes.length = 0;
  await inTiles(seeded(1).normal([1, 2, 9, 16]), run, { tile: 16, overlap: 4 });
  expect(shapes).toEqual(["1,2,9,16"]);
});

test("an encoder's tiles start on its grid", async () => {
  const x = float32(
    [1, 1, 24, 8],
    Float32Array.from({ length: 192 }, (_, i) => Math.floor(i / 8)),
  );
  // Takes every fourth row and column: right only where tiles start at multiples of 4.
  const quarter = async ({ shape, data }: Image) => {
    const [, , h, w] = shape as [number, number, number, number];
    const size = [h / 4, w / 4] as const;
    const pixels = Array.from({ length: size[0] * size[1] }, (_, i) => data[Math.floor(i / size[1]) * 4 * w]!);
    return float32([1, 1, ...size], pixels);
  };
  const result = await inTiles(x, quarter, { tile: 12, overlap: 3, multiple: 4 });
  expect([...result.data]).toEqual([0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20]);
});

test("between tiles that disagree the result goes over from one to the other", async () => {
  let count = 0;
  const run = async ({ shape }: Image) => float32(shape, new Float32Array(shape[2]! * shape[3]!).fill(count++));
  const { data } = await inTiles(seeded(1).normal([1, 1, 1, 12]), run, { tile: 8, overlap: 4 });
  const row = [...data];
  expect(row.slice(0, 4)).toEqual([0, 0, 0, 0]);
  expect(row.slice(8)).toEqual([1, 1, 1, 1]);
  expect(row.slice(4, 8)).toEqual([0.125, 0.375, 0.625, 0.875]);
});

test("impossible tiles are refused", async () => {
  const run = async (tile: Image) => tile;
  const x = seeded(1).normal([1, 1, 9, 9]);
  await expect(inTiles(x, run, { tile: 4, overlap: 4 })).rejects.toThrow(/overlap must be less/);
  await expect(inTiles(x, run, { tile: 4, overlap: 1, multiple: 4 })).rejects.toThrow(/not a multiple of 4/);
});
