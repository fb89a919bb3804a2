import { type Shape, sameShape, sizeOf } from "../../core/host-tensor.ts";
import { defineOperator, notDifferentiable } from "../operator.ts";
import { require, type Tensor, type TensorType } from "../tensor.ts";
import { cast, equal, mul } from "./elementwise.ts";
import { expand, reshape } from "./shape.ts";

interface Reduction {
  readonly axes: readonly number[];
  readonly keepDims: boolean;
}

/** Axes counted from the front; negative ones count from the end. */
export function normalizeAxes(axes: readonly number[] | number | undefined, rank: number): number[] {
  if (axes === undefined) return Array.from({ length: rank }, (_, i) => i);
  return (typeof axes === "number" ? [axes] : axes)
    .map((axis) => (axis < 0 ? axis + rank : axis))
    .sort((a, b) => a - b);
}

function reducedShape(shape: Shape, { axes, keepDims }: Reduction): Shape {
  return keepDims ? shape.map((n, i) => (axes.includes(i) ? 1 : n)) : shape.filter((_, i) => !axes.includes(i));
}

function inferReduction([x]: readonly TensorType[], reduction: Reduction): TensorType[] {
  for (const axis of reduction.axes) {
    require(axis >= 0 && axis < x!.shape.length, `there is no axis ${axis}`);
  }
  require(new Set(reduction.axes).size === reduction.axes.length, `an axis occurs twice in [${reduction.axes}]`);
  return [{ dtype: x!.dtype, shape: reducedShape(x!.shape, reduction) }];
}

function reduction(
  name: string,
  onnxName: string,
  gradient: (dy: Tensor, x: Tensor, y: Tensor) => Tensor,
  ofOne = (x: Tensor) => x,
) {
  const applyOperator = defineOperator<Reduction>({
    name,
    infer: inferReduction,
    onnx: (emitter, [x], { attributes: { axes, keepDims } }) =>
      emitter.op(onnxName, [x!, emitter.ints(axes)], { keepdims: keepDims ? 1 : 0 }),
    gradient: ([dy], { inputs: [x], outputs: [y], attributes }) => {
      const kept = reducedShape(x!.shape, { ...attributes, keepDims: true });
      return [gradient(reshape(dy!, kept), x!, reshape(y!, kept))];
    },
  });
  /** Over `axes` (all when left out); reduced axes are dropped unless `keepDims`. */
  return (x: Tensor, axes?: readonly number[] | number, { keepDims = false } = {}): Tensor => {
    const normal = normalizeAxes(axes, x.shape.length);
    return normal.length === 0 ? ofOne(x) : applyOperator([x], { axes: normal, keepDims });
  };
}

/** The sum of elements. */
export const sum = reduction("sum", "ReduceSum", (dy, x) => expand(dy, x.shape));
/** The mean of elements. */
export const mean = reduction("mean", "ReduceMean", (dy, x) =>
  expand(mul(dy, sizeOf(dy.shape) / sizeOf(x.shape)), x.shape),
);
/** The sum of squares. */
export const sumSquares = reduction(
  "sumSquares",
  "ReduceSumSquare",
  (dy, x) => mul(mul(dy, 2), x),
  (x) => mul(x, x),
);
/** The largest element; every element equal to it gets the gradient. */
export const max = reduction("max", "ReduceMax", (dy, x, y) => mul(dy, cast(equal(x, y), dy.dtype)));

const applyArgMax = defineOperator<{ axis: number; smallest: boolean }>({
  name: "argMax",
  infer: ([x], { axis }) => {
    require(axis >= 0 && axis < x!.shape.length, `there is no axis ${axis}`);
    return [{ dtype: "int64", shape: x!.shape.filter((_, i) => i !== axis) }];
  },
  onnx: (emitter, [x], { attributes: { axis, smallest } }) =>
    emitter.op(smallest ? "ArgMin" : "ArgMax", [x!], { axis, keepdims: 0 }),
  gradient: notDifferentiable,
});

/** Where along `axis` the largest element is (the first of equals), as int64. */
export function argMax(x: Tensor, axis: number): Tensor {
  return applyArgMax([x], { axis: normalizeAxes(axis, x.shape.length)[0]!, smallest: false });
}

/** Where along `axis` the smallest element is (the first of equals), as int64. */
export function argMin(x: Tensor, axis: number): Tensor {
  return applyArgMax([x], { axis: normalizeAxes(axis, x.shape.length)[0]!, smallest: true });
}

/** Adds up what broadcasting had repeated: the gradient of a broadcast to `shape`. */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x;
  const lead = x.shape.length - shape.length;
  const axes = x.shape.flatMap((n, i) => (i < lead || (shape[i - lead] === 1 && n !== 1) ? [i] : []));
  return reshape(sum(x, axes), shape);
}
