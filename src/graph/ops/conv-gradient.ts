import { float32 } from "../../core/host-tensor.ts";
import type { Emitter } from "../onnx.ts";
import { defineOperator } from "../operator.ts";
import { require, type Tensor } from "../tensor.ts";
import { type Convolution, conv2d, inferConv } from "./conv.ts";
import { constant } from "./leaf.ts";
import { matmul } from "./matmul.ts";
import { sum } from "./reduce.ts";
import { concat, gather, pad, reshape, slice, transpose } from "./shape.ts";

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
    conv2d(dx!, w!, undefined, attributes),
    weightGradient(dx!, y!, w!.shape, attributes),
  ],
});

/**
 * The gradient of a convolution to its input: Σ over outputs and taps of dy·w, which is the transposed convolution; with
 * stride 1 it is a convolution of dy with the kernel turned by 180° and in/out channels swapped (faster).
 */
export function inputGradient(dy: Tensor, w: Tensor, shape: readonly number[], attributes: Convolution): Tensor {
  const { stride, padding, groups } = attributes;
  const [o, , kh, kw] = w.shape as [number, number, number, number];
  if (groups !== 1 || stride[0] !== 1 || stride[1] !== 1) {
    return applyConvTranspose([dy, w], { ...attributes, size: [shape[2]!, shape[3]!] });
  }
  const [top, left, bottom, right] = padding;
  const swapped = transpose(w, [1, 0, 2, 3]);
  const turned =
    kh * kw === 1 ? swapped : reshape(reverseLast(reshape(swapped, [shape[1]!, o, kh * kw])), swapped.shape);
  // Where the padding is wider than the kernel reaches, the windows at the border saw only zeros: they are cut off.
  const cut = (width: number) => Math.min(width, 0);
  const fill = (width: number) => Math.max(width, 0);
  const [above, before, below, behind] = [kh - 1 - top, kw - 1 - left, kh - 1 - bottom, kw - 1 - right];
  const seen = pad(dy, [
    [0, 0],
    [0, 0],
    [cut(above), cut(below)],
    [cut(before), cut(behind)],
  ]);
  return conv2d(seen, turned, undefined, { padding: [fill(above), fill(before), fill(below), fill(behind)] });
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
export function weightGradient(x: Tensor, dy: Tensor, shape: readonly number[], attributes: Convolution): Tensor {
  const { stride, padding, groups } = attributes;
  const [o, c, kh, kw] = shape as [number, number, number, number];
  if (groups === 1 && kh === 3 && kw === 3 && stride.every((s) => s === 1) && padding.every((p) => p === 1)) {
    return applyWeightGradient3x3([x, dy], {});
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

/*
 * 3×3 kernels with stride 1 and padding 1, nearly all there is in a U-Net, in one operator: how the nine products are
 * best laid out depends on the target.
 */
const applyWeightGradient3x3 = defineOperator({
  name: "conv2dWeightGradient3x3",
  infer: ([x, dy]) => {
    const [n, c, h, w] = x!.shape;
    const matching = dy!.shape[0] === n && dy!.shape[2] === h && dy!.shape[3] === w;
    require(x!.shape.length === 4 && dy!.shape.length === 4 && matching, "needs x [n, c, h, w] and dy [n, o, h, w]");
    return [{ dtype: x!.dtype, shape: [dy!.shape[1]!, c!, 3, 3] }];
  },
  onnx: (emitter, [x, dy], { inputs }) => {
    const [n, c, h, w] = inputs[0]!.shape as [number, number, number, number];
    const o = inputs[1]!.shape[1]!;
    const block = emitter.target.blockedChannels;
    const wholeBlocks = block > 0 && (w % block === 0 || (block % w === 0 && n % (block / w) === 0));
    if (wholeBlocks && o >= c && o % block === 0) return correlateBlocked(emitter, x!, dy!, { n, c, o, h, w });
    if (wholeBlocks && c % block === 0) return correlateBlocked(emitter, dy!, x!, { n, c: o, o: c, h, w }, true);
    return correlateSeparably(emitter, x!, dy!, { n, c, o, h, w });
  },
  // Bilinear: with g the gradient of dw, the gradient to dy is x convolved with g, and to x dy with g turned.
  gradient: ([g], { inputs: [x, dy] }) => {
    const same: Convolution = { stride: [1, 1], padding: [1, 1, 1, 1], groups: 1 };
    return [inputGradient(dy!, g!, x!.shape, same), conv2d(x!, g!, undefined, same)];
  },
});

interface Sizes {
  readonly n: number;
  readonly c: number;
  readonly o: number;
  readonly h: number;
  readonly w: number;
}

/**
 * All nine taps by one product an image: x shifted along the width three ways, dy along the height three ways (both by
 * depthwise convolutions with one-hot kernels), then [3·o, L] × [L, 3·c] with L = (h + 2)·w.
 */
function correlateSeparably(emitter: Emitter, x: string, dy: string, { n, c, o, h, w }: Sizes): string {
  const length = (h + 2) * w;
  // Channel 3·c + v of `across` is x moved by v − 1 along the width, on rows −1 … h.
  const across = emitter.op("Conv", [x, emitter.constant(oneHotKernels(c, [1, 3], [0, 1, 2]))], {
    kernel_shape: [1, 3],
    pads: [1, 1, 1, 1],
    group: c,
  });
  // Channel 3·o + u of `down` is dy moved by u along the height, so that row r of it pairs with row r of `across`.
  const down = emitter.op("Conv", [dy, emitter.constant(oneHotKernels(o, [3, 1], [2, 1, 0]))], {
    kernel_shape: [3, 1],
    pads: [2, 0, 2, 0],
    group: o,
  });
  const left = emitter.op("Reshape", [down, emitter.ints([n, 3 * o, length])]);
  const right = emitter.op("Reshape", [across, emitter.ints([n, 3 * c, length])]);
  const products = emitter.target.contrib
    ? emitter.op("FusedMatMul", [left, right], { transB: 1 }, "com.microsoft")
    : emitter.op("MatMul", [left, emitter.op("Transpose", [right], { perm: [0, 2, 1] })]);
  const total = emitter.op("ReduceSum", [products, emitter.ints([0])], { keepdims: 0 });
  const taps = emitter.op("Reshape", [total, emitter.ints([o, 3, c, 3])]);
  return emitter.op("Transpose", [taps], { perm: [0, 2, 1, 3] });
}

/** For each channel, one kernel for each tap of `taps`: 1 at the tap, else 0. */
function oneHotKernels(channels: number, [kh, kw]: readonly [number, number], taps: readonly number[]) {
  const size = kh * kw;
  const kernels = new Float32Array(channels * taps.length * size);
  for (let channel = 0; channel < channels; channel++) {
    taps.forEach((tap, i) => {
      kernels[(channel * taps.length + i) * size + tap] = 1;
    });
  }
  return float32([channels * taps.length, 1, kh, kw], kernels);
}

/**
 * The same correlation by ONNX Runtime's blocked convolution, its fastest kernel. Image and column become the channels
 * that are summed over, the height becomes a kernel as high as the image (padding 1 gives its three vertical taps), and
 * the channels of x become the width: for each horizontal tap v,
 *   y_v[o, u, c] = Σ_{(n, w)} Σ_h dy[n, o, h, w] · x[n, c, h + u − 1, w + v − 1].
 * In the blocked layout dy already *is* the layout that such a kernel wants, up to moving whole blocks.
 * With `swapped` x and dy have changed places (the larger channel count should be the kernel): the result then has its
 * taps turned and its channels swapped, which is undone on the small result.
 */
function correlateBlocked(emitter: Emitter, x: string, dy: string, { n, c, o, h, w }: Sizes, swapped = false): string {
  const nchwc = "com.microsoft.nchwc";
  const block = emitter.target.blockedChannels;
  // A block of `block` summed positions is `images` images × `columns` columns; a row has `strips` of them.
  const columns = Math.min(w, block);
  const images = block / columns;
  const strips = w / columns;
  const blockedDy = emitter.op("ReorderInput", [dy], {}, nchwc); // [n, o/block, h, w, block]
  const moved = moveBlocks(
    emitter,
    blockedDy,
    [n / images, images, o / block, h, strips],
    [2, 0, 4, 3, 1],
    columns * block,
  );
  const kernel = emitter.op("Reshape", [moved, emitter.ints([o, n * w, h, 1])]);
  const taps = [0, 1, 2].map((v) => {
    const shifted = v === 1 ? x : emitter.op("Pad", [x, emitter.ints([0, 0, 0, 1 - v, 0, 0, 0, v - 1])]);
    const image = moveBlocks(emitter, shifted, [n / images, images, c, h, strips], [0, 4, 3, 2, 1], columns);
    const y = emitter.op(
      "Conv",
      [emitter.op("Reshape", [image, emitter.ints([1, n * w, h, c])]), kernel],
      { kernel_shape: [h, 1], pads: [1, 0, 1, 0] },
      nchwc,
    );
    return emitter.op("Reshape", [y, emitter.ints([o / block, 3, 1, c, block])]);
  });
  const all = emitter.op("Concat", swapped ? taps.reverse() : taps, { axis: 2 }); // [o/block, u, v, c, block]
  if (!swapped) {
    const ordered = emitter.op("Transpose", [all], { perm: [0, 4, 3, 1, 2] });
    return emitter.op("Reshape", [ordered, emitter.ints([o, c, 3, 3])]);
  }
  const turned = emitter.op("Slice", [
    all,
    emitter.ints([2]),
    emitter.ints([-4]),
    emitter.ints([1]),
    emitter.ints([-1]),
  ]);
  const ordered = emitter.op("Transpose", [turned], { perm: [3, 0, 4, 1, 2] });
  return emitter.op("Reshape", [ordered, emitter.ints([c, o, 3, 3])]);
}

/**
 * Transposes whole blocks of `length` numbers: x as [...shape, length] to the given order of its axes. By Gather, which
 * ONNX Runtime shares among threads; its Transpose runs on one.
 */
function moveBlocks(
  emitter: Emitter,
  x: string,
  shape: readonly number[],
  order: readonly number[],
  length: number,
): string {
  // A leading axis that stays needs no indices of its own.
  const kept = order[0] === 0 ? shape[0]! : 1;
  const axes = order[0] === 0 ? order.slice(1) : order;
  const sizes = order[0] === 0 ? [1, ...shape.slice(1)] : shape;
  const count = sizes.reduce((a, b) => a * b, 1);
  const strides = sizes.map((_, i) => sizes.slice(i + 1).reduce((a, b) => a * b, 1));
  const indices = new Int32Array(count);
  for (let to = 0; to < count; to++) {
    let rest = to;
    let from = 0;
    for (let i = axes.length - 1; i >= 0; i--) {
      const size = sizes[axes[i]!]!;
      from += (rest % size) * strides[axes[i]!]!;
      rest = Math.floor(rest / size);
    }
    indices[to] = from;
  }
  const blocks = emitter.op("Reshape", [x, emitter.ints([kept, count, length])]);
  const table = emitter.constant({ dtype: "int32", shape: [count], data: indices });
  return emitter.op("Gather", [blocks, table], { axis: 1 });
}
