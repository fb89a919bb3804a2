import { expect, test } from "vitest";
import { float32 } from "../core/host-tensor.ts";
import { assemblePatches, splitPatches } from "./index.ts";

test("patches go to channels as pixel_unshuffle has them, and back", () => {
  // Two images of two channels, 4×6 pixels, numbered.
  const x = float32(
    [2, 2, 4, 6],
    Float32Array.from({ length: 96 }, (_, i) => i),
  );
  const split = splitPatches(x, 2);
  expect(split.shape).toEqual([2, 8, 2, 3]);
  // The first channel holds the top left pixel of each square, the second the one to its right, the third the one below.
  expect([...split.data.subarray(0, 6)]).toEqual([0, 2, 4, 12, 14, 16]);
  expect([...split.data.subarray(6, 12)]).toEqual([1, 3, 5, 13, 15, 17]);
  expect([...split.data.subarray(12, 18)]).toEqual([6, 8, 10, 18, 20, 22]);
  expect([...split.data.subarray(24, 26)]).toEqual([24, 26]);
  expect(assemblePatches(split, 2)).toEqual(x);
});
