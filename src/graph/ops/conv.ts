import type { Emitter } from "../onnx.ts";
import { defineOperator } from "../operator.ts";
import { type Node, require, type Tensor, type TensorType } from "../tensor.ts";
import { mul } from "./elementwise.ts";
import { constant, values } from "./leaf.ts";
import { matmul } from "./matmul.ts";
import { sum } from "./reduce.ts";
import { concat, gather, pad, reshape, slice, transpose } from "./shape.ts";

interface Convolution {
  /** Step between windows, along height and width. */
  readonly stride: readonly [number, number];
  /** Zeros added at the top, left, bottom and right. */
  readonly padding: readonly [number, number, number, number];
  /** Channels are cut into so many groups that do not see each other. */
  readonly groups: number;
}

function inferConv([x, w, bias]: readonly TensorType[], { stride, padding, groups }: Convolution): TensorType[] {
  require(x!.shape.length === 4 && w!.shape.length === 4, "needs x [n, c, h, w] and weights [o, c, kh, kw]");
  const [n, c, h, width] = x!.shape as [number, number, number, number];
  const [o, perGroup, kh, kw] = w!.shape as [number, number, number, number];
  require(c === perGroup * groups, `x has ${c} channels, the weights take ${perGroup * groups}`);
  require(!bias || (bias.shape.length === 1 && bias.shape[0] === o), `the bias must have shape [${o}]`);
  const outH = Math.floor((h + padding[0] + padding[2] - kh) / stride[0]) + 1;
  const outW = Math.floor((width + padding[1] + padding[3] - kw) / stride[1]) + 1;
  require(outH > 0 && outW > 0, "the kernel is larger than the padded image");
  return [{ dtype: x!.dtype, shape: [n, o, outH, outW] }];
}

const applyConv = defineOperator<Convolution>({
  name: "conv2d",
  infer: inferConv,
  onnx: (emitter, inputs, node) => {
    const { stride, padding, groups } = node.attributes;
    const kernel = node.inputs[1]!.shape.slice(2);
    const attributes = { kernel_shape: kernel, strides: stride, pads: padding, group: groups };
    const blocked = blockedWeights(emitter, inputs[1]!, node);
    if (!blocked) return emitter.op("Conv", inputs, attributes);
    // ONNX Runtime blocks the channels of constant weights by itself; weights that change are blocked in the graph.
    const reordered = emitter.op("ReorderInput", [inputs[0]!], {}, "com.microsoft.nchwc");
    const y = emitter.op("Conv", [reordered, blocked, ...inputs.slice(2)], attributes, "com.microsoft.nchwc");
    return emitter.op("ReorderOutput", [y], { channels: node.outputs[0]!.shape[1]! }, "com.microsoft.nchwc");
  },
  gradient: ([dy], node) => {
    const [x, w, bias] = node.inputs;
    return [
      inputGradient(dy!, w!, x!.shape, node.attributes),
      weightGradient(x!, dy!, w!.shape, node.attributes),
      bias && sum(dy!, [0, 2, 3]),
    ];
  },
});

/** The weights in blocks [o/b, i/b, kh, kw, b(i), b(o)], or undefined where that form does not apply or does not pay. */
function blockedWeights(
  emitter: Emitter,
  weights: string,
  { inputs, attributes }: Node<Convolution>,
): string | undefined {
  const block = emitter.target.blockedChannels;
  const [o, i, kh, kw] = inputs[1]!.shape as [number, number, number, number];
  if (block === 0 || attributes.groups !== 1 || o % block !== 0 || i % block !== 0) return undefined;
  if (emitter.isConstant(weights) || kh * kw === 1) return undefined;
  const split = emitter.op("Reshape", [weights, emitter.ints([o / block, block, i / block, block, kh, kw])]);
  const ordered = emitter.op("Transpose", [split], { perm: [0, 2, 4, 5, 3, 1] });
  return emitter.op("Reshape", [ordered, emitter.ints([o, i, kh, kw])]);
}

/** Options of `conv2d`; a single number means the same along both axes and on all sides. */
export interface ConvOptions {
  readonly stride?: number | readonly [number, number];
  readonly padding?: number | readonly [number, number, number, number];
  readonly groups?: number;
}

/**
 * Cross-correlation as every framework calls convolution: x [n, c, h, w], weights [o, c/groups, kh, kw], bias [o].
 */
export function conv2d(
  x: Tensor,
  weights: Tensor,
  bias?: Tensor,
  { stride = 1, padding = 0, groups = 1 }: ConvOptions = {},
): Tensor {
  return applyConv(bias ? [x, weights, bias] : [x, weights], {
    stride: typeof stride === "number" ? [stride, stride] : stride,
    padding: typeof padding === "number" ? [padding, padding, padding, padding] : padding,
    groups,
  });
}

