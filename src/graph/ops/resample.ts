import { defineOperator } from "../operator.ts";
import { require, type Tensor, type TensorType } from "../tensor.ts";
import { cast, div, equal, mul, where } from "./elementwise.ts";
import { slice } from "./shape.ts";

/** Each pixel repeated `factor` × `factor` times: [n, c, h, w] → [n, c, factor·h, factor·w]. */
export function upsampleNearest(x: Tensor, factor: number): Tensor {
  return applyUpsample([x], { factor });
}

const applyUpsample = defineOperator<{ factor: number }>({
  name: "upsampleNearest",
  infer: ([x], { factor }) => {
    require(x!.shape.length === 4, "needs [n, c, h, w]");
    const [n, c, h, w] = x!.shape as [number, number, number, number];
    return [{ dtype: x!.dtype, shape: [n, c, h * factor, w * factor] }];
  },
  onnx: (emitter, [x], { attributes: { factor } }) => {
    const scales = emitter.constant({ dtype: "float32", shape: [4], data: Float32Array.of(1, 1, factor, factor) });
    return emitter.op("Resize", [x!, "", scales], {
      mode: "nearest",
      coordinate_transformation_mode: "asymmetric",
      nearest_mode: "floor",
    });
  },
  gradient: ([dy], { attributes: { factor } }) => [avgPool(dy!, factor, { sums: true })],
});

/** The shape rule of pooling. */
function inferPool([x]: readonly TensorType[], { factor }: { factor: number }): TensorType[] {
  require(x!.shape.length === 4, "needs [n, c, h, w]");
  const [n, c, h, w] = x!.shape as [number, number, number, number];
  require(h % factor === 0 && w % factor === 0, `height and width must be multiples of ${factor}`);
  require(h > 0 && w > 0, `has no square of ${factor}×${factor} pixels`);
  return [{ dtype: x!.dtype, shape: [n, c, h / factor, w / factor] }];
}

const applyAvgPool = defineOperator<{ factor: number }>({
  name: "avgPool",
  infer: inferPool,
  onnx: (emitter, [x], { attributes: { factor } }) =>
    emitter.op("AveragePool", [x!], { kernel_shape: [factor, factor], strides: [factor, factor] }),
  gradient: ([dy], { attributes: { factor } }) => [mul(upsampleNearest(dy!, factor), 1 / (factor * factor))],
});

/** Means over `factor` × `factor` pixels (or their sums): [n, c, h, w] → [n, c, h/factor, w/factor]. */
export function avgPool(x: Tensor, factor: number, { sums = false } = {}): Tensor {
  const means = applyAvgPool([x], { factor });
  return sums ? mul(means, factor * factor) : means;
}

const applyMaxPool = defineOperator<{ factor: number }>({
  name: "maxPool",
  infer: inferPool,
  onnx: (emitter, [x], { attributes: { factor } }) =>
    emitter.op("MaxPool", [x!], { kernel_shape: [factor, factor], strides: [factor, factor] }),
  gradient: ([dy], { inputs: [x], outputs: [y], attributes: { factor } }) => {
    const largest = equal(x!, upsampleNearest(y!, factor));
    const count = avgPool(cast(largest, dy!.dtype), factor, { sums: true });
    return [where(largest, upsampleNearest(div(dy!, count), factor), 0)];
  },
});

/**
 * The largest of each `factor` × `factor` pixels: [n, c, h, w] → [n, c, ⌊h/factor⌋, ⌊w/factor⌋]; rows and columns that
 * fill no square are left out. Pixels that are equally large share the gradient.
 */
export function maxPool(x: Tensor, factor: number): Tensor {
  const [, , h, w] = x.shape as [number, number, number, number];
  const rows = slice(x, 2, 0, h - (h % factor));
  return applyMaxPool([slice(rows, 3, 0, w - (w % factor))], { factor });
}
