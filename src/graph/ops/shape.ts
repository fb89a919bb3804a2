import { describeShape, type Shape, sameShape, sizeOf } from "../../core/host-tensor.ts";
import { defineOperator, defineOperators } from "../operator.ts";
import { require, type Tensor } from "../tensor.ts";
import { broadcastShape, cast, equal } from "./elementwise.ts";
import { constant, filled, zerosLike } from "./leaf.ts";
import { matmul } from "./matmul.ts";
import { normalizeAxes, sumTo } from "./reduce.ts";

const applyReshape = defineOperator<{ shape: Shape }>({
  name: "reshape",
  infer: ([x], { shape }) => {
    require(shape.every((axis) => Number.isInteger(axis) && axis >= 0) &&
      sizeOf(x!.shape) === sizeOf(shape), `${sizeOf(x!.shape)} elements cannot take the shape ${describeShape(shape)}`);
    return [{ dtype: x!.dtype, shape }];
  },
  onnx: (emitter, [x], { attributes: { shape } }) => emitter.op("Reshape", [x!, emitter.ints(shape)]),
  gradient: ([dy], { inputs: [x] }) => [reshape(dy!, x!.shape)],
});

/** The same elements in row-major order under another shape; one axis may be −1, it takes what is left. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const known = shape.reduce((n, axis) => (axis === -1 ? n : n * axis), 1);
  const full = shape.map((axis) => (axis === -1 ? sizeOf(x.shape) / known : axis));
  if (sameShape(x.shape, full)) return x;
  // Two reshapes in a row are one.
  const source = x.node.operator.name === "reshape" ? x.node.inputs[0]! : x;
  return sameShape(source.shape, full) ? source : applyReshape([source], { shape: full });
}

const applyTranspose = defineOperator<{ order: readonly number[] }>({
  name: "transpose",
  infer: ([x], { order }) => {
    require(order.length === x!.shape.length &&
      [...order].sort((a, b) => a - b).every((axis, i) => axis === i), `[${order}] is not an order of its axes`);
    return [{ dtype: x!.dtype, shape: order.map((axis) => x!.shape[axis]!) }];
  },
  onnx: (emitter, [x], { attributes: { order } }) => emitter.op("Transpose", [x!], { perm: order }),
  gradient: ([dy], { attributes: { order } }) => [
    transpose(
      dy!,
      order.map((_, i) => order.indexOf(i)),
    ),
  ],
});

/** Axis i of the result is axis `order[i]` of x. */
export function transpose(x: Tensor, order: readonly number[]): Tensor {
  return sameShape(
    order,
    x.shape.map((_, i) => i),
  )
    ? x
    : applyTranspose([x], { order });
}

const applyExpand = defineOperator<{ shape: Shape }>({
  name: "expand",
  infer: ([x], { shape }) => {
    require(sameShape(broadcastShape(x!.shape, shape), shape), `cannot be expanded to ${describeShape(shape)}`);
    return [{ dtype: x!.dtype, shape }];
  },
  onnx: (emitter, [x], { attributes: { shape } }) => emitter.op("Expand", [x!, emitter.ints(shape)]),
  gradient: ([dy], { inputs: [x] }) => [sumTo(dy!, x!.shape)],
});

/** x repeated along axes of size 1 (and new leading axes) until it has `shape`. */
export function expand(x: Tensor, shape: Shape): Tensor {
  return sameShape(x.shape, shape) ? x : applyExpand([x], { shape });
}

const applyConcat = defineOperator<{ axis: number }>({
  name: "concat",
  infer: (inputs, { axis }) => {
    const [first] = inputs;
    require(axis >= 0 && axis < first!.shape.length, `there is no axis ${axis}`);
    for (const x of inputs) {
      const fits =
        x.shape.length === first!.shape.length && x.shape.every((n, i) => i === axis || n === first!.shape[i]);
      require(fits && x.dtype === first!.dtype, `differ in more than axis ${axis}`);
    }
    const total = inputs.reduce((n, x) => n + x.shape[axis]!, 0);
    return [{ dtype: first!.dtype, shape: first!.shape.map((n, i) => (i === axis ? total : n)) }];
  },
  onnx: (emitter, inputs, { attributes: { axis } }) =>
    inputs.length === 1 ? inputs[0]! : emitter.op("Concat", inputs, { axis }),
  gradient: ([dy], { inputs, attributes: { axis } }) =>
    split(
      dy!,
      inputs.map((x) => x.shape[axis]!),
      axis,
    ),
});

