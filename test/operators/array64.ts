import type { HostTensor } from "../../src/core/host-tensor.ts";

/** A float64 array in row-major order: what the reference implementations compute with. Knows nothing of graphs. */
export interface Array64 {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

/** An array whose element at each index is `f(index)`. */
export function tabulate(shape: readonly number[], f: (index: readonly number[]) => number): Array64 {
  const size = shape.reduce((n, axis) => n * axis, 1);
  const data = new Float64Array(size);
  const index = shape.map(() => 0);
  for (let i = 0; i < size; i++) {
    data[i] = f(index);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      if (++index[axis]! < shape[axis]!) break;
      index[axis] = 0;
    }
  }
  return { shape, data };
}

/**
 * The element at `index`, where `index` may have more axes in front and axes of size 1 are repeated: what NumPy's
 * broadcasting reads there.
 */
export function element(a: Array64, index: readonly number[]): number {
  const lead = index.length - a.shape.length;
  let offset = 0;
  for (let axis = 0; axis < a.shape.length; axis++) {
    offset = offset * a.shape[axis]! + (a.shape[axis] === 1 ? 0 : index[axis + lead]!);
  }
  return a.data[offset]!;
}

/** The shape that arrays of these shapes broadcast to. */
export function broadcast(...shapes: readonly (readonly number[])[]): number[] {
  const rank = Math.max(...shapes.map((shape) => shape.length));
  return Array.from({ length: rank }, (_, i) =>
    shapes.reduce((size, shape) => {
      const axis = shape[i - rank + shape.length] ?? 1;
      return axis === 1 ? size : axis;
    }, 1),
  );
}

/** The numbers of a tensor as float64. Not for the 16-bit floats, which tensors hold as bits. */
export function toArray64({ shape, data }: HostTensor): Array64 {
  return { shape, data: Float64Array.from(data as ArrayLike<number | bigint>, Number) };
}

/** Σ aᵢ·bᵢ */
export function dot(a: Float64Array, b: Float64Array): number {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i]! * b[i]!;
  return total;
}
