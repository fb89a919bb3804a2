import { UserError } from "../core/errors.ts";
import { type DType, describeShape, type Shape } from "../core/host-tensor.ts";
import type { Operator } from "./operator.ts";

/** What is known of a tensor before anything is computed. */
export interface TensorType {
  readonly dtype: DType;
  readonly shape: Shape;
}

/** One result of a node: a value that will exist once the graph is run. Immutable; shapes are static. */
export interface Tensor extends TensorType {
  readonly node: Node;
  /** Which of the node's results. */
  readonly index: number;
}

/** One application of an operator. A graph is nothing but the nodes reachable from the tensors one asks for. */
export interface Node<Attributes = unknown> {
  readonly operator: Operator<Attributes>;
  readonly inputs: readonly Tensor[];
  readonly attributes: Attributes;
  readonly outputs: readonly Tensor[];
  /** Path of the layer that made it, such as `down_blocks.0.resnets.1.conv1`; empty outside layers. */
  readonly scope: string;
  /** Increases with creation, so inputs always have smaller numbers than the node that uses them. */
  readonly id: number;
}

let created = 0;
let scope = "";

/** Applies an operator: checks the shapes, records the layer path, returns the node with its outputs. */
export function apply<Attributes>(
  operator: Operator<Attributes>,
  inputs: readonly Tensor[],
  attributes: Attributes,
): Node<Attributes> {
  let types: readonly TensorType[];
  try {
    types = operator.infer(inputs, attributes);
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    const shapes = inputs.map((x) => `${x.dtype}${describeShape(x.shape)}`).join(", ");
    throw new UserError(`${operator.name}(${shapes}): ${error.message}${scope && ` (in layer ${scope})`}`);
  }
  const outputs: Tensor[] = [];
  const node: Node<Attributes> = { operator, inputs, attributes, outputs, scope, id: created++ };
  types.forEach((type, index) => {
    outputs.push({ dtype: type.dtype, shape: type.shape, node: node as Node, index });
  });
  return node;
}

/** Thrown by shape rules; `apply` adds the operator, the shapes and the layer path. */
export class ShapeError extends Error {
  override readonly name = "ShapeError";
}

/** Throws a `ShapeError` with `message` unless `condition` holds. For shape rules. */
export function require(condition: unknown, message: string): asserts condition {
  if (!condition) throw new ShapeError(message);
}

/** Runs `build` with `path` recorded as the layer of every node made meanwhile. */
export function withScope<T>(path: string, build: () => T): T {
  const outer = scope;
  scope = path;
  try {
    return build();
  } finally {
    scope = outer;
  }
}

/**
 * All nodes needed for `roots`, each after its inputs. `replaced` maps a tensor to the tensor that stands for it
 * (its own inputs are then not visited).
 */
export function topological(roots: Iterable<Tensor>, replaced?: ReadonlyMap<Tensor, Tensor>): Node[] {
  const order: Node[] = [];
  const seen = new Set<Node>();
  // Depth-first with an explicit stack: deep networks overflow the call stack otherwise.
  for (const root of roots) {
    const stack: { node: Node; next: number }[] = [];
    const visit = (tensor: Tensor) => {
      const { node } = replaced?.get(tensor) ?? tensor;
      if (!seen.has(node)) {
        seen.add(node);
        stack.push({ node, next: 0 });
      }
    };
    visit(root);
    while (stack.length > 0) {
      const top = stack[stack.length - 1]!;
      const input = top.node.inputs[top.next++];
      if (input) visit(input);
      else order.push(stack.pop()!.node);
    }
  }
  return order;
}
