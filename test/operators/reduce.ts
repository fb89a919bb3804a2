import { float32 } from "../../src/core/host-tensor.ts";
import { argMax, argMin, max, mean, mul, sum, sumSquares, sumTo, type Tensor } from "../../src/graph/index.ts";
import { type Array64, element, tabulate } from "./array64.ts";
import { inputs, type Sample, type Samples, sample } from "./sample.ts";

const { uniform, distinct } = inputs(2);

/** f of the elements that lie along `axes` (counted from the front) at each remaining position. */
export function reduce64(x: Array64, axes: readonly number[], keepDims: boolean, f: (values: number[]) => number) {
  const inner = axes.map((axis) => x.shape[axis]!);
  const kept = tabulate(
    x.shape.map((n, axis) => (axes.includes(axis) ? 1 : n)),
    (index) => {
      const values: number[] = [];
      tabulate(inner, (offset) => {
        const place = [...index];
        axes.forEach((axis, i) => {
          place[axis] = offset[i]!;
        });
        values.push(element(x, place));
        return 0;
      });
      return f(values);
    },
  );
  return keepDims ? kept : { shape: x.shape.filter((_, axis) => !axes.includes(axis)), data: kept.data };
}

const total = (values: number[]) => values.reduce((a, b) => a + b, 0);
type Reduction = (x: Tensor, axes?: readonly number[] | number, options?: { keepDims?: boolean }) => Tensor;

function reduction(op: Reduction, f: (values: number[]) => number, values = uniform): Sample[] {
  return [
    sample(
      "everything",
      [values([3, 4])],
      (x) => op(x),
      (x) => reduce64(x, [0, 1], false, f),
    ),
    sample(
      "a scalar",
      [values([])],
      (x) => op(x),
      (x) => reduce64(x, [], false, f),
      { simplified: true },
    ),
    sample(
      "the first axis",
      [values([3, 2, 2])],
      (x) => op(x, 0),
      (x) => reduce64(x, [0], false, f),
    ),
    sample(
      "a middle axis, kept",
      [values([2, 3, 2])],
      (x) => op(x, 1, { keepDims: true }),
      (x) => reduce64(x, [1], true, f),
    ),
    sample(
      "a negative axis",
      [values([2, 3, 5])],
      (x) => op(x, -1),
      (x) => reduce64(x, [2], false, f),
    ),
    sample(
      "axes out of order",
      [values([2, 3, 2, 2])],
      (x) => op(x, [-1, 1]),
      (x) => reduce64(x, [1, 3], false, f),
    ),
    sample(
      "an axis of size 1",
      [values([3, 1, 2])],
      (x) => op(x, [1]),
      (x) => reduce64(x, [1], false, f),
    ),
    sample(
      "no axes",
      [values([2, 3])],
      (x) => op(x, []),
      (x) => reduce64(x, [], false, f),
      { simplified: true },
    ),
  ];
}

const largest = (values: number[]) => Math.max(...values);
const place = (of: (values: number[]) => number) => (values: number[]) => values.indexOf(of(values));
const tied = float32([2, 4], [1, 3, 3, 0, -1, -1, -2, -2]);

export const reduce: Samples = {
  sum: [
    ...reduction(sum, total),
    sample(
      "of what was broadcast (sumTo)",
      [uniform([2, 3, 4])],
      (x) => sumTo(x, [3, 1]),
      (x) => ({
        shape: [3, 1],
        data: reduce64(x, [0, 2], false, total).data,
      }),
    ),
  ],
  mean: reduction(mean, (values) => total(values) / values.length),
  sumSquares: reduction(sumSquares, (values) => total(values.map((x) => x * x))),
  max: [
    ...reduction(max, largest, distinct),
    sample(
      "ties all get the gradient",
      [tied],
      (x) => max(x, 1),
      (x) => reduce64(x, [1], false, largest),
      {
        convention: [[0, 1, 1, 0, 1, 1, 0, 0]],
      },
    ),
  ],
  argMax: [
    sample(
      "the last axis",
      [uniform([3, 5])],
      (x) => argMax(x, -1),
      (x) => reduce64(x, [1], false, place(largest)),
    ),
    sample(
      "the first axis",
      [uniform([4, 2, 2])],
      (x) => argMax(x, 0),
      (x) => reduce64(x, [0], false, place(largest)),
    ),
    sample(
      "the first of ties",
      [tied],
      (x) => argMax(x, 1),
      (x) => reduce64(x, [1], false, place(largest)),
    ),
    sample(
      "the smallest",
      [tied],
      (x) => argMin(mul(x, 2), 1),
      (x) =>
        reduce64(
          x,
          [1],
          false,
          place((values) => Math.min(...values)),
        ),
    ),
  ],
};