/** Tensors one after the other along `axis`. */
export function concat(tensors: readonly Tensor[], axis: number): Tensor {
  const [normal] = normalizeAxes(axis, tensors[0]!.shape.length);
  return tensors.length === 1 ? tensors[0]! : applyConcat(tensors, { axis: normal! });
}

const applySplit = defineOperators<{ sizes: readonly number[]; axis: number }>({
  name: "split",
  infer: ([x], { sizes, axis }) => {
    const total = sizes.reduce((n, size) => n + size, 0);
    require(x!.shape[axis] === total &&
      sizes.every((size) => Number.isInteger(size) && size >= 0), `axis ${axis} cannot be split into [${sizes}]`);
    return sizes.map((size) => ({ dtype: x!.dtype, shape: x!.shape.map((n, i) => (i === axis ? size : n)) }));
  },
  onnx: (emitter, [x], { attributes: { sizes, axis } }) =>
    emitter.ops("Split", [x!, emitter.ints(sizes)], sizes.length, { axis }),
  gradient: (gradients, { outputs, attributes: { axis } }) => [
    concat(
      outputs.map((output, i) => gradients[i] ?? zerosLike(output)),
      axis,
    ),
  ],
});

/** Cuts x along `axis` into pieces of the given sizes. */
export function split(x: Tensor, sizes: readonly number[], axis: number): readonly Tensor[] {
  const [normal] = normalizeAxes(axis, x.shape.length);
  return sizes.length === 1 && sizes[0] === x.shape[normal!] ? [x] : applySplit([x], { sizes, axis: normal! });
}

/** Cuts x along `axis` into `count` equal pieces. */
export function chunk(x: Tensor, count: number, axis: number): readonly Tensor[] {
  const [normal] = normalizeAxes(axis, x.shape.length);
  return split(x, Array(count).fill(x.shape[normal!]! / count), normal!);
}

interface Slice {
  readonly axis: number;
  readonly start: number;
  readonly end: number;
  readonly step: number;
}

const applySlice = defineOperator<Slice>({
  name: "slice",
  infer: ([x], { axis, start, end, step }) => {
    const size = x!.shape[axis] ?? 0;
    require(0 <= start && start < end && end <= size && step >= 1, `has no [${start}, ${end}) on axis ${axis}`);
    return [{ dtype: x!.dtype, shape: x!.shape.map((n, i) => (i === axis ? Math.ceil((end - start) / step) : n)) }];
  },
  onnx: (emitter, [x], { attributes: { axis, start, end, step } }) =>
    emitter.op("Slice", [x!, ...[start, end, axis, step].map((value) => emitter.ints([value]))]),
  gradient: ([dy], { inputs: [x], attributes: { axis, start, end, step } }) => {
    const spread = step === 1 ? dy! : insertZeros(dy!, axis, step, end - start);
    return [
      pad(
        spread,
        x!.shape.map((n, i) => (i === axis ? [start, n - end] : [0, 0])),
      ),
    ];
  },
});

/** x with `step - 1` zeros after each element along `axis`, cut or filled to `size`. */
function insertZeros(x: Tensor, axis: number, step: number, size: number): Tensor {
  const shape = x.shape;
  const split = [...shape.slice(0, axis + 1), 1, ...shape.slice(axis + 1)];
  const spread = pad(
    reshape(x, split),
    split.map((_, i) => (i === axis + 1 ? [0, step - 1] : [0, 0])),
  );
  const merged = reshape(
    spread,
    shape.map((n, i) => (i === axis ? n * step : n)),
  );
  return pad(
    merged,
    shape.map((n, i) => (i === axis ? [0, size - n * step] : [0, 0])),
  );
}

