import { int64 } from "../../src/core/host-tensor.ts";
import {
  add,
  chunk,
  concat,
  conv2d,
  gather,
  gelu,
  gradients,
  groupNorm,
  layerNorm,
  matmul,
  mean,
  mul,
  oneHot,
  reshape,
  rmsNorm,
  silu,
  slice,
  softmax,
  sub,
  sum,
  type Tensor,
  transpose,
  zerosLike,
} from "../../src/graph/index.ts";
import { alongLast, softmax64 } from "./activation.ts";
import { type Array64, element, tabulate } from "./array64.ts";
import { conv64 } from "./conv.ts";
import { erf64, map, pairs } from "./elementwise.ts";
import { matmul64 } from "./matmul.ts";
import { groupNorm64 } from "./normalization.ts";
import { inputs, type Sample, sample } from "./sample.ts";

const { uniform, integers } = inputs(9);

const rmsNorm64 =
  (epsilon: number) =>
  (x: Array64, scale?: Array64): Array64 =>
    alongLast(x, (row) => {
      const square = row.reduce((a, b) => a + b * b, 0) / row.length;
      return row.map((value, i) => (value / Math.sqrt(square + epsilon)) * (scale?.data[i] ?? 1));
    });

/** Attention of q over k and v [heads, tokens, width]. */
function attention(q: Tensor, k: Tensor, v: Tensor): Tensor {
  const scores = matmul(q, k, { transB: true, alpha: 1 / Math.sqrt(q.shape.at(-1)!) });
  return matmul(softmax(scores), v);
}

const attention64 = (q: Array64, k: Array64, v: Array64) =>
  matmul64(softmax64(matmul64(q, k, { transB: true, alpha: 1 / Math.sqrt(q.shape.at(-1)!) })), v);

/** dx of x̂ = (x − μ)·r along rows, for the gradient g of x̂: r·(g − mean(g) − x̂·mean(g·x̂)). */
const normalizationGradient64 =
  (epsilon: number) =>
  (x: Array64, g: Array64): Array64 => {
    const width = x.shape.at(-1)!;
    const average = (values: Float64Array) => values.reduce((a, b) => a + b, 0) / width;
    const data = new Float64Array(x.data.length);
    for (let start = 0; start < data.length; start += width) {
      const row = x.data.slice(start, start + width);
      const gradient = g.data.slice(start, start + width);
      const mu = average(row);
      const r = 1 / Math.sqrt(average(row.map((value) => (value - mu) ** 2)) + epsilon);
      const normal = row.map((value) => (value - mu) * r);
      const along = average(gradient.map((value, i) => value * normal[i]!));
      const rest = average(gradient);
      gradient.forEach((value, i) => {
        data[start + i] = r * (value - rest - normal[i]! * along);
      });
    }
    return { shape: x.shape, data };
  };

const siluOf = map((x) => x / (1 + Math.exp(-x)));
const sum64 = pairs((a, b) => a + b);

