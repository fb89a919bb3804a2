import type { Shape } from "../../src/core/host-tensor.ts";
import {
  gelu,
  logSoftmax as logSoftmaxOf,
  quickGelu,
  sigmoid,
  silu,
  softmax as softmaxOf,
  softplus,
  type Tensor,
} from "../../src/graph/index.ts";
import type { Array64 } from "./array64.ts";
import { erf64, map } from "./elementwise.ts";
import { inputs, type Sample, type Samples, sample } from "./sample.ts";

const { uniform } = inputs(5);
const logistic = (x: number) => 1 / (1 + Math.exp(-x));

function unary(op: (x: Tensor) => Tensor, f: (x: number) => number): Sample[] {
  return [
    sample("small numbers", [uniform([3, 4])], op, map(f)),
    sample("large numbers", [uniform([2, 1, 9], -12, 12)], op, map(f)),
    sample("a scalar", [uniform([])], op, map(f)),
    sample("images", [uniform([2, 3, 2, 5])], op, map(f)),
    sample("37 numbers: no multiple of a vector's width", [uniform([37], -4, 4)], op, map(f)),
  ];
}

/** Applies f to each run of elements along the last axis. */
export function alongLast(x: Array64, f: (row: Float64Array) => Float64Array): Array64 {
  const width = x.shape.at(-1)!;
  const data = new Float64Array(x.data.length);
  for (let start = 0; start < data.length; start += width) data.set(f(x.data.slice(start, start + width)), start);
  return { shape: x.shape, data };
}

export function softmax64(x: Array64): Array64 {
  return alongLast(x, (row) => {
    const top = Math.max(...row);
    const powers = row.map((value) => Math.exp(value - top));
    const total = powers.reduce((a, b) => a + b, 0);
    return powers.map((value) => value / total);
  });
}

const logSoftmax64 = (x: Array64) => map(Math.log)(softmax64(x));

function rows(op: (x: Tensor) => Tensor, reference: (x: Array64) => Array64): Sample[] {
  const shapes: Shape[] = [[7], [3, 5], [2, 2, 3, 4], [2, 1]];
  return [
    ...shapes.map((shape) => sample(`shape [${shape}]`, [uniform(shape)], op, reference)),
    sample("large numbers", [uniform([3, 4], -40, 40)], op, reference),
  ];
}

const gelu64 = (x: number) => (x / 2) * (1 + erf64(x * Math.SQRT1_2));
const geluTanh64 = (x: number) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

export const activation: Samples = {
  sigmoid: unary(sigmoid, logistic),
  swish: [
    ...unary(silu, (x) => x * logistic(x)),
    ...unary(quickGelu, (x) => x * logistic(1.702 * x)).map((s) => ({ ...s, name: `factor 1.702, ${s.name}` })),
  ],
  gelu: [
    ...unary(gelu, gelu64),
    ...unary((x) => gelu(x, "tanh"), geluTanh64).map((s) => ({ ...s, name: `by tanh, ${s.name}` })),
  ],
  softplus: unary(softplus, (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)))),
  softmax: rows(softmaxOf, softmax64),
  logSoftmax: rows(logSoftmaxOf, logSoftmax64),
};
