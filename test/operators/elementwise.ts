import { float32, hostTensor, type Shape } from "../../src/core/host-tensor.ts";
import {
  abs,
  add,
  cast,
  clip,
  cos,
  div,
  equal,
  erf,
  exp,
  floor,
  greater,
  greaterOrEqual,
  leakyRelu,
  less,
  lessOrEqual,
  log,
  maximum,
  minimum,
  mul,
  neg,
  not,
  pow,
  reciprocal,
  relu,
  round,
  sign,
  sin,
  sqrt,
  stopGradient,
  sub,
  type Tensor,
  tanh,
  where,
} from "../../src/graph/index.ts";
import { type Array64, broadcast, element, tabulate } from "./array64.ts";
import { bools, inputs, type Sample, type Samples, sample } from "./sample.ts";

const { uniform, awayFromZero, distinct, integers } = inputs(1);

/** f of each element. */
export const map =
  (f: (x: number) => number) =>
  ({ shape, data }: Array64): Array64 => ({ shape, data: data.map(f) });

/** f of each pair of elements, broadcast. */
export const pairs =
  (f: (a: number, b: number) => number) =>
  (a: Array64, b: Array64): Array64 =>
    tabulate(broadcast(a.shape, b.shape), (i) => f(element(a, i), element(b, i)));

/**
 * The error function by its Maclaurin series below 3 and the continued fraction of erfc above (Abramowitz & Stegun
 * 7.1.6 and 7.1.14), to about 1e-13.
 */
