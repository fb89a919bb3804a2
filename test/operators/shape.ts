import { int64 } from "../../src/core/host-tensor.ts";
import {
  chunk,
  concat,
  expand,
  gather,
  mul,
  neg,
  pad,
  reshape,
  slice,
  split,
  stack,
  transpose,
} from "../../src/graph/index.ts";
import { type Array64, element, tabulate } from "./array64.ts";
import { inputs, type Samples, sample } from "./sample.ts";

const { uniform, integers } = inputs(3);

const reshaped =
  (...shape: number[]) =>
  (x: Array64): Array64 => ({ shape, data: x.data });

const transposed =
  (...order: number[]) =>
  (x: Array64): Array64 =>
    tabulate(
      order.map((axis) => x.shape[axis]!),
      (index) => {
        const place = x.shape.map(() => 0);
        order.forEach((axis, i) => {
          place[axis] = index[i]!;
        });
        return element(x, place);
      },
    );

const replaced = (index: readonly number[], axis: number, value: number) =>
  index.map((n, i) => (i === axis ? value : n));

/** Every `step`-th element from `start` up to `end`. */
export const sliced =
  (axis: number, start: number, end: number, step = 1) =>
  (x: Array64): Array64 =>
    tabulate(replaced(x.shape, axis, Math.ceil((end - start) / step)), (index) =>
      element(x, replaced(index, axis, start + index[axis]! * step)),
    );

const joined =
  (axis: number) =>
  (...parts: Array64[]): Array64 => {
    const total = parts.reduce((n, part) => n + part.shape[axis]!, 0);
    return tabulate(replaced(parts[0]!.shape, axis, total), (index) => {
      let place = index[axis]!;
      for (const part of parts) {
        if (place < part.shape[axis]!) return element(part, replaced(index, axis, place));
        place -= part.shape[axis]!;
      }
      return Number.NaN;
    });
  };

/** Zeros around x; negative widths cut. */
export const padded =
  (...widths: [number, number][]) =>
  (x: Array64): Array64 =>
    tabulate(
      x.shape.map((n, i) => n + widths[i]![0] + widths[i]![1]),
      (index) => {
        const place = index.map((n, i) => n - widths[i]![0]);
        return place.every((n, i) => n >= 0 && n < x.shape[i]!) ? element(x, place) : 0;
      },
    );

const rows = (table: Array64, indices: Array64): Array64 => {
  const rank = indices.shape.length;
  return tabulate([...indices.shape, ...table.shape.slice(1)], (index) =>
    element(table, [element(indices, index.slice(0, rank)), ...index.slice(rank)]),
  );
};

