import { invariant } from "../core/errors.ts";
import { arrayFor, type DType, type HostTensor } from "../core/host-tensor.ts";

/** The dtypes that weights are stored and computed in. */
export type FloatDType = "float32" | "float64" | "float16" | "bfloat16";

/** Those that are read besides. */
export type Float8DType = "float8_e4m3fn" | "float8_e5m2";

/** The number that an element of a typed array stands for. */
const DECODE: Readonly<Record<FloatDType | Float8DType, (element: number) => number>> = {
  float32: (value) => value,
  float64: (value) => value,
  float16: float16Value,
  bfloat16: bfloat16Value,
  float8_e4m3fn: float8E4M3Value,
  // The upper half of a binary16 number.
  float8_e5m2: (bits) => float16Value(bits << 8),
};

/** Whether a dtype is one of the floating-point ones. */
export function isFloat(dtype: DType): dtype is FloatDType | Float8DType {
  return Object.hasOwn(DECODE, dtype);
}

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

/**
 * The bits of the IEEE 754 binary16 number nearest to `value` as a float32, ties to even; beyond 65504 infinity, NaN
 * stays NaN.
 */
export function float16Bits(value: number): number {
  scratch[0] = value;
  const bits = scratchBits[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x7f800000) {
    // NaN keeps its upper payload bits and is made quiet, so that it cannot turn into infinity.
    return magnitude > 0x7f800000 ? sign | 0x7e00 | ((magnitude >>> 13) & 0x1ff) : sign | 0x7c00;
  }
  if (magnitude >= 0x38800000) {
    // Normal in binary16 (>= 2^-14): rebias the exponent by 127 - 15 and round 13 bits away; a carry may reach infinity.
    const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1) - 0x38000000;
    return sign | Math.min(rounded >>> 13, 0x7c00);
  }
  // Subnormal: multiples of 2^-24. The sum with 0.5 leaves exactly those bits at the end of the significand, rounded
  // to even by the float32 addition itself.
  scratchBits[0] = magnitude;
  scratch[0] = scratch[0]! + 0.5;
  return sign | (scratchBits[0]! - 0x3f000000);
}

let float16Table: Float32Array | undefined;

/** Every binary16 number by its bits: 65,536 float32 values, made on first use. */
function float16Values(): Float32Array {
  if (float16Table) return float16Table;
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >>> 10) & 31;
    const fraction = bits & 1023;
    const magnitude =
      exponent === 0
        ? fraction * 2 ** -24
        : exponent === 31
          ? fraction === 0
            ? Number.POSITIVE_INFINITY
            : Number.NaN
          : (1 + fraction / 1024) * 2 ** (exponent - 15);
    table[bits] = bits & 0x8000 ? -magnitude : magnitude;
  }
  float16Table = table;
  return table;
}

/** The number that binary16 `bits` stand for. */
export function float16Value(bits: number): number {
  return float16Values()[bits]!;
}

/** The bits of the bfloat16 number nearest to `value` as a float32, ties to even; NaN stays NaN. */
export function bfloat16Bits(value: number): number {
  scratch[0] = value;
  const bits = scratchBits[0]!;
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** The number that bfloat16 `bits` stand for. */
export function bfloat16Value(bits: number): number {
  scratchBits[0] = bits << 16;
  return scratch[0]!;
}

/**
 * The number that the `bits` of float8 E4M3 stand for (Micikevicius et al. 2022, "FP8 formats for deep learning"): up to 448,
 * one pattern for NaN of each sign and none for infinity.
 */
export function float8E4M3Value(bits: number): number {
  const exponent = (bits >>> 3) & 15;
  const fraction = bits & 7;
  const magnitude =
    (bits & 0x7f) === 0x7f
      ? Number.NaN
      : exponent === 0
        ? fraction * 2 ** -9
        : (1 + fraction / 8) * 2 ** (exponent - 7);
  return bits & 0x80 ? -magnitude : magnitude;
}

/**
 * The same tensor in another floating-point dtype, rounded to nearest even. A tensor that has the dtype already is
 * returned as it is, not copied.
 */
export function convertFloat<D extends FloatDType>(tensor: HostTensor, dtype: D): HostTensor<D> {
  const from = tensor.dtype;
  invariant(isFloat(from), `${from} is not a floating-point dtype`);
  if (from === dtype) return tensor as HostTensor<D>;
  const source = tensor.data as ArrayLike<number>;
  const result = arrayFor<FloatDType>(dtype, source.length);
  const decode = DECODE[from];
  const encode = dtype === "float16" ? float16Bits : dtype === "bfloat16" ? bfloat16Bits : (value: number) => value;
  for (let i = 0; i < source.length; i++) result[i] = encode(decode(source[i]!));
  return { dtype, shape: tensor.shape, data: result as HostTensor<D>["data"] };
}
