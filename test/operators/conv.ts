import { float32, type HostTensor } from "../../src/core/host-tensor.ts";
import { avgPool, type ConvOptions, conv2d, maxPool, operators, upsampleNearest } from "../../src/graph/index.ts";
import { apply } from "../../src/graph/tensor.ts";
import { type Array64, element, tabulate } from "./array64.ts";
import { inputs, type Sample, type Samples, sample } from "./sample.ts";

const { uniform, distinct } = inputs(7);
type Four = readonly [number, number, number, number];

interface Window {
  readonly stride: readonly [number, number];
  /** Top, left, bottom, right. */
  readonly padding: Four;
  readonly groups: number;
}

const windowOf = ({ stride = 1, padding = 0, groups = 1 }: ConvOptions): Window => ({
  stride: typeof stride === "number" ? [stride, stride] : stride,
  padding: typeof padding === "number" ? [padding, padding, padding, padding] : padding,
  groups,
});

/** Calls `visit` with the offsets of y, x and w for every product y += x·w of a convolution. */
function everyProduct(
  [n, c, h, width]: Four,
  [o, perGroup, kh, kw]: Four,
  [outH, outW]: readonly [number, number],
  { stride, padding, groups }: Window,
  visit: (y: number, x: number, w: number) => void,
): void {
  for (let image = 0; image < n; image++)
    for (let out = 0; out < o; out++)
      for (let i = 0; i < outH; i++)
        for (let j = 0; j < outW; j++)
          for (let channel = 0; channel < perGroup; channel++)
            for (let u = 0; u < kh; u++)
              for (let v = 0; v < kw; v++) {
                const row = i * stride[0] + u - padding[0];
                const column = j * stride[1] + v - padding[1];
                if (row < 0 || row >= h || column < 0 || column >= width) continue;
                const source = Math.floor(out / (o / groups)) * perGroup + channel;
                visit(
                  ((image * o + out) * outH + i) * outW + j,
                  ((image * c + source) * h + row) * width + column,
                  ((out * perGroup + channel) * kh + u) * kw + v,
                );
              }
}

/** Cross-correlation: y[n, o, p] = bias[o] + Σ x[n, c, stride·p + (u, v) − padding]·w[o, c, u, v]. */
export const conv64 =
  (options: ConvOptions) =>
  (x: Array64, w: Array64, bias?: Array64): Array64 => {
    const window = windowOf(options);
    const { stride, padding } = window;
    const [n, , h, width] = x.shape as unknown as Four;
    const [o, , kh, kw] = w.shape as unknown as Four;
    const outH = Math.floor((h + padding[0] + padding[2] - kh) / stride[0]) + 1;
    const outW = Math.floor((width + padding[1] + padding[3] - kw) / stride[1]) + 1;
    const y = tabulate([n, o, outH, outW], ([, out]) => bias?.data[out!] ?? 0);
    everyProduct(x.shape as never, w.shape as never, [outH, outW], window, (i, j, k) => {
      y.data[i]! += x.data[j]! * w.data[k]!;
    });
    return y;
  };

/** What a convolution's output does to its input: x[n, c, q] = Σ y[n, o, p]·w[o, c, u, v] over q = stride·p + (u, v) − padding. */
const convTranspose64 =
  (options: ConvOptions, [h, width]: readonly [number, number]) =>
  (y: Array64, w: Array64): Array64 => {
    const window = windowOf(options);
    const [n, , outH, outW] = y.shape as unknown as Four;
    const x = tabulate([n, w.shape[1]! * window.groups, h, width], () => 0);
    everyProduct(x.shape as never, w.shape as never, [outH, outW], window, (i, j, k) => {
      x.data[j]! += y.data[i]! * w.data[k]!;
    });
    return x;
  };

function convolution(
  name: string,
  x: Four,
  w: Four,
  options: ConvOptions,
  more: { bias?: boolean; weights?: number[] } = {},
): Sample {
  const tensors: HostTensor[] = [uniform(x), uniform(w)];
  if (more.bias ?? true) tensors.push(uniform([w[0]]));
  return sample(
    name,
    tensors,
    (x, w, bias) => conv2d(x!, w!, bias, options),
    (x, w, bias) => conv64(options)(x!, w!, bias),
    { weights: more.weights },
  );
}

function transposed(name: string, y: Four, w: Four, size: readonly [number, number], options: ConvOptions): Sample {
  const operator = operators.get("convTranspose2d")!;
  return sample(
    name,
    [uniform(y), uniform(w)],
    (y, w) => apply(operator, [y!, w!], { ...windowOf(options), size }).outputs[0]!,
    convTranspose64(options, size),
  );
}