export const shape: Samples = {
  reshape: [
    sample("merging axes", [uniform([2, 3, 4])], (x) => reshape(x, [6, 4]), reshaped(6, 4)),
    sample("one axis left open", [uniform([2, 6])], (x) => reshape(x, [3, -1, 2]), reshaped(3, 2, 2)),
    sample("a scalar to four axes", [uniform([])], (x) => reshape(x, [1, 1, 1, 1]), reshaped(1, 1, 1, 1)),
    sample("twice", [uniform([2, 6])], (x) => reshape(reshape(x, [4, 3]), [3, 4]), reshaped(3, 4)),
  ],
  transpose: [
    sample("a matrix", [uniform([2, 5])], (x) => transpose(x, [1, 0]), transposed(1, 0)),
    sample("a cycle of three", [uniform([2, 3, 4])], (x) => transpose(x, [1, 2, 0]), transposed(1, 2, 0)),
    sample("four axes", [uniform([2, 1, 3, 4])], (x) => transpose(x, [0, 3, 1, 2]), transposed(0, 3, 1, 2)),
  ],
  expand: [
    sample(
      "inner axes",
      [uniform([2, 1, 3])],
      (x) => expand(x, [2, 4, 3]),
      (x) => tabulate([2, 4, 3], (i) => element(x, i)),
    ),
    sample(
      "new axes in front",
      [uniform([3])],
      (x) => expand(x, [2, 2, 3]),
      (x) => tabulate([2, 2, 3], (i) => element(x, i)),
    ),
    sample(
      "a scalar",
      [uniform([])],
      (x) => expand(x, [2, 3]),
      (x) => tabulate([2, 3], (i) => element(x, i)),
    ),
  ],
  concat: [
    sample("along the first axis", [uniform([2, 3]), uniform([1, 3])], (a, b) => concat([a, b], 0), joined(0)),
    sample(
      "three, along a middle axis",
      [uniform([2, 1, 2]), uniform([2, 3, 2]), uniform([2, 2, 2])],
      (...x) => concat(x, 1),
      joined(1),
    ),
    sample("a negative axis", [uniform([2, 2]), uniform([2, 3])], (a, b) => concat([a, b], -1), joined(1)),
    sample(
      "a tensor twice",
      [uniform([2, 2])],
      (x) => concat([x, x], 1),
      (x) => joined(1)(x, x),
    ),
    sample(
      "stacked",
      [uniform([2, 3]), uniform([2, 3])],
      (a, b) => stack([a, b]),
      (a, b) => reshaped(2, 2, 3)(joined(0)(a, b)),
    ),
  ],
  split: [
    sample(
      "unequal sizes",
      [uniform([2, 6])],
      (x) => split(x, [1, 3, 2], 1),
      (x) => [sliced(1, 0, 1)(x), sliced(1, 1, 4)(x), sliced(1, 4, 6)(x)],
    ),
    sample(
      "one piece unused",
      [uniform([6, 2])],
      (x) => mul(split(x, [2, 3, 1], 0)[1]!, 3),
      (x) => {
        const { shape, data } = sliced(0, 2, 5)(x);
        return { shape, data: data.map((value) => 3 * value) };
      },
    ),
    sample(
      "equal chunks along a negative axis",
      [uniform([2, 4, 3])],
      (x) => chunk(x, 2, -2),
      (x) => [sliced(1, 0, 2)(x), sliced(1, 2, 4)(x)],
    ),
  ],
  slice: [
    sample("a stretch", [uniform([5, 3])], (x) => slice(x, 0, 1, 4), sliced(0, 1, 4)),
    sample("to the end of a negative axis", [uniform([2, 5])], (x) => slice(x, -1, 2), sliced(1, 2, 5)),
    sample("negative positions", [uniform([2, 6])], (x) => slice(x, 1, -4, -1), sliced(1, 2, 5)),
    sample("step 2, last element taken", [uniform([2, 5, 2])], (x) => slice(x, 1, 0, 5, 2), sliced(1, 0, 5, 2)),
    sample("step 2, last element not taken", [uniform([6])], (x) => slice(x, 0, 1, 6, 2), sliced(0, 1, 6, 2)),
    sample("step 3 up to before the end", [uniform([3, 9])], (x) => slice(x, 1, 1, 6, 3), sliced(1, 1, 6, 3)),
    sample("a step longer than the stretch", [uniform([7])], (x) => slice(x, 0, 2, 4, 5), sliced(0, 2, 4, 5)),
  ],
  pad: [
    sample("on both sides of two axes", [uniform([2, 3])], (x) => pad(x, [[1, 0], [2, 3]]), padded([1, 0], [2, 3])), // biome-ignore format: one line
    sample("cut by negative widths", [uniform([4, 5])], (x) => pad(x, [[-1, 0], [-1, -2]]), padded([-1, 0], [-1, -2])), // biome-ignore format: one line
    sample("cut on one side, filled on the other", [uniform([4])], (x) => pad(x, [[-2, 3]]), padded([-2, 3])),
  ],
  gather: [
    sample("rows in any order", [uniform([4, 3]), int64([3], [2, 0, 3])], gather, rows),
    sample("rows taken several times", [uniform([3, 2]), int64([5], [1, 1, 0, 1, 0])], gather, rows),
    sample("indices of two axes, rows of two axes", [uniform([5, 2, 2]), integers([2, 3], 0, 5)], gather, rows),
    sample("one index, rows of one number", [uniform([6]), int64([], [4])], gather, rows),
    sample(
      "int32 indices",
      [uniform([3, 2]), { dtype: "int32", shape: [4], data: Int32Array.of(2, 2, 0, 1) }],
      (table, indices) => neg(gather(table, indices)),
      (table, indices) => {
        const { shape, data } = rows(table, indices);
        return { shape, data: data.map((value) => -value) };
      },
    ),
  ],
};