// ---- gradient to the input -----------------------------------------------------------------------------------------

const applyConvTranspose = defineOperator<Convolution & { size: readonly [number, number] }>({
  name: "convTranspose2d",
  infer: ([y, w], { stride, padding, groups, size }) => {
    require(y!.shape.length === 4 && w!.shape.length === 4, "needs [n, o, h, w] and weights [o, c, kh, kw]");
    require(y!.shape[1] === w!.shape[0], `has ${y!.shape[1]} channels, the weights take ${w!.shape[0]}`);
    const x = { dtype: y!.dtype, shape: [y!.shape[0]!, w!.shape[1]! * groups, ...size] };
    const [back] = inferConv([x, w!], { stride, padding, groups });
    require(back!.shape[2] === y!.shape[2] && back!.shape[3] === y!.shape[3], `cannot come from size ${size}`);
    return [x];
  },
  onnx: (emitter, inputs, { inputs: [y, w], attributes: { stride, padding, groups, size } }) => {
    const kernel = w!.shape.slice(2);
    const missing = size.map(
      (n, i) => n - ((y!.shape[i + 2]! - 1) * stride[i]! + kernel[i]! - padding[i]! - padding[i + 2]!),
    );
    return emitter.op("ConvTranspose", inputs, {
      kernel_shape: kernel,
      strides: stride,
      pads: padding,
      group: groups,
      output_padding: missing,
    });
  },
  gradient: ([dx], { inputs: [y, w], attributes }) => [
    applyConv([dx!, w!], attributes),
    weightGradient(dx!, y!, w!.shape, attributes),
  ],
});

/**
 * The gradient of a convolution to its input: Σ over outputs and taps of dy·w, which is the transposed convolution; with
 * stride 1 it is a convolution of dy with the kernel turned by 180° and in/out channels swapped (faster).
 */
function inputGradient(dy: Tensor, w: Tensor, shape: readonly number[], attributes: Convolution): Tensor {
  const { stride, padding, groups } = attributes;
  const [o, , kh, kw] = w.shape as [number, number, number, number];
  if (groups !== 1 || stride[0] !== 1 || stride[1] !== 1) {
    return applyConvTranspose([dy, w], { ...attributes, size: [shape[2]!, shape[3]!] });
  }
  const [top, left, bottom, right] = padding;
  const swapped = transpose(w, [1, 0, 2, 3]);
  const turned =
    kh * kw === 1 ? swapped : reshape(reverseLast(reshape(swapped, [shape[1]!, o, kh * kw])), swapped.shape);
  return conv2d(dy, turned, undefined, { padding: [kh - 1 - top, kw - 1 - left, kh - 1 - bottom, kw - 1 - right] });
}

/** x with its last axis in reverse order. */
function reverseLast(x: Tensor): Tensor {
  const taps = x.shape.at(-1)!;
  const order = constant({
    dtype: "int64",
    shape: [taps],
    data: BigInt64Array.from({ length: taps }, (_, i) => BigInt(taps - 1 - i)),
  });
  return transpose(gather(transpose(x, [2, 0, 1]), order), [1, 2, 0]);
}

// ---- gradient to the weights ---------------------------------------------------------------------------------------

/**
 * The gradient of a convolution to its weights: dw[o, c, u, v] = Σ over images n and positions p of
 * dy[n, o, p]·x[n, c, stride·p + (u, v) − padding], a product of matrices once x is laid out by tap (im2col).
 */
function weightGradient(x: Tensor, dy: Tensor, shape: readonly number[], attributes: Convolution): Tensor {
  const { stride, padding, groups } = attributes;
  const [o, c, kh, kw] = shape as [number, number, number, number];
  if (groups === 1 && kh === 3 && kw === 3 && stride.every((s) => s === 1) && padding.every((p) => p === 1)) {
    return separableWeightGradient(x, dy);
  }
  const [n, , outH, outW] = dy.shape as [number, number, number, number];
  const area = outH * outW;
  const [top, left, bottom, right] = padding;
  const padded = pad(x, [
    [0, 0],
    [0, 0],
    [top, bottom],
    [left, right],
  ]);
  const rows = reshape(dy, [n, groups, o / groups, area]);
  const taps: Tensor[] = [];
  for (let u = 0; u < kh; u++) {
    for (let v = 0; v < kw; v++) {
      const down = slice(padded, 2, u, u + (outH - 1) * stride[0] + 1, stride[0]);
      const window = slice(down, 3, v, v + (outW - 1) * stride[1] + 1, stride[1]);
      const tap = matmul(rows, reshape(window, [n, groups, c, area]), { transB: true }); // [n, groups, o/groups, c]
      taps.push(reshape(sum(tap, 0), [o, c, 1]));
    }
  }
  return reshape(concat(taps, 2), [o, c, kh, kw]);
}