/** The gradient of a 3×3 convolution with padding 1 to its weights: dw = Σ dy·x over images and positions. */
function correlation(name: string, x: Four, outputs: number): Sample {
  const operator = operators.get("conv2dWeightGradient3x3")!;
  return sample(
    name,
    [uniform(x), uniform([x[0], outputs, x[2], x[3]])],
    (x, dy) => apply(operator, [x!, dy!], {}).outputs[0]!,
    (x, dy) => {
      const window = windowOf({ padding: 1 });
      const dw = tabulate([outputs, x!.shape[1]!, 3, 3], () => 0);
      everyProduct(x!.shape as never, dw.shape as never, [x!.shape[2]!, x!.shape[3]!], window, (i, j, k) => {
        dw.data[k]! += dy!.data[i]! * x!.data[j]!;
      });
      return dw;
    },
  );
}

const repeated = (factor: number) => (x: Array64) => {
  const [n, c, h, w] = x.shape as unknown as Four;
  return tabulate([n, c, h * factor, w * factor], ([i, j, row, column]) =>
    element(x, [i!, j!, Math.floor(row! / factor), Math.floor(column! / factor)]),
  );
};

/** `of` the pixels of each square; squares that the edge cuts are left out. */
const pooled = (factor: number, of: (square: number[]) => number) => (x: Array64) => {
  const [n, c, h, w] = x.shape as unknown as Four;
  return tabulate([n, c, Math.floor(h / factor), Math.floor(w / factor)], ([i, j, row, column]) => {
    const square: number[] = [];
    for (let u = 0; u < factor; u++)
      for (let v = 0; v < factor; v++) square.push(element(x, [i!, j!, row! * factor + u, column! * factor + v]));
    return of(square);
  });
};
const total = (square: number[]) => square.reduce((a, b) => a + b, 0);
const mean = (square: number[]) => total(square) / square.length;
const largest = (square: number[]) => Math.max(...square);

const tied = [3, 1, -1, -1, 2, 3, -1, -1];

