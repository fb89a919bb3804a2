import type { HostTensor, Shape } from "../core/host-tensor.ts";
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
