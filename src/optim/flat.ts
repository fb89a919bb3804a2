import { invariant } from "../core/errors.ts";
import { float32, type HostTensor, type Shape, sizeOf } from "../core/host-tensor.ts";
import { concat, reshape, split, type Tensor } from "../graph/index.ts";

/**
 * Named tensors kept one after the other in a single vector, so that the optimizer, the average and clipping are one
 * operation each instead of hundreds.
 */
export interface FlatLayout {
  /** How many numbers in all. */
  readonly size: number;
  readonly entries: readonly { readonly name: string; readonly shape: Shape }[];
}

/** The layout of named tensors, in their order. */
export function flatLayout(shapes: Iterable<readonly [name: string, { readonly shape: Shape }]>): FlatLayout {
  const entries = Array.from(shapes, ([name, { shape }]) => ({ name, shape }));
  return { size: entries.reduce((n, { shape }) => n + sizeOf(shape), 0), entries };
}

/** The named tensors as views of a symbolic vector. */
export function unflatten(vector: Tensor, { entries }: FlatLayout): Tensor[] {
  const pieces = split(
    vector,
    entries.map(({ shape }) => sizeOf(shape)),
    0,
  );
  return entries.map(({ shape }, i) => reshape(pieces[i]!, shape));
}

/** Symbolic tensors in the layout's order as one vector. */
export function flatten(tensors: readonly Tensor[]): Tensor {
  return concat(
    tensors.map((x) => reshape(x, [-1])),
    0,
  );
}

/** Numbers by name as one array. */
export function packed(values: ReadonlyMap<string, HostTensor>, { size, entries }: FlatLayout): Float32Array {
  const vector = new Float32Array(size);
  let offset = 0;
  for (const { name, shape } of entries) {
    const value = values.get(name);
    invariant(value?.dtype === "float32" && value.data.length === sizeOf(shape), `no float32 values for ${name}`);
    vector.set(value.data as Float32Array, offset);
    offset += sizeOf(shape);
  }
  return vector;
}

/** Parts of an array by name; they share its memory. */
export function unpacked(vector: Float32Array, { entries }: FlatLayout): Map<string, HostTensor<"float32">> {
  let offset = 0;
  return new Map(
    entries.map(({ name, shape }) => {
      const part = vector.subarray(offset, (offset += sizeOf(shape)));
      return [name, float32(shape, part)];
    }),
  );
}
