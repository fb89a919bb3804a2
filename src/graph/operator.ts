import type { Emitter } from "./onnx.ts";
import { apply, type Node, type Tensor, type TensorType } from "./tensor.ts";

/**
 * The gradient of an operator as a graph: from the gradients of a loss with respect to the node's outputs (undefined
 * where an output does not reach the loss) to those with respect to its inputs (undefined where there is none).
 */
export type GradientRule<Attributes> = (
  outputGradients: readonly (Tensor | undefined)[],
  node: Node<Attributes>,
) => readonly (Tensor | undefined)[];

/** Says of an operator that its gradient is not defined or not wanted: asking for it is an error that names it. */
export const notDifferentiable = "not differentiable";

/** Everything there is to know of one operator. Adding one touches the place where this is defined and no other. */
export interface Operator<Attributes = unknown> {
  readonly name: string;
  /** The shape and type rule. Throws a `ShapeError` (see `require`) for inputs it cannot take. */
  infer(inputs: readonly TensorType[], attributes: Attributes): readonly TensorType[];
  /** Writes the node in ONNX; returns the names of the values that are its outputs. */
  onnx(emitter: Emitter, inputs: readonly string[], node: Node<Attributes>): string | readonly string[];
  readonly gradient: GradientRule<Attributes> | typeof notDifferentiable;
}

/** Every operator by name. */
export const operators = new Map<string, Operator>();

/** Registers an operator and returns the function that applies it, giving all outputs. */
export function defineOperators<Attributes = Record<string, never>>(
  operator: Operator<Attributes>,
): (inputs: readonly Tensor[], attributes: Attributes) => readonly Tensor[] {
  if (operators.has(operator.name)) throw new Error(`allegory bug: operator ${operator.name} is defined twice`);
  operators.set(operator.name, operator as Operator);
  return (inputs, attributes) => apply(operator, inputs, attributes).outputs;
}

/** Registers an operator with a single output and returns the function that applies it. */
export function defineOperator<Attributes = Record<string, never>>(
  operator: Operator<Attributes>,
): (inputs: readonly Tensor[], attributes: Attributes) => Tensor {
  const applyAll = defineOperators(operator);
  return (inputs, attributes) => applyAll(inputs, attributes)[0]!;
}
