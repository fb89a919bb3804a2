import { expect, test } from "vitest";
import { float32 } from "../core/host-tensor.ts";
import { heatMap } from "./heat-map.ts";
import { hostImage } from "./host-image.ts";

const pixel = (image: { readonly data: Uint8Array; readonly width: number }, x: number, y: number) => [
  ...image.data.subarray((y * image.width + x) * 3, (y * image.width + x) * 3 + 3),
];

test("a heat map goes from black by red and yellow to white", async () => {
  const map = float32([1, 4], Float32Array.of(0, 1 / 3, 2 / 3, 1));
  const image = await heatMap(map, { width: 4, height: 1 });
  expect([0, 1, 2, 3].map((x) => pixel(image, x, 0))).toEqual([
    [0, 0, 0],
    [255, 0, 0],
    [255, 255, 0],
    [255, 255, 255],
  ]);
  // The same map, a third as bright.
  expect(pixel(await heatMap(map, { width: 4, height: 1, maximum: 3 }), 3, 0)).toEqual([255, 0, 0]);
  expect([...(await heatMap(float32([2, 2], new Float32Array(4)), { width: 3, height: 3 })).data]).toEqual(
    Array(27).fill(0),
  );
});

test("a heat map is smooth in any size, and lets a picture shine through in gray", async () => {
  const map = float32([2, 2], Float32Array.of(0, 1, 0, 1));
  const image = await heatMap(map, { width: 16, height: 8 });
  const reds = Array.from({ length: 16 }, (_, x) => pixel(image, x, 4)[0]!);
  expect([reds[0], reds[15]]).toEqual([0, 255]);
  expect(reds.every((value, i) => i === 0 || value >= reds[i - 1]!)).toBe(true);
  const over = hostImage(
    16,
    8,
    3,
    Uint8Array.from({ length: 384 }, (_, i) => (i % 3 === 1 ? 200 : 0)),
  );
  const mixed = await heatMap(map, { width: 16, height: 8, over });
  const gray = Math.round(0.5 * 200 * 0.587);
  expect(pixel(mixed, 0, 4)).toEqual([gray, gray, gray]);
  expect(pixel(mixed, 15, 4)).toEqual([255, 255, 255]);
});
