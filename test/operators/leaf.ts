import { float32, hostTensor, int64 } from "../../src/core/host-tensor.ts";
import { add, cast, constant, filled, mul, scalar, values, zerosLike } from "../../src/graph/index.ts";
import { tabulate } from "./array64.ts";
import { map } from "./elementwise.ts";
import { inputs, type Samples, sample } from "./sample.ts";

const { uniform } = inputs(8);
const rest = values([2, 2], [1, -2, 3.5, 0]);

export const leaf: Samples = {
  input: [
    sample(
      "float32",
      [uniform([2, 3])],
      (x) => x,
      (x) => x,
    ),
    sample(
      "a scalar of int64",
      [int64([], [7])],
      (x) => cast(x, "float32"),
      (x) => x,
    ),
    sample(
      "bool",
      [hostTensor("bool", [2], Uint8Array.of(1, 0))],
      (x) => x,
      (x) => x,
    ),
  ],
  parameter: [
    sample(
      "bound to data",
      [uniform([3])],
      (x) => x,
      (x) => x,
      { weights: [0] },
    ),
  ],
  constant: [
    sample(
      "a matrix",
      [uniform([2, 2])],
      (x) => mul(x, rest),
      (x) => ({
        shape: [2, 2],
        data: x.data.map((value, i) => value * [1, -2, 3.5, 0][i]!),
      }),
    ),
    sample(
      "a scalar and zeros",
      [uniform([4])],
      (x) => add(mul(x, scalar(3)), zerosLike(x)),
      map((x) => 3 * x),
    ),
    sample(
      "larger than is shared",
      [uniform([1])],
      (x) => mul(x, filled([100], 0.5)),
      (x) => tabulate([100], () => 0.5 * x.data[0]!),
    ),
    sample(
      "float16",
      [uniform([2])],
      (x) => mul(x, cast(filled([2], 1.5, "float16"), "float32")),
      map((x) => 1.5 * x),
    ),
    sample(
      "bfloat16",
      [uniform([2])],
      (x) => mul(x, cast(scalar(-0.5, "bfloat16"), "float32")),
      map((x) => -0.5 * x),
    ),
    sample(
      "int64",
      [float32([2], [1, 2])],
      (x) => add(x, cast(constant(int64([2], [-4, 9])), "float32")),
      (x) => ({
        shape: [2],
        data: Float64Array.of(x.data[0]! - 4, x.data[1]! + 9),
      }),
    ),
  ],
};
