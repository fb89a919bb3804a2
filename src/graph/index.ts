/** Symbolic tensors: build a computation, differentiate it, write it as ONNX. */
export { type GraphCost, graphCost } from "./cost.ts";
export { gradients } from "./gradient.ts";
export * from "./onnx.ts";
export { type GradientRule, notDifferentiable, type Operator, operators } from "./operator.ts";
export * from "./ops/activation.ts";
export { attentionInPieces } from "./ops/attention.ts";
export { type ConvOptions, conv2d } from "./ops/conv.ts";
export * from "./ops/elementwise.ts";
export * from "./ops/leaf.ts";
export * from "./ops/matmul.ts";
export * from "./ops/normalization.ts";
export * from "./ops/reduce.ts";
export * from "./ops/resample.ts";
export { scaleAndShift } from "./ops/scale-and-shift.ts";
export * from "./ops/shape.ts";
export type { PackedMatrix, PackedValue } from "./packed.ts";
export type { AheadModel } from "./stages.ts";
export { type Node, type Tensor, type TensorType, topological, withScope } from "./tensor.ts";
