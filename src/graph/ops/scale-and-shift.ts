import { float32, type Shape, sameShape } from "../../core/host-tensor.ts";
import type { Emitter } from "../onnx.ts";
import { defineOperator } from "../operator.ts";
import { require, type Tensor } from "../tensor.ts";
import { matmul } from "./matmul.ts";
import { sum } from "./reduce.ts";
import { reshape } from "./shape.ts";

const applyScaleAndShift = defineOperator<{ shifted: boolean }>({
  name: "scaleAndShift",
  infer: ([x, scale, ...rest], { shifted }) => {
    const perChannel = x!.shape.slice(0, 2);
    require(x!.shape.length >= 2 && sameShape(scale!.shape, perChannel), `the scale must have shape [${perChannel}]`);
    const [shift, added] = shifted ? rest : [undefined, rest[0]];
    require(!shift || sameShape(shift.shape, perChannel), `the shift must have shape [${perChannel}]`);
    require(!added || sameShape(added.shape, x!.shape), "what is added must have the shape of x");
    return [{ dtype: x!.dtype, shape: x!.shape }];
  },
  onnx: (emitter, [x, scale, ...rest], { inputs: [type], attributes: { shifted } }) => {
    const [shift, added] = shifted ? rest : [undefined, rest[0]];
    return scaleAndShiftOnnx(emitter, x!, scale!, shift, added, type!.shape);
  },
  gradient: ([dy], { inputs: [x, scale, ...rest], attributes: { shifted } }) => {
    const [n, c, ...area] = x!.shape as [number, number, ...number[]];
    const row = [n, c, 1, area.reduce((a, b) => a * b, 1)];
    const dScale = reshape(matmul(reshape(dy!, row), reshape(x!, row), { transB: true }), [n, c]);
    const dShift = sum(reshape(dy!, row), [2, 3]);
    const added = shifted ? rest[1] : rest[0];
    return [scaleAndShift(dy!, scale!), dScale, ...(shifted ? [dShift] : []), ...(added ? [dy!] : [])];
  },
});

/** scale·x + shift + added: x and added [n, c, …], scale and shift [n, c], in one pass where the target can. */
export function scaleAndShift(x: Tensor, scale: Tensor, shift?: Tensor, added?: Tensor): Tensor {
  const inputs = [x, scale, shift, added].filter((t) => t !== undefined);
  return applyScaleAndShift(inputs, { shifted: shift !== undefined });
}

/** Writes `scaleAndShift`; scale and shift hold n·c numbers in any shape. */
export function scaleAndShiftOnnx(
  emitter: Emitter,
  x: string,
  scale: string,
  shift: string | undefined,
  added: string | undefined,
  shape: Shape,
): string {
  const [n, c, ...area] = shape as [number, number, ...number[]];
  if (!emitter.target.contrib) {
    const perChannel = emitter.ints([n, c, ...area.map(() => 1)]);
    let y = emitter.op("Mul", [x, emitter.op("Reshape", [scale, perChannel])]);
    if (shift) y = emitter.op("Add", [y, emitter.op("Reshape", [shift, perChannel])]);
    return added ? emitter.op("Add", [y, added]) : y;
  }
  // A depthwise 1×1 convolution of one picture with n·c channels is this very sum; FusedConv also adds a tensor. A single picture
  // keeps its shape, by which ONNX Runtime finds freed memory to use again.
  const sides = area.length === 2 ? area : [1, area.reduce((a, b) => a * b, 1)];
  const plane = emitter.ints([1, n * c, ...sides]);
  const weights = emitter.op("Reshape", [scale, emitter.ints([n * c, 1, 1, 1])]);
  const zeros = () => emitter.constant(float32([n * c], new Float32Array(n * c)));
  const bias = shift ? emitter.op("Reshape", [shift, emitter.ints([n * c])]) : zeros();
  const inputs = [emitter.op("Reshape", [x, plane]), weights, bias];
  const attributes = { kernel_shape: [1, 1], group: n * c };
  const y = added
    ? emitter.op("FusedConv", [...inputs, emitter.op("Reshape", [added, plane])], attributes, "com.microsoft")
    : emitter.op("Conv", inputs, attributes);
  return emitter.op("Reshape", [y, emitter.ints(shape)]);
}
