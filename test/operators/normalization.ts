import { groupNorm, layerNorm, scaleAndShift } from "../../src/graph/index.ts";
import { alongLast } from "./activation.ts";
import { type Array64, element, tabulate } from "./array64.ts";
import { inputs, type Samples, sample } from "./sample.ts";

const { uniform } = inputs(6);

/** (x − mean) / √(variance + ε) of a run of numbers. */
function normalized(values: Float64Array, epsilon: number): Float64Array {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length;
  return values.map((x) => (x - mean) / Math.sqrt(variance + epsilon));
}

/** x [n, c, …] normalized over groups of channels, then scaled and shifted by channel. */
export const groupNorm64 =
  (groups: number, epsilon: number) =>
  (x: Array64, scale: Array64, shift: Array64): Array64 => {
    const flat = { shape: [x.shape[0]! * groups, x.data.length / x.shape[0]! / groups], data: x.data };
    const normal = { shape: x.shape, data: alongLast(flat, (row) => normalized(row, epsilon)).data };
    return tabulate(x.shape, (index) => element(normal, index) * scale.data[index[1]!]! + shift.data[index[1]!]!);
  };

const layerNorm64 =
  (epsilon: number) =>
  (x: Array64, scale?: Array64, shift?: Array64): Array64 =>
    alongLast(x, (row) =>
      normalized(row, epsilon).map((value, i) => value * (scale?.data[i] ?? 1) + (shift?.data[i] ?? 0)),
    );

const scaleAndShift64 = (x: Array64, scale: Array64, shift?: Array64, added?: Array64): Array64 =>
  tabulate(x.shape, (index) => {
    const channel = index.slice(0, 2);
    return (
      element(x, index) * element(scale, channel) +
      (shift ? element(shift, channel) : 0) +
      (added ? element(added, index) : 0)
    );
  });

const grouped = (
  name: string,
  shape: number[],
  groups: number,
  epsilon: number,
  [low, high] = [-2, 2],
  tolerance?: number,
) =>
  sample(
    name,
    [uniform(shape, low, high), uniform([shape[1]!]), uniform([shape[1]!])],
    (x, scale, shift) => groupNorm(x, scale, shift, groups, epsilon),
    groupNorm64(groups, epsilon),
    { tolerance },
  );

export const normalization: Samples = {
  groupNorm: [
    grouped("two groups", [2, 4, 3, 3], 2, 1e-5),
    grouped("one group", [1, 3, 2, 5], 1, 1e-6),
    grouped("as many groups as channels", [2, 3, 2, 4], 3, 1e-5),
    grouped("[n, c, length]", [2, 6, 5], 3, 1e-3),
    grouped("five axes", [1, 4, 2, 3, 2], 2, 1e-5),
    grouped("a large epsilon", [2, 4, 2, 2], 2, 0.5),
    // A float32 near 9 is known to 5e-7, which is 1e-6 of the deviation: what is lost is lost before the operator.
    grouped("means far from zero", [2, 4, 4, 4], 2, 1e-5, [8, 10], 1e-4),
  ],
  scaleAndShift: [
    sample(
      "scale only",
      [uniform([2, 3, 2, 2]), uniform([2, 3])],
      (x, scale) => scaleAndShift(x, scale),
      (x, scale) => scaleAndShift64(x, scale),
    ),
    sample(
      "scale and shift",
      [uniform([2, 3, 4]), uniform([2, 3]), uniform([2, 3])],
      (x, scale, shift) => scaleAndShift(x, scale, shift),
      (x, scale, shift) => scaleAndShift64(x, scale, shift),
    ),
    sample(
      "something added",
      [uniform([1, 4, 3, 5]), uniform([1, 4]), uniform([1, 4, 3, 5])],
      (x, scale, added) => scaleAndShift(x, scale, undefined, added),
      (x, scale, added) => scaleAndShift64(x, scale, undefined, added),
    ),
    sample(
      "scale, shift and something added, five axes",
      [uniform([2, 2, 1, 3, 2]), uniform([2, 2]), uniform([2, 2]), uniform([2, 2, 1, 3, 2])],
      scaleAndShift,
      scaleAndShift64,
    ),
    sample(
      "two axes",
      [uniform([3, 2]), uniform([3, 2]), uniform([3, 2])],
      (x, scale, shift) => scaleAndShift(x, scale, shift),
      (x, scale, shift) => scaleAndShift64(x, scale, shift),
    ),
  ],
  layerNorm: [
    sample(
      "scale and shift",
      [uniform([2, 3, 5]), uniform([5]), uniform([5])],
      (x, scale, shift) => layerNorm(x, scale, shift),
      layerNorm64(1e-5),
    ),
    sample("scale only", [uniform([4, 6]), uniform([6])], (x, scale) => layerNorm(x, scale), layerNorm64(1e-5)),
    sample("neither", [uniform([2, 7])], (x) => layerNorm(x, undefined, undefined, 1e-6), layerNorm64(1e-6)),
    sample(
      "a single row",
      [uniform([5]), uniform([5])],
      (x, scale) => layerNorm(x, scale, undefined, 0.1),
      layerNorm64(0.1),
    ),
  ],
};
