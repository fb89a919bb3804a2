import { expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import type { Shape } from "../core/host-tensor.ts";
import { conv2d as convLayer } from "../nn/layers.ts";
import { module, namedParameters } from "../nn/module.ts";
import {
  add,
  avgPool,
  cast,
  chunk,
  concat,
  conv2d,
  expand,
  gather,
  groupNorm,
  input,
  layerNorm,
  matmul,
  pad,
  reshape,
  slice,
  split,
  sum,
  type Tensor,
  topological,
  transpose,
  where,
  withScope,
} from "./index.ts";

const x = (...shape: number[]) => input("x", shape);

test.each<[string, () => unknown, string]>([
  [
    "shapes that do not broadcast",
    () => add(x(2, 3), x(2)),
    "add(float32[2, 3], float32[2]): [2, 3] and [2] do not broadcast",
  ],
  ["operands of two types", () => add(x(2), cast(x(2), "int64")), "add(float32[2], int64[2]): types differ"],
  [
    "a condition that is not bool",
    () => where(x(2), 1, x(2)),
    "where(float32[2], float32[], float32[2]): the condition must be bool",
  ],
  [
    "matrices that do not fit",
    () => matmul(x(2, 3), x(4, 5)),
    "matmul(float32[2, 3], float32[4, 5]): inner sizes 3 and 4 differ",
  ],
  ["a vector as matrix", () => matmul(x(3), x(3, 2)), "matmul(float32[3], float32[3, 2]): needs matrices"],
  [
    "another number of elements",
    () => reshape(x(2, 3), [5]),
    "reshape(float32[2, 3]): 6 elements cannot take the shape [5]",
  ],
  [
    "a shape that leaves a rest",
    () => reshape(x(5), [2, -1]),
    "reshape(float32[5]): 5 elements cannot take the shape [2, 2.5]",
  ],
  ["an order that is too short", () => transpose(x(2, 3), [0]), "transpose(float32[2, 3]): [0] is not an order"],
  ["an order with an axis twice", () => transpose(x(2, 3), [1, 1]), "transpose(float32[2, 3]): [1,1] is not an order"],
  ["an expansion of an axis that is not 1", () => expand(x(2, 3), [4, 3]), "expand(float32[2, 3])"],
  [
    "tensors that differ beside the axis",
    () => concat([x(2, 3), x(3, 3)], 1),
    "concat(float32[2, 3], float32[3, 3]): differ in more than axis 1",
  ],
  [
    "a concatenation along no axis",
    () => concat([x(2), x(2)], 1),
    "concat(float32[2], float32[2]): there is no axis 1",
  ],
  ["pieces that do not add up", () => split(x(5), [2, 2], 0), "split(float32[5]): axis 0 cannot be split into [2,2]"],
  ["a single piece that is not all", () => split(x(5), [3], 0), "split(float32[5]): axis 0 cannot be split into [3]"],
  ["chunks that leave a rest", () => chunk(x(5), 2, 0), "split(float32[5]): axis 0 cannot be split into [2.5,2.5]"],
  ["a slice beyond the end", () => slice(x(2, 3), 1, 1, 4), "slice(float32[2, 3]): has no [1, 4) on axis 1"],
  ["a slice of no axis", () => slice(x(2, 3), 2, 0), "slice(float32[2, 3])"],
  [
    "widths for too few axes",
    () => pad(x(2, 3), []),
    "pad(float32[2, 3]): needs a [before, after] pair for every axis",
  ],
  ["a cut that leaves nothing", () => pad(x(2), [[-1, -1]]), "pad(float32[2]): nothing is left of it: [0]"],
  ["an axis that is not there", () => sum(x(2, 3), 2), "sum(float32[2, 3]): there is no axis 2"],
  ["an axis twice", () => sum(x(2, 3), [1, -1]), "sum(float32[2, 3]): an axis occurs twice in [1,1]"],
  [
    "indices that are no integers",
    () => gather(x(4, 2), x(3)),
    "gather(float32[4, 2], float32[3]): indices must be int64 or int32",
  ],
  [
    "kernels for other channels",
    () => conv2d(x(1, 3, 8, 8), x(4, 2, 3, 3)),
    "conv2d(float32[1, 3, 8, 8], float32[4, 2, 3, 3]): x has 3 channels, the weights take 2",
  ],
  [
    "outputs that do not fill the groups",
    () => conv2d(x(1, 4, 8, 8), x(3, 2, 3, 3), undefined, { groups: 2 }),
    "3 output channels cannot be cut into 2 groups",
  ],
  ["a bias of another size", () => conv2d(x(1, 3, 8, 8), x(4, 3, 3, 3), x(3)), "the bias must have shape [4]"],
  [
    "a kernel larger than the image",
    () => conv2d(x(1, 3, 2, 2), x(4, 3, 3, 3)),
    "the kernel is larger than the padded image",
  ],
  [
    "channels that do not fill the groups",
    () => groupNorm(x(1, 6, 2), x(6), x(6), 4),
    "groupNorm(float32[1, 6, 2], float32[6], float32[6]): 6 channels cannot be cut into 4 groups",
  ],
  [
    "a scale of another width",
    () => layerNorm(x(2, 4), x(3)),
    "layerNorm(float32[2, 4], float32[3]): the scale must have shape [4]",
  ],
  [
    "an image that cannot be pooled",
    () => avgPool(x(1, 1, 3, 4), 2),
    "avgPool(float32[1, 1, 3, 4]): height and width must be multiples of 2",
  ],
])("%s: the error names the operator, the shapes and the reason", (_, build, message) => {
  expect(build).toThrow(UserError);
  expect(build).toThrow(message);
});

test("shape errors inside a network name the layer's path", () => {
  const block = () => {
    const conv = convLayer(4, 8);
    return module({ conv }, (t: Tensor) => conv(t));
  };
  const blocks = [block(), block()];
  const net = module({ down_blocks: blocks }, (t: Tensor) => blocks.reduce((y, layer) => layer(y), t));
  namedParameters(net);
  // The first block makes 8 channels of 4, the second takes 4.
  expect(() => net(x(1, 4, 16, 16))).toThrow(
    "conv2d(float32[1, 8, 14, 14], float32[8, 4, 3, 3], float32[8]): x has 8 channels, the weights take 4 (in layer down_blocks.1.conv)",
  );
  expect(() => add(x(2), x(3))).not.toThrow("in layer");
});

test("after an error the layer path is what it was", () => {
  const shape: Shape = [2];
  expect(() => withScope("a", () => withScope("b", () => add(x(...shape), x(3))))).toThrow("(in layer b)");
  withScope("outer", () => {
    expect(() => withScope("inner", () => add(x(2), x(3)))).toThrow("(in layer inner)");
    expect(add(x(2), x(2)).node.scope).toBe("outer");
  });
});

test("operations that change nothing make no node", () => {
  const t = x(2, 3);
  expect(reshape(t, [2, -1])).toBe(t);
  expect(reshape(reshape(t, [6]), [2, 3])).toBe(t);
  expect(transpose(t, [0, 1])).toBe(t);
  expect(expand(t, [2, 3])).toBe(t);
  expect(concat([t], 0)).toBe(t);
  expect(split(t, [3], 1)).toEqual([t]);
  expect(slice(t, 0, 0)).toBe(t);
  expect(pad(t, [[0, 0], [0, 0]])).toBe(t); // biome-ignore format: short
  expect(cast(t, "float32")).toBe(t);
});

test("the topological order puts every node after its inputs, once", () => {
  const a = x(2);
  const twice = (t: Tensor) => add(t, t);
  const b = twice(a);
  const order = topological([add(b, twice(b)), b]);
  expect(new Set(order).size).toBe(order.length);
  order.forEach((node, i) => {
    for (const { node: before } of node.inputs) expect(order.indexOf(before)).toBeLessThan(i);
  });
  expect(order).toHaveLength(4);
});
