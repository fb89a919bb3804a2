import type { Emitter } from "../onnx.ts";
import { defineOperator } from "../operator.ts";
import { type Node, require, type Tensor, type TensorType } from "../tensor.ts";
import { inputGradient, weightGradient } from "./conv-gradient.ts";
import { sum } from "./reduce.ts";

/** How a kernel walks over an image. */
export interface Convolution {
  /** Step between windows, along height and width. */
  readonly stride: readonly [number, number];
  /** Zeros added at the top, left, bottom and right. */
  readonly padding: readonly [number, number, number, number];
  /** Channels are cut into so many groups that do not see each other. */
  readonly groups: number;
}

/** The shape rule of convolution. */
export function inferConv([x, w, bias]: readonly TensorType[], { stride, padding, groups }: Convolution): TensorType[] {
  require(x!.shape.length === 4 && w!.shape.length === 4, "needs x [n, c, h, w] and weights [o, c, kh, kw]");
  const [n, c, h, width] = x!.shape as [number, number, number, number];
  const [o, perGroup, kh, kw] = w!.shape as [number, number, number, number];
  require(c === perGroup * groups, `x has ${c} channels, the weights take ${perGroup * groups}`);
  require(o % groups === 0, `${o} output channels cannot be cut into ${groups} groups`);
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
    // ONNX Runtime blocks the channels of its own constants by itself; other weights are blocked in the graph.
    const reordered = emitter.op("ReorderInput", [inputs[0]!], {}, "com.microsoft.nchwc");
    const y = emitter.op("Conv", [reordered, blocked, ...inputs.slice(2)], attributes, "com.microsoft.nchwc");
    return emitter.op("ReorderOutput", [y], { channels: node.outputs[0]!.shape[1]! }, "com.microsoft.nchwc");
  },
  gradient: ([dy], node) => {
    const [x, w, bias] = node.inputs;
    return [
      inputGradient(dy!, w!, x!.shape, node.attributes),
      weightGradient(x!, dy!, w!.shape, node.attributes),
      bias && sum(sum(dy!, [2, 3]), 0),
    ];
  },
});

/** The weights in blocks [o/b, i/b, kh, kw, b(i), b(o)], or undefined where that form does not apply or does not pay. */
function blockedWeights(
  emitter: Emitter,
  weights: string,
  { inputs, outputs, attributes }: Node<Convolution>,
): string | undefined {
  const block = emitter.target.blockedChannels;
  const [o, i, kh, kw] = inputs[1]!.shape as [number, number, number, number];
  if (block === 0 || attributes.groups !== 1 || o % block !== 0 || i % block !== 0) return undefined;
  // With a single tap blocks gain nothing. Constants of a small model ONNX Runtime brings into blocks by itself.
  if (kh * kw === 1 || (emitter.isConstant(weights) && !blockedAhead(emitter, outputs[0]!))) return undefined;
  // The operator that blocks pictures, twice: each output's weights are a picture of i channels, and then b outputs are one
  // of b channels. A Transpose of six axes takes several times as long.
  const blockPictures = (x: string) => emitter.op("ReorderInput", [x], {}, "com.microsoft.nchwc");
  const rows = emitter.op("Reshape", [blockPictures(weights), emitter.ints([o / block, block, i * kh, kw])]);
  // What is computed ahead ends before the last Reshape, which would be a copy there.
  const ordered = emitter.typed(blockPictures(rows), { ...inputs[1]!, shape: [o / block, block, i * kh, kw] });
  return emitter.op("Reshape", [ordered, emitter.ints([o, i, kh, kw])]);
}

/** Pixels of a result up to which blocks gain little: 7 % at 16×16, nothing at 8×8, and 7 to 18 % above. */
const FEW_PIXELS = 16 * 16;

/**
 * Whether constant weights are brought into blocks ahead of the runs. Where pictures are small, deep inside a U-Net, most of the
 * weights are: they stay in their file, for blocking them would cost more than several runs gain.
 */
function blockedAhead({ target }: Emitter, { shape }: TensorType): boolean {
  return target.ahead === true && shape[2]! * shape[3]! > FEW_PIXELS;
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