/** Functions made of several operators: where a gradient of one meets that of another. */
export const composites: readonly Sample[] = [
  sample("rmsNorm with a scale", [uniform([2, 3, 5]), uniform([5])], (x, s) => rmsNorm(x, s), rmsNorm64(1e-6)),
  sample("rmsNorm without a scale", [uniform([3, 4])], (x) => rmsNorm(x, undefined, 0.01), rmsNorm64(0.01)),
  sample("attention", [uniform([2, 3, 4]), uniform([2, 5, 4]), uniform([2, 5, 4])], attention, attention64),
  sample(
    "attention to itself, all heads from one product",
    [uniform([3, 4]), uniform([12, 4])],
    (x, w) => {
      const heads = reshape(matmul(x, w, { transB: true }), [3, 3, 2, 2]); // [tokens, q/k/v, heads, width]
      const parts = chunk(transpose(heads, [1, 2, 0, 3]), 3, 0).map((part) => reshape(part, [2, 3, 2]));
      return attention(parts[0]!, parts[1]!, parts[2]!);
    },
    (x, w) => {
      const all = matmul64(x, w, { transB: true });
      const part = (which: number) =>
        tabulate([2, 3, 2], ([head, token, i]) => element(all, [token!, which * 4 + head! * 2 + i!]));
      return attention64(part(0), part(1), part(2));
    },
  ),
  sample(
    "a residual block",
    [uniform([2, 4, 3, 3]), uniform([4]), uniform([4]), uniform([4, 4, 3, 3]), uniform([4])],
    (x, scale, shift, w, b) => add(x!, conv2d(silu(groupNorm(x!, scale!, shift!, 2)), w!, b, { padding: 1 })),
    (x, scale, shift, w, b) =>
      sum64(x!, conv64({ padding: 1 })(siluOf(groupNorm64(2, 1e-5)(x!, scale!, shift!)), w!, b)),
  ),
  sample(
    "a convolution kernel used twice",
    [uniform([1, 2, 4, 4]), uniform([2, 2, 3, 3])],
    (x, w) => conv2d(conv2d(x, w, undefined, { padding: 1 }), w, undefined, { stride: 2, padding: 1 }),
    (x, w) => conv64({ stride: 2, padding: 1 })(conv64({ padding: 1 })(x, w), w),
  ),
  sample(
    "an embedding added to a gated linear unit",
    [uniform([4, 3]), int64([5], [3, 0, 3, 3, 1]), uniform([6, 3])],
    (table, indices, w) => {
      const x = gather(table, indices);
      const [value, gate] = chunk(matmul(x, w, { transB: true }), 2, -1);
      return add(x, mul(value!, gelu(gate!)));
    },
    (table, indices, w) => {
      const x = tabulate([5, 3], ([i, j]) => element(table, [indices.data[i!]!, j!]));
      const y = matmul64(x, w, { transB: true });
      return tabulate([5, 3], ([i, j]) => {
        const gate = element(y, [i!, j! + 3]);
        return element(x, [i!, j!]) + (element(y, [i!, j!]) * gate * (1 + erf64(gate * Math.SQRT1_2))) / 2;
      });
    },
  ),
  sample(
    "a mean squared error of normalized rows against one-hot targets",
    [uniform([3, 4]), uniform([4]), integers([3], 0, 4)],
    (x, scale, classes) => {
      const difference = sub(layerNorm(x, scale), oneHot(classes, 4));
      return mean(mul(difference, difference));
    },
    (x, scale, classes) => {
      let total = 0;
      for (let i = 0; i < 3; i++) {
        const row = x.data.slice(4 * i, 4 * i + 4);
        const mu = row.reduce((a, b) => a + b, 0) / 4;
        const r = 1 / Math.sqrt(row.reduce((a, b) => a + (b - mu) ** 2, 0) / 4 + 1e-5);
        row.forEach((value, j) => {
          total += ((value - mu) * r * scale.data[j]! - (classes.data[i] === j ? 1 : 0)) ** 2;
        });
      }
      return { shape: [], data: Float64Array.of(total / 12) };
    },
  ),
  sample(
    "overlapping slices with steps, joined again",
    [uniform([3, 8])],
    (x) =>
      concat([slice(x, 1, 0, 8, 3), mul(slice(x, -1, 1, 6, 2), x.shape[0]!), slice(slice(x, 1, 2), 1, 0, 5, 4)], 1),
    (x) =>
      tabulate([3, 8], ([row, i]) => {
        const [column, factor] = [[0, 1], [3, 1], [6, 1], [1, 3], [3, 3], [5, 3], [2, 1], [6, 1]][i!] as [number, number]; // biome-ignore format: a table
        return factor * element(x, [row!, column]);
      }),
  ),
  // Gradients as functions of their own: what is tested backward here is a second-order gradient.
  sample(
    "the gradient of layerNorm",
    [uniform([2, 5]), uniform([5]), uniform([2, 5])],
    (x, scale, weights) => gradients(sum(mul(layerNorm(x, scale), weights)), [x])[0]!,
    (x, scale, weights) => normalizationGradient64(1e-5)(x, pairs((a, b) => a * b)(weights, scale)),
  ),
  sample(
    "the gradient of layerNorm to its scale",
    [uniform([2, 5]), uniform([5]), uniform([2, 5])],
    (x, scale, weights) => gradients(sum(mul(layerNorm(x, scale), weights)), [scale])[0]!,
    (x, _, weights) => {
      const normal = alongLast(x, (row) => {
        const mu = row.reduce((a, b) => a + b, 0) / 5;
        const r = 1 / Math.sqrt(row.reduce((a, b) => a + (b - mu) ** 2, 0) / 5 + 1e-5);
        return row.map((value) => (value - mu) * r);
      });
      return tabulate([5], ([j]) =>
        [0, 1].reduce((n, i) => n + element(normal, [i, j!]) * element(weights, [i, j!]), 0),
      );
    },
  ),
  sample(
    "the gradient of groupNorm",
    [uniform([2, 4, 3]), uniform([4]), uniform([2, 4, 3])],
    (x, scale, weights) => gradients(sum(mul(groupNorm(x, scale, zerosLike(scale), 2), weights)), [x])[0]!,
    (x, scale, weights) => {
      const g = tabulate(x.shape, (i) => element(weights, i) * scale.data[i[1]!]!);
      const rows = (a: Array64) => ({ shape: [4, 6], data: a.data });
      return { shape: x.shape, data: normalizationGradient64(1e-5)(rows(x), rows(g)).data };
    },
  ),
  sample(
    "the gradient of a strided convolution to its kernel",
    [uniform([1, 2, 5, 5]), uniform([2, 2, 3, 3]), uniform([1, 2, 3, 3])],
    (x, w, weights) => gradients(sum(mul(conv2d(x, w, undefined, { stride: 2, padding: 1 }), weights)), [w])[0]!,
    (x, w, weights) =>
      tabulate(w.shape, ([o, c, u, v]) => {
        let total = 0;
        for (let i = 0; i < 3; i++)
          for (let j = 0; j < 3; j++) {
            const [row, column] = [2 * i + u! - 1, 2 * j + v! - 1];
            if (row < 0 || row > 4 || column < 0 || column > 4) continue;
            total += element(weights, [0, o!, i, j]) * element(x, [0, c!, row, column]);
          }
        return total;
      }),
  ),
  sample(
    "the gradient of softmax of a product, squared",
    [uniform([2, 3])],
    (x) => {
      const y = softmax(x);
      const [dx] = gradients(sum(mul(y, y)), [x]);
      return mul(dx!, dx!);
    },
    (x) => {
      const y = softmax64(x);
      return alongLast(y, (row) => {
        const total = row.reduce((a, b) => a + 2 * b * b, 0);
        return row.map((value) => (value * (2 * value - total)) ** 2);
      });
    },
  ),
];
