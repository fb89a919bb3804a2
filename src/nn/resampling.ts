import { avgPool, matmul, pad, slice, type Tensor, upsampleNearest, values } from "../graph/index.ts";
import { conv2d } from "./layers.ts";
import { module } from "./module.ts";

/**
 * Halves height and width: by a 3×3 convolution with stride 2, or (`conv: false`) by means over 2×2 pixels. Padding 0
 * adds one row and column of zeros at the bottom and the right only, as the autoencoders do.
 */
export function downsample(
  channels: number,
  { conv = true, outputs = channels, padding = 1 }: { conv?: boolean; outputs?: number; padding?: number } = {},
) {
  const sides = padding === 0 ? ([0, 0, 1, 1] as const) : padding;
  const parts = { conv: conv ? conv2d(channels, outputs, { kernel: 3, stride: 2, padding: sides }) : undefined };
  return module(parts, (x: Tensor) => {
    if (parts.conv) return parts.conv(x);
    const [h, w] = x.shape.slice(2) as [number, number];
    // An odd last row or column is left out.
    return avgPool(slice(slice(x, 2, 0, h - (h % 2)), 3, 0, w - (w % 2)), 2);
  });
}

/**
 * Doubles height and width by repeating pixels (or brings them to a given size), then a 3×3 convolution unless
 * `conv: false`.
 */
export function upsample(
  channels: number,
  { conv = true, outputs = channels }: { conv?: boolean; outputs?: number } = {},
) {
  const parts = { conv: conv ? conv2d(channels, outputs, { kernel: 3, padding: 1 }) : undefined };
  return module(parts, (x: Tensor, size?: readonly [number, number]) => {
    const larger = size ? resizeNearest(x, size) : upsampleNearest(x, 2);
    return parts.conv ? parts.conv(larger) : larger;
  });
}

/** x [n, c, h, w] brought to `size` by taking pixel ⌊i·old/new⌋ along each axis. */
export function resizeNearest(x: Tensor, [height, width]: readonly [number, number]): Tensor {
  const [h, w] = x.shape.slice(2) as [number, number];
  // One less than double happens after halving an odd size: then it is doubling and cutting the last row or column.
  const doubles = (to: number, from: number) => to === 2 * from || to === 2 * from - 1;
  if (doubles(height, h) && doubles(width, w)) {
    return pad(upsampleNearest(x, 2), [
      [0, 0],
      [0, 0],
      [0, height - 2 * h],
      [0, width - 2 * w],
    ]);
  }
  return matmul(selection(height, h), matmul(x, selection(width, w), { transB: true }));
}

/** The matrix [to, from] with a one at ⌊i·from/to⌋ in row i. */
function selection(to: number, from: number): Tensor {
  const matrix = new Float32Array(to * from);
  for (let i = 0; i < to; i++) matrix[i * from + Math.floor((i * from) / to)] = 1;
  return values([to, from], matrix);
}