export function erf64(x: number): number {
  const z = Math.abs(x);
  if (z > 3) {
    let fraction = 0;
    for (let k = 60; k > 0; k--) fraction = k / 2 / (z + fraction);
    return Math.sign(x) * (1 - Math.exp(-z * z) / (Math.sqrt(Math.PI) * (z + fraction)));
  }
  let term = x;
  let total = x;
  for (let n = 0; Math.abs(term) > 1e-17 && n < 100; n++) {
    term *= (2 * x * x) / (2 * n + 3);
    total += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * total;
}

/** The nearest integer, halves to even. */
const roundToEven = (x: number) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

function unary(op: (x: Tensor) => Tensor, f: (x: number) => number, values = uniform): Sample[] {
  return [
    sample("a matrix", [values([3, 5])], op, map(f)),
    sample("a scalar", [values([])], op, map(f)),
    sample("four axes, one of size 1", [values([2, 1, 3, 2])], op, map(f)),
  ];
}

const positive = (shape: Shape) => uniform(shape, 0.3, 3);
/** Where a function with a kink is tested by the convention it keeps there. */
const kink = (
  op: Sample["build"],
  f: (x: number) => number,
  values: readonly number[],
  derivative: readonly number[],
): Sample =>
  sample(`at the kinks ${values.join(", ")}`, [float32([values.length], values)], op, map(f), {
    convention: [derivative],
  });

function binary(
  op: (a: Tensor, b: Tensor) => Tensor,
  f: (a: number, b: number) => number,
  first: (shape: Shape) => ReturnType<typeof uniform> = uniform,
  second = first,
): Sample[] {
  const shapes: [string, Shape, Shape][] = [
    ["equal shapes", [3, 4], [3, 4]],
    ["a row repeated", [2, 3, 4], [4]],
    ["a column repeated", [2, 3, 4], [3, 1]],
    ["both sides repeated", [3, 1, 2], [1, 4, 1]],
    ["a scalar in front", [], [2, 5]],
    ["a longer shape behind", [2, 1], [2, 3, 2, 3]],
    ["single elements of different rank", [1], [1, 1, 1]],
  ];
  return shapes.map(([name, a, b]) => sample(name, [first(a), second(b)], op, pairs(f)));
}

function comparison(op: (a: Tensor, b: Tensor) => Tensor, f: (a: number, b: number) => boolean): Sample[] {
  const reference = pairs((a, b) => Number(f(a, b)));
  return [
    sample("with ties", [float32([4], [1, 2, 3, -1]), float32([4], [2, 2, 1, -1])], op, reference),
    sample("broadcast", [uniform([3, 1]), uniform([1, 4])], op, reference),
    sample("integers", [integers([3, 4], 0, 3), integers([4], 0, 3)], op, reference),
  ];
}

const choose = (c: Array64, a: Array64, b: Array64) =>
  tabulate(broadcast(c.shape, a.shape, b.shape), (i) => (element(c, i) ? element(a, i) : element(b, i)));

const limit = (low: number, high: number) => (x: number) => Math.min(Math.max(x, low), high);
const leaky = (slope: number) => (x: number) => (x > 0 ? x : slope * x);

export const elementwise: Samples = {
  neg: unary(neg, (x) => -x),
  exp: unary(exp, Math.exp),
  log: unary(log, Math.log, positive),
  sqrt: unary(sqrt, Math.sqrt, positive),
  reciprocal: unary(reciprocal, (x) => 1 / x, awayFromZero),
  abs: [...unary(abs, Math.abs, awayFromZero), kink(abs, Math.abs, [0, -1, 2], [0, -1, 1])],
  sign: [
    ...unary(sign, Math.sign),
    sample("at 0", [float32([3], [0, -0.5, 4])], sign, map(Math.sign)), //
  ],
  sin: unary(sin, Math.sin),
  cos: unary(cos, Math.cos),
  tanh: unary(tanh, Math.tanh),
  erf: unary(erf, erf64, (shape) => uniform(shape, -4, 4)),
  floor: [
    ...unary(floor, Math.floor),
    sample("at whole numbers", [float32([4], [-2, -0.25, 0, 3])], floor, map(Math.floor)),
  ],
  round: [
    ...unary(round, roundToEven),
    sample("halves go to even", [float32([6], [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])], round, map(roundToEven)),
  ],
  not: [
    sample(
      "a matrix",
      [bools([2, 2], [0, 1, 1, 0])],
      not,
      map((x) => 1 - x),
    ),
  ],
  stopGradient: [
    sample("alone", [float32([3], [1, 2, 3])], stopGradient, (x) => x, { convention: [[0, 0, 0]] }),
    // d(x·stop(x)) is stop(x), not 2x.
    sample(
      "as a factor",
      [float32([3], [1, 2, 3])],
      (x) => mul(x, stopGradient(x)),
      map((x) => x * x),
      {
        convention: [[1, 2, 3]],
      },
    ),
  ],
  add: [
    ...binary(add, (a, b) => a + b),
    sample(
      "a number behind",
      [uniform([2, 3])],
      (x) => add(x, 2.5),
      map((x) => x + 2.5),
    ),
    sample(
      "a tensor to itself",
      [uniform([2, 3])],
      (x) => add(x, x),
      map((x) => 2 * x),
    ),
  ],
  sub: [
    ...binary(sub, (a, b) => a - b),
    sample(
      "from a number",
      [uniform([2, 3])],
      (x) => sub(1, x),
      map((x) => 1 - x),
    ),
  ],
  mul: [
    ...binary(mul, (a, b) => a * b),
    sample(
      "a tensor by itself",
      [uniform([2, 3])],
      (x) => mul(x, x),
      map((x) => x * x),
    ),
  ],
  div: [
    ...binary(div, (a, b) => a / b, uniform, awayFromZero),
    sample(
      "a number by a tensor",
      [awayFromZero([2, 3])],
      (x) => div(3, x),
      map((x) => 3 / x),
    ),
  ],
  pow: [
    ...binary(pow, (a, b) => a ** b, positive, uniform),
    sample(
      "a constant exponent",
      [awayFromZero([7])],
      (x) => pow(x, 3),
      map((x) => x ** 3),
    ),
    sample(
      "a negative exponent",
      [positive([7])],
      (x) => pow(x, -1.5),
      map((x) => x ** -1.5),
    ),
    sample(
      "a constant base",
      [uniform([7])],
      (x) => pow(10_000, x),
      map((x) => 10_000 ** x),
    ),
    sample(
      "0 squared",
      [float32([2], [0, -3])],
      (x) => pow(x, 2),
      map((x) => x ** 2),
      { convention: [[0, -6]] },
    ),
    sample(
      "0 to a power that varies",
      [float32([2], [0, 2]), float32([2], [2, 1])],
      pow,
      pairs((a, b) => a ** b),
      {
        convention: [
          [0, 1],
          [0, 2 * Math.LN2],
        ],
      },
    ),
  ],
  minimum: [
    ...binary(minimum, Math.min, distinct, awayFromZero),
    sample("ties go to the first", [float32([3], [1, 2, 3]), float32([3], [2, 2, 2])], minimum, pairs(Math.min), {
      convention: [
        [1, 1, 0],
        [0, 0, 1],
      ],
    }),
  ],
  maximum: [
    ...binary(maximum, Math.max, distinct, awayFromZero),
    sample("ties go to the first", [float32([3], [1, 2, 3]), float32([3], [2, 2, 2])], maximum, pairs(Math.max), {
      convention: [
        [0, 1, 1],
        [1, 0, 0],
      ],
    }),
  ],
  less: comparison(less, (a, b) => a < b),
  lessOrEqual: comparison(lessOrEqual, (a, b) => a <= b),
  greater: comparison(greater, (a, b) => a > b),
  greaterOrEqual: comparison(greaterOrEqual, (a, b) => a >= b),
  equal: comparison(equal, (a, b) => a === b),
  where: [
    sample("equal shapes", [bools([2, 2], [1, 0, 0, 1]), uniform([2, 2]), uniform([2, 2])], where, choose),
    sample("all three repeated", [bools([3, 1], [1, 0, 1]), uniform([4]), uniform([2, 1, 1])], where, choose),
    sample(
      "a number for either",
      [bools([4], [1, 0, 1, 0]), uniform([4])],
      (c, x) => add(where(c, x, 0), where(c, 5, x)),
      (c, x) => tabulate([4], ([i]) => (c.data[i!] ? x.data[i!]! + 5 : x.data[i!]!)),
    ),
  ],
  cast: [
    sample(
      "int64 to float32",
      [integers([2, 3], -5, 5)],
      (x) => cast(x, "float32"),
      (x) => x,
    ),
    sample(
      "uint8 to float32",
      [hostTensor("uint8", [3], Uint8Array.of(0, 7, 255))],
      (x) => cast(x, "float32"),
      (x) => x,
    ),
    sample(
      "bool to float32",
      [bools([3], [1, 0, 1])],
      (x) => cast(x, "float32"),
      (x) => x,
    ),
    sample(
      "float32 through float64",
      [uniform([3])],
      (x) => cast(mul(cast(x, "float64"), 2), "float32"),
      map((x) => 2 * x),
    ),
    sample(
      "float32 through float16",
      [float32([3], [0.5, -2, 1024])],
      (x) => cast(cast(x, "float16"), "float32"),
      (x) => x,
      {
        convention: [[1, 1, 1]],
      },
    ),
    sample(
      "no gradient through integers",
      [float32([3], [1.5, -2.5, 3])],
      (x) => cast(cast(x, "int64"), "float32"),
      map(Math.trunc),
      {
        convention: [[0, 0, 0]],
      },
    ),
  ],
  clip: [
    sample("some cut", [distinct([5, 5])], (x) => clip(x, -0.77, 0.53), map(limit(-0.77, 0.53))),
    kink((x) => clip(x, -1, 1), limit(-1, 1), [-1, 1, -2, 2, 0], [1, 1, 0, 0, 1]),
  ],
  leakyRelu: [
    ...unary(relu, leaky(0), awayFromZero),
    sample("slope 0.2", [awayFromZero([3, 4])], (x) => leakyRelu(x, 0.2), map(leaky(0.2))),
    kink((x) => leakyRelu(x, 0.25), leaky(0.25), [0, -1, 1], [0.25, 0.25, 1]),
  ],
};