/** Every `step`-th element of x from `start` up to, not including, `end` along `axis`; negative positions count from the end. */
export function slice(x: Tensor, axis: number, start: number, end?: number, step = 1): Tensor {
  const [normal] = normalizeAxes(axis, x.shape.length);
  const size = x.shape[normal!] as number; // undefined for an axis that is not there, which the shape rule reports
  const from = start < 0 ? start + size : start;
  const to = end === undefined ? size : end < 0 ? end + size : end;
  return size !== undefined && from === 0 && to === size && step === 1
    ? x
    : applySlice([x], { axis: normal!, start: from, end: to, step });
}

const applyPad = defineOperator<{ widths: readonly (readonly number[])[] }>({
  name: "pad",
  infer: ([x], { widths }) => {
    require(widths.length === x!.shape.length, "needs a [before, after] pair for every axis");
    const shape = x!.shape.map((n, i) => n + widths[i]![0]! + widths[i]![1]!);
    require(shape.every((n) => n > 0), `nothing is left of it: ${describeShape(shape)}`);
    return [{ dtype: x!.dtype, shape }];
  },
  onnx: (emitter, [x], { attributes: { widths } }) =>
    emitter.op("Pad", [x!, emitter.ints([...widths.map((w) => w[0]!), ...widths.map((w) => w[1]!)])]),
  gradient: ([dy], { attributes: { widths } }) => [
    pad(
      dy!,
      widths.map(([before, after]) => [-before!, -after!]),
    ),
  ],
});

/** x with zeros before and after along each axis; negative widths cut. `widths[axis] = [before, after]`. */
export function pad(x: Tensor, widths: readonly (readonly number[])[]): Tensor {
  const nothing = widths.length === x.shape.length && widths.every(([before, after]) => before === 0 && after === 0);
  return nothing ? x : applyPad([x], { widths });
}

const applyGather = defineOperator({
  name: "gather",
  infer: ([table, indices]) => {
    require(indices!.dtype === "int64" || indices!.dtype === "int32", "indices must be int64 or int32");
    require(table!.shape.length > 0, "the table has no rows");
    return [{ dtype: table!.dtype, shape: [...indices!.shape, ...table!.shape.slice(1)] }];
  },
  onnx: (emitter, inputs) => emitter.op("Gather", inputs, { axis: 0 }),
  gradient: ([dy], { inputs: [table, indices] }) => {
    // Rows that were taken several times add up: a product with the one-hot matrix of the indices.
    const [rows, ...rest] = table!.shape;
    const taken = sizeOf(indices!.shape);
    const hot = oneHot(reshape(indices!, [taken]), rows!); // [taken, rows]
    const flat = matmul(cast(hot, dy!.dtype), reshape(dy!, [taken, sizeOf(rest)]), { transA: true });
    return [reshape(flat, table!.shape), undefined];
  },
});

/** Rows of `table` [rows, …] at `indices` (int64 or int32 from 0 on, any shape): [...indices.shape, …]. */
export function gather(table: Tensor, indices: Tensor): Tensor {
  return applyGather([table, indices], {});
}

/** Integers as rows of zeros with a one: [...indices.shape, classes], float32. */
export function oneHot(indices: Tensor, classes: number): Tensor {
  const all = constant({
    dtype: "int64",
    shape: [classes],
    data: BigInt64Array.from({ length: classes }, (_, i) => BigInt(i)),
  });
  return cast(equal(reshape(cast(indices, "int64"), [...indices.shape, 1]), all), "float32");
}

/** Tensors of one shape stacked along a new axis in front. */
export function stack(tensors: readonly Tensor[]): Tensor {
  return concat(
    tensors.map((x) => reshape(x, [1, ...x.shape])),
    0,
  );
}

/** A tensor of ones. */
export function ones(shape: Shape): Tensor {
  return filled(shape, 1);
}