export const conv: Samples = {
  conv2d: [
    convolution("3×3 same", [2, 3, 4, 5], [2, 3, 3, 3], { padding: 1 }),
    convolution("3×3 same, one pixel", [2, 2, 1, 1], [3, 2, 3, 3], { padding: 1 }),
    convolution("3×3 same, one row", [1, 2, 1, 6], [3, 2, 3, 3], { padding: 1 }),
    convolution("3×3 without padding or bias", [2, 3, 5, 4], [4, 3, 3, 3], {}, { bias: false }),
    convolution("1×1", [2, 5, 3, 4], [3, 5, 1, 1], {}),
    convolution("1×1 with padding", [1, 2, 3, 3], [3, 2, 1, 1], { padding: 1 }),
    convolution("1×1, stride 2", [1, 3, 5, 4], [2, 3, 1, 1], { stride: 2 }),
    convolution("2×2 patches", [2, 3, 4, 6], [4, 3, 2, 2], { stride: 2 }),
    convolution("4×4 patches that leave a rest", [1, 1, 9, 11], [2, 1, 4, 4], { stride: 4 }),
    convolution("3×3, stride 2, padding 1", [2, 2, 6, 6], [3, 2, 3, 3], { stride: 2, padding: 1 }),
    convolution("3×3, stride 2, odd size", [2, 2, 5, 7], [3, 2, 3, 3], { stride: 2, padding: 1 }),
    convolution("3×3, stride 2, padded below and right", [1, 2, 6, 4], [2, 2, 3, 3], {
      stride: 2,
      padding: [0, 0, 1, 1],
    }),
    convolution("3×3, padding differs on all sides", [1, 2, 4, 4], [2, 2, 3, 3], { padding: [0, 1, 2, 1] }),
    convolution("3×3, padding wider than the kernel reaches", [1, 2, 3, 3], [2, 2, 3, 3], { padding: [3, 4, 0, 1] }),
    convolution("3×2 kernel, strides 1 and 3", [1, 2, 4, 8], [3, 2, 3, 2], { stride: [1, 3], padding: [1, 0, 1, 1] }),
    convolution("5×5 same", [1, 2, 5, 5], [2, 2, 5, 5], { padding: 2 }),
    convolution("2×2, even kernel", [1, 2, 4, 4], [2, 2, 2, 2], { padding: [0, 0, 1, 1] }),
    convolution("two groups", [2, 4, 4, 3], [6, 2, 3, 3], { padding: 1, groups: 2 }),
    convolution("two groups, stride 2", [1, 4, 5, 5], [2, 2, 3, 3], { padding: 1, stride: 2, groups: 2 }),
    convolution("depthwise", [2, 3, 4, 4], [3, 1, 3, 3], { padding: 1, groups: 3 }),
    convolution("depthwise, two outputs a channel", [1, 3, 4, 4], [6, 1, 3, 1], { padding: [1, 0, 1, 0], groups: 3 }),
    convolution("blocks of channels, 3×3", [2, 16, 4, 5], [32, 16, 3, 3], { padding: 1 }),
    convolution(
      "blocks of channels, no bias, stride 2",
      [1, 16, 5, 4],
      [16, 16, 3, 3],
      { padding: 1, stride: 2 },
      { bias: false },
    ),
    convolution("blocks of channels, asymmetric padding", [1, 32, 3, 4], [16, 32, 3, 3], { padding: [0, 1, 2, 0] }),
    convolution("blocks of channels in, 3 out", [1, 16, 4, 4], [3, 16, 3, 3], { padding: 1 }),
    convolution("3 channels in, blocks out", [1, 3, 4, 4], [16, 3, 3, 3], { padding: 1 }),
    convolution("8 channels", [1, 8, 3, 5], [8, 8, 3, 3], { padding: 1 }),
    convolution("24 channels: three blocks of 8", [1, 24, 3, 3], [8, 24, 3, 3], { padding: 1 }),
    convolution("weights known beforehand", [2, 16, 4, 4], [16, 16, 3, 3], { padding: 1 }, { weights: [1, 2] }),
  ],
  conv2dWeightGradient3x3: [
    correlation("3 × 2 channels", [2, 2, 4, 5], 3),
    correlation("one pixel", [2, 2, 1, 1], 3),
    correlation("blocks of images and columns, more out", [4, 8, 3, 4], 16),
    correlation("blocks of images and columns, more in", [4, 16, 3, 4], 8),
    correlation("blocks of columns", [1, 16, 2, 16], 16),
    correlation("two strips of columns, few out", [1, 16, 2, 32], 2),
    correlation("a width that is no block", [2, 16, 2, 3], 16),
    correlation("channels that are no block", [2, 12, 3, 8], 20),
  ],
  convTranspose2d: [
    transposed("stride 2", [1, 3, 2, 3], [3, 2, 3, 3], [4, 6], { stride: 2, padding: 1 }),
    transposed("stride 2, odd size", [2, 2, 3, 2], [2, 3, 3, 3], [5, 3], { stride: 2, padding: 1 }),
    transposed("stride 3, asymmetric padding", [1, 2, 2, 2], [2, 2, 3, 3], [5, 6], {
      stride: 3,
      padding: [1, 0, 0, 2],
    }),
    transposed("two groups", [1, 4, 2, 2], [4, 2, 2, 2], [4, 4], { stride: 2, groups: 2 }),
    transposed("stride 1", [1, 3, 3, 3], [3, 2, 3, 3], [3, 3], { padding: 1 }),
  ],
  upsampleNearest: [
    sample("twice", [uniform([2, 3, 2, 3])], (x) => upsampleNearest(x, 2), repeated(2)),
    sample("three times, one pixel", [uniform([1, 2, 1, 1])], (x) => upsampleNearest(x, 3), repeated(3)),
  ],
  avgPool: [
    sample("2×2", [uniform([2, 3, 4, 2])], (x) => avgPool(x, 2), pooled(2, mean)),
    sample("3×3", [uniform([1, 2, 3, 6])], (x) => avgPool(x, 3), pooled(3, mean)),
    sample("sums of 2×2", [uniform([1, 2, 4, 4])], (x) => avgPool(x, 2, { sums: true }), pooled(2, total)),
  ],
  maxPool: [
    sample("2×2", [distinct([2, 3, 4, 2])], (x) => maxPool(x, 2), pooled(2, largest)),
    sample("3×3", [distinct([1, 2, 3, 6])], (x) => maxPool(x, 3), pooled(3, largest)),
    sample("rows and columns that fill no square", [distinct([1, 2, 5, 7])], (x) => maxPool(x, 2), pooled(2, largest)),
    sample("ties share the gradient", [float32([1, 1, 2, 4], tied)], (x) => maxPool(x, 2), pooled(2, largest), {
      convention: [[0.5, 0, 0.25, 0.25, 0, 0.5, 0.25, 0.25]],
    }),
  ],
};
