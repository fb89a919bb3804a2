import { invariant } from "./errors.ts";

/**
 * The element types of tensors, by the names PyTorch gives them. `float16` and `bfloat16` are held as raw bits in a
 * `Uint16Array`, the eight-bit floats of files as those in a `Uint8Array`, `bool` as bytes 0 and 1.
 */
export type DType = keyof Arrays;

const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  float8_e4m3fn: Uint8Array,
  float8_e5m2: Uint8Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int16: Int16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  bool: Uint8Array,
} as const;

interface Arrays {
  float32: Float32Array;
  float64: Float64Array;
  float16: Uint16Array;
  bfloat16: Uint16Array;
  float8_e4m3fn: Uint8Array;
  float8_e5m2: Uint8Array;
  int64: BigInt64Array;
  int32: Int32Array;
  int16: Int16Array;
  int8: Int8Array;
  uint8: Uint8Array;
  uint16: Uint16Array;
  uint32: Uint32Array;
  bool: Uint8Array;
}

/** The typed array that holds elements of `D`. */
export type ArrayOf<D extends DType> = Arrays[D];

/** Sizes of the axes, slowest first (row-major). */
export type Shape = readonly number[];

/** Numbers in memory: a typed array and its shape, row-major. Plain data; nothing here is symbolic. */
export interface HostTensor<D extends DType = DType> {
  readonly dtype: D;
  readonly shape: Shape;
  readonly data: ArrayOf<D>;
}

/** How many elements a shape has. The empty shape is a scalar: one element. */
export function sizeOf(shape: Shape): number {
  return shape.reduce((n, axis) => n * axis, 1);
}

/** Bytes per element. */
export function bytesPerElement(dtype: DType): number {
  return ARRAYS[dtype].BYTES_PER_ELEMENT;
}

/** Wraps `data` (not copied) as a tensor; its length must be the size of `shape`. */
export function hostTensor<D extends DType>(dtype: D, shape: Shape, data: ArrayOf<D>): HostTensor<D> {
  invariant(data.length === sizeOf(shape), `${data.length} elements given for shape [${shape}]`);
  return { dtype, shape, data };
}

/** A tensor of zeros. */
export function zeros<D extends DType>(dtype: D, shape: Shape): HostTensor<D> {
  return { dtype, shape, data: new ARRAYS[dtype](sizeOf(shape)) as ArrayOf<D> };
}

/** A float32 tensor from numbers or an existing `Float32Array` (not copied). */
export function float32(shape: Shape, values: Float32Array | readonly number[]): HostTensor<"float32"> {
  return hostTensor("float32", shape, values instanceof Float32Array ? values : Float32Array.from(values));
}

/** An int64 tensor from numbers. */
export function int64(shape: Shape, values: readonly (number | bigint)[]): HostTensor<"int64"> {
  return hostTensor("int64", shape, BigInt64Array.from(values, BigInt));
}

/** An empty typed array of `length` elements for a dtype. */
export function arrayFor<D extends DType>(dtype: D, length: number): ArrayOf<D> {
  return new ARRAYS[dtype](length) as ArrayOf<D>;
}

/** A view of `bytes` as the elements of `dtype`, copied only when the offset is not aligned to the element size. */
export function viewAs<D extends DType>(dtype: D, bytes: Uint8Array): ArrayOf<D> {
  const size = bytesPerElement(dtype);
  const aligned = bytes.byteOffset % size === 0 ? bytes : bytes.slice();
  const Constructor = ARRAYS[dtype] as unknown as new (
    buffer: ArrayBufferLike,
    offset: number,
    length: number,
  ) => ArrayOf<D>;
  return new Constructor(aligned.buffer, aligned.byteOffset, aligned.byteLength / size);
}

/** `[2, 3]` in messages. */
export function describeShape(shape: Shape): string {
  return `[${shape.join(", ")}]`;
}

/** Whether two shapes are the same. */
export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((axis, i) => axis === b[i]);
}
