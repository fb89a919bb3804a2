import { bytesPerElement, sizeOf } from "../core/host-tensor.ts";
import { type Node, type Tensor, type TensorType, topological } from "./tensor.ts";

/** What running a graph takes. */
export interface GraphCost {
  /** Floating-point operations of all products: convolutions and matrix multiplications. */
  readonly flops: number;
  /** The most bytes that intermediate results take at one time, each living from its node to its last use. */
  readonly peakBytes: number;
}

/** Operators that cannot write their result over an input; ONNX Runtime does where an element-wise one ends its life. */
const MOVES: ReadonlySet<string> = new Set([
  "concat",
  "conv2d",
  "conv2dWeightGradient3x3",
  "convTranspose2d",
  "gather",
  "groupNorm",
  "layerNorm",
  "matmul",
  "pad",
  "slice",
  "split",
  "transpose",
]);

/** Adds up what computing `outputs` takes, from the shapes alone. */
export function graphCost(outputs: Iterable<Tensor>): GraphCost {
  const wanted = [...outputs];
  // In the order of creation, as backward passes are meant to run: each gradient as soon as it can be had.
  const nodes = topological(wanted)
    .filter(({ inputs }) => inputs.length > 0)
    .sort((a, b) => a.id - b.id);
  const lastUse = new Map<Tensor, number>();
  nodes.forEach((node, i) => {
    for (const input of node.inputs) lastUse.set(storage(input), i);
  });
  for (const output of wanted) lastUse.set(storage(output), nodes.length);
  const ending: Tensor[][] = nodes.map(() => []);
  for (const [tensor, i] of lastUse) if (tensor.node.inputs.length > 0) ending[i]?.push(tensor);
  let live = 0;
  let peakBytes = 0;
  let flops = 0;
  nodes.forEach((node, i) => {
    flops += flopsOf(node);
    const made = node.operator.name === "reshape" ? 0 : node.outputs.reduce((sum, output) => sum + bytesOf(output), 0);
    const ended = ending[i]!.map(bytesOf);
    const reused = !MOVES.has(node.operator.name) && ended.includes(made) ? made : 0;
    live += made - reused;
    peakBytes = Math.max(peakBytes, live + workspaceOf(node));
    live -= ended.reduce((sum, bytes) => sum + bytes, 0) - reused;
  });
  return { flops, peakBytes };
}

/** The tensor whose memory holds `tensor`: reshaping copies nothing. */
function storage(tensor: Tensor): Tensor {
  let at = tensor;
  while (at.node.operator.name === "reshape") at = at.node.inputs[0]!;
  return at;
}

function bytesOf({ dtype, shape }: TensorType): number {
  return sizeOf(shape) * bytesPerElement(dtype);
}

/** Bytes an operator needs while it runs, besides inputs and outputs: convolutions lay them out in another way first. */
function workspaceOf({ operator, inputs, outputs }: Node): number {
  switch (operator.name) {
    case "conv2d":
      return bytesOf(inputs[0]!) + bytesOf(outputs[0]!);
    case "conv2dWeightGradient3x3":
      return 3 * (bytesOf(inputs[0]!) + bytesOf(inputs[1]!));
    default:
      return 0;
  }
}

function flopsOf({ operator, inputs, outputs }: Node): number {
  const [a, b] = inputs as [Tensor, Tensor];
  switch (operator.name) {
    case "conv2d":
      return 2 * sizeOf(outputs[0]!.shape) * sizeOf(b.shape.slice(1));
    case "convTranspose2d":
      return 2 * sizeOf(a.shape) * sizeOf(b.shape.slice(1));
    case "conv2dWeightGradient3x3":
      return 2 * 9 * sizeOf(b.shape) * a.shape[1]!;
    case "matmul":
      return 2 * sizeOf(outputs[0]!.shape) * a.shape.at(-1)!;
    default:
      return 0;
  }
}
