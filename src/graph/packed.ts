import { float32, type HostTensor, type Shape } from "../core/host-tensor.ts";
import type { Emitter } from "./onnx.ts";
import { ONNX_TYPES } from "./onnx-protobuf.ts";

/**
 * A matrix [n, k] in blocks of one row: (code − 2^(bits − 1))·scale, the layout of ONNX Runtime's `MatMulNBits`. Rows are
 * filled up to whole blocks.
 */
export interface PackedMatrix {
  readonly bits: 4 | 8;
  readonly blockSize: number;
  /** [n, blocks, blockSize·bits/8]; of two codes in a byte the first is in the lower half. */
  readonly codes: HostTensor<"uint8">;
  /** [n, blocks]. */
  readonly scales: HostTensor<"float32">;
}

/** A packed matrix as it stands in a graph. */
export interface PackedValue extends Pick<PackedMatrix, "bits" | "blockSize"> {
  /** The values of codes and scales. */
  readonly codes: string;
  readonly scales: string;
}

/** Writes the numbers [n, k] of a packed matrix with standard operators; `blocks` is the shape of the scales. */
export function unpack(emitter: Emitter, packed: PackedValue, blocks: Shape, [, k]: Shape): string {
  const op: Emitter["op"] = (...node) => emitter.op(...node);
  const ints = (values: readonly number[]) => emitter.ints(values);
  const constant = (value: HostTensor) => emitter.constant(value);
  const { bits, blockSize } = packed;
  const [n, count] = blocks as [number, number];
  const byte = (value: number) => constant({ dtype: "uint8", shape: [], data: Uint8Array.of(value) });
  let codes = packed.codes;
  if (bits === 4) {
    const halves = [op("BitwiseAnd", [codes, byte(15)]), op("BitShift", [codes, byte(4)], { direction: "RIGHT" })];
    const column = ints([n, count, blockSize / 2, 1]);
    const columns = halves.map((half) => op("Reshape", [half, column]));
    codes = op("Concat", columns, { axis: 3 });
  }
  const float = op("Cast", [op("Reshape", [codes, ints([n, count, blockSize])])], { to: ONNX_TYPES.float32 });
  const middle = constant({ dtype: "float32", shape: [], data: Float32Array.of(2 ** (bits - 1)) });
  const scales = op("Reshape", [packed.scales, ints([n, count, 1])]);
  const rows = op("Reshape", [op("Mul", [op("Sub", [float, middle]), scales]), ints([n, count * blockSize])]);
  return op("Slice", [rows, ints([0]), ints([k!]), ints([1]), ints([1])]);
}

/**
 * Rounds a matrix [n, k] with standard operators to codes and scales: in each block the number of largest magnitude is met exactly,
 * as in llama.cpp's Q4_0, so that the whole range of codes is used.
 */
export function pack(
  emitter: Emitter,
  matrix: string,
  [n, k]: Shape,
  { bits, blockSize }: Pick<PackedMatrix, "bits" | "blockSize">,
): PackedValue {
  const op: Emitter["op"] = (...node) => emitter.op(...node);
  const number = (value: number) => emitter.constant(float32([], [value]));
  const middle = 2 ** (bits - 1);
  const count = Math.ceil(k! / blockSize);
  const missing = count * blockSize - k!;
  const filled = missing === 0 ? matrix : op("Pad", [matrix, emitter.ints([0, 0, 0, missing])]);
  const blocks = op("Reshape", [filled, emitter.ints([n!, count, blockSize])]);
  const lowest = op("ReduceMin", [blocks, emitter.ints([2])], { keepdims: 1 });
  const highest = op("ReduceMax", [blocks, emitter.ints([2])], { keepdims: 1 });
  const extreme = op("Where", [op("GreaterOrEqual", [highest, op("Neg", [lowest])]), highest, lowest]);
  // The lowest code stands for −middle, one further from the middle than the highest.
  const step = op("Mul", [extreme, number(-1 / middle)]);
  const divisor = op("Where", [op("Equal", [extreme, number(0)]), number(1), step]);
  const rounded = op("Round", [op("Div", [blocks, divisor])]);
  const inRange = op("Clip", [op("Add", [rounded, number(middle)]), number(0), number(2 * middle - 1)]);
  const perByte = 8 / bits;
  const bytes = bits === 8 ? inRange : halvesOfBytes(emitter, inRange, [n!, count, blockSize / 2]);
  return {
    bits,
    blockSize,
    codes: emitter.typed(op("Cast", [bytes], { to: ONNX_TYPES.uint8 }), {
      dtype: "uint8",
      shape: [n!, count, blockSize / perByte],
    }),
    scales: emitter.typed(op("Reshape", [step, emitter.ints([n!, count])]), { dtype: "float32", shape: [n!, count] }),
  };
}

/** Pairs of numbers from 0 to 15 as one of `shape`, the first in the lower half. */
function halvesOfBytes(emitter: Emitter, numbers: string, shape: Shape): string {
  const pairs = emitter.op("Reshape", [numbers, emitter.ints([...shape, 2])]);
  const weighted = emitter.op("Mul", [pairs, emitter.constant(float32([2], [1, 16]))]);
  return emitter.op("ReduceSum", [weighted, emitter.ints([3])], { keepdims: 0 });
}