/**
 * 3×3, stride 1, padding 1. All nine taps by one product an image: x shifted along the width three ways, dy along the
 * height three ways (both by depthwise convolutions with one-hot kernels), then [3·o, L] × [L, 3·c] with L = (h + 2)·w.
 */
function separableWeightGradient(x: Tensor, dy: Tensor): Tensor {
  const [n, c, h, w] = x.shape as [number, number, number, number];
  const o = dy.shape[1]!;
  const length = (h + 2) * w;
  // Channel 3·c + v of `across` is x moved by v − 1 along the width, on rows −1 … h.
  const across = conv2d(x, oneHotKernels(c, [1, 3], [0, 1, 2]), undefined, { groups: c, padding: [1, 1, 1, 1] });
  // Channel 3·o + u of `down` is dy moved by u along the height, so that row r of it pairs with row r of `across`.
  const down = conv2d(dy, oneHotKernels(o, [3, 1], [2, 1, 0]), undefined, { groups: o, padding: [2, 0, 2, 0] });
  const products = matmul(reshape(down, [n, 3 * o, length]), reshape(across, [n, 3 * c, length]), { transB: true });
  // [o, u, c, v] → [o, c, u, v]
  return transpose(reshape(sum(products, 0), [o, 3, c, 3]), [0, 2, 1, 3]);
}

/** For each channel, one kernel for each tap of `taps`: 1 at the tap, else 0. */
function oneHotKernels(channels: number, [kh, kw]: readonly [number, number], taps: readonly number[]): Tensor {
  const size = kh * kw;
  const kernels = new Float32Array(channels * taps.length * size);
  for (let channel = 0; channel < channels; channel++) {
    taps.forEach((tap, i) => {
      kernels[(channel * taps.length + i) * size + tap] = 1;
    });
  }
  return values([channels * taps.length, 1, kh, kw], kernels);
}

// ---- resampling ----------------------------------------------------------------------------------------------------

/** Each pixel repeated `factor` × `factor` times: [n, c, h, w] → [n, c, factor·h, factor·w]. */
export function upsampleNearest(x: Tensor, factor: number): Tensor {
  return applyUpsample([x], { factor });
}

const applyUpsample = defineOperator<{ factor: number }>({
  name: "upsampleNearest",
  infer: ([x], { factor }) => {
    require(x!.shape.length === 4, "needs [n, c, h, w]");
    const [n, c, h, w] = x!.shape as [number, number, number, number];
    return [{ dtype: x!.dtype, shape: [n, c, h * factor, w * factor] }];
  },
  onnx: (emitter, [x], { attributes: { factor } }) => {
    const scales = emitter.constant({ dtype: "float32", shape: [4], data: Float32Array.of(1, 1, factor, factor) });
    return emitter.op("Resize", [x!, "", scales], {
      mode: "nearest",
      coordinate_transformation_mode: "asymmetric",
      nearest_mode: "floor",
    });
  },
  gradient: ([dy], { attributes: { factor } }) => [avgPool(dy!, factor, { sums: true })],
});

const applyAvgPool = defineOperator<{ factor: number }>({
  name: "avgPool",
  infer: ([x], { factor }) => {
    require(x!.shape.length === 4, "needs [n, c, h, w]");
    const [n, c, h, w] = x!.shape as [number, number, number, number];
    require(h % factor === 0 && w % factor === 0, `height and width must be multiples of ${factor}`);
    return [{ dtype: x!.dtype, shape: [n, c, h / factor, w / factor] }];
  },
  onnx: (emitter, [x], { attributes: { factor } }) =>
    emitter.op("AveragePool", [x!], { kernel_shape: [factor, factor], strides: [factor, factor] }),
  gradient: ([dy], { attributes: { factor } }) => [mul(upsampleNearest(dy!, factor), 1 / (factor * factor))],
});

/** Means over `factor` × `factor` pixels (or their sums): [n, c, h, w] → [n, c, h/factor, w/factor]. */
export function avgPool(x: Tensor, factor: number, { sums = false } = {}): Tensor {
  const means = applyAvgPool([x], { factor });
  return sums ? mul(means, factor * factor) : means;
}
