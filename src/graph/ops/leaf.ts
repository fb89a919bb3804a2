import { arrayFor, type DType, float32, type HostTensor, type Shape, sizeOf } from "../../core/host-tensor.ts";
import { defineOperator, notDifferentiable } from "../operator.ts";
import type { Tensor, TensorType } from "../tensor.ts";
import { cast } from "./elementwise.ts";

/** The attributes of a leaf that is fed or bound by name. */
export interface NamedLeaf extends TensorType {
  readonly name: string;
}

/** A value given at every run, under this name. */
export const inputOperator = "input";
/** A value that training changes and checkpoints hold: bound when the graph is written out. */
export const parameterOperator = "parameter";
/** A value known when the graph is built. */
export const constantOperator = "constant";

const applyInput = defineOperator<NamedLeaf>({
  name: inputOperator,
  infer: (_, type) => [type],
  onnx: (emitter, _, node) => emitter.leaf(node.outputs[0]!),
  gradient: notDifferentiable,
});

const applyParameter = defineOperator<TensorType>({
  name: parameterOperator,
  infer: (_, type) => [type],
  onnx: (emitter, _, node) => emitter.leaf(node.outputs[0]!),
  gradient: notDifferentiable,
});

const applyConstant = defineOperator<HostTensor>({
  name: constantOperator,
  infer: (_, { dtype, shape }) => [{ dtype, shape }],
  onnx: (emitter, _, node) => emitter.constant(node.attributes),
  gradient: notDifferentiable,
});

/** A value that is fed at every run under `name`. */
export function input(name: string, shape: Shape, dtype: DType = "float32"): Tensor {
  return applyInput([], { name, shape, dtype });
}

/** A trainable value. What it is called and where it is kept is decided by the module tree and the binding. */
export function parameterLeaf(shape: Shape, dtype: DType = "float32"): Tensor {
  return applyParameter([], { shape, dtype });
}

/** A value known now. */
export function constant(value: HostTensor): Tensor {
  return applyConstant([], value);
}

/** A constant with shape []. */
export function scalar(value: number, dtype: DType = "float32"): Tensor {
  return filled([], value, dtype);
}

/** A constant tensor with `value` everywhere. */
export function filled(shape: Shape, value: number, dtype: DType = "float32"): Tensor {
  // The host holds 16-bit floats as bits, which the graph makes from float32.
  if (dtype === "float16" || dtype === "bfloat16") return cast(filled(shape, value), dtype);
  const data = arrayFor(dtype, sizeOf(shape));
  if (data instanceof BigInt64Array) data.fill(BigInt(value));
  else data.fill(value);
  return constant({ dtype, shape, data } as HostTensor);
}

/** Zeros of the shape and type of `tensor`. */
export function zerosLike(tensor: TensorType): Tensor {
  return filled(tensor.shape, 0, tensor.dtype);
}

/** A float32 constant from plain numbers. */
export function values(shape: Shape, numbers: readonly number[] | Float32Array): Tensor {
  return constant(float32(shape, numbers));
}
