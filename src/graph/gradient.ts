import { invariant, UserError } from "../core/errors.ts";
import { describeShape, sameShape } from "../core/host-tensor.ts";
import { notDifferentiable } from "./operator.ts";
import { add } from "./ops/elementwise.ts";
import { scalar, zerosLike } from "./ops/leaf.ts";
import { type Node, type Tensor, topological, withScope } from "./tensor.ts";

/**
 * Reverse-mode differentiation, graph to graph: the gradients of the scalar `loss` with respect to each of `wanted`
 * (leaves or intermediate tensors), as tensors of the same shapes.
 *
 * One walk over the nodes in reverse order; each node's rule turns the gradients of its outputs into contributions to
 * those of its inputs, and contributions to one tensor are added up. A wanted tensor that the loss does not depend on
 * has gradient zero. Nodes from which no wanted tensor is reachable are not visited.
 */
export function gradients(loss: Tensor, wanted: readonly Tensor[]): Tensor[] {
  if (loss.shape.length > 0) {
    throw new UserError(`gradients() takes a scalar loss; given a tensor of shape ${describeShape(loss.shape)}`, {
      hint: "Reduce it first, for example with mean(loss).",
    });
  }
  const order = topological([loss]);
  const targets = new Set(wanted);
  const needed = leadingTo(order, targets);
  const sums = new Map<Tensor, Tensor>([[loss, scalar(1, loss.dtype)]]);
  for (const node of order.reverse()) {
    // A node that is wanted itself, and nothing before it, needs no rule.
    if (!node.inputs.some((input) => needed.has(input.node))) continue;
    const outputGradients = node.outputs.map((output) => sums.get(output));
    if (outputGradients.every((g) => g === undefined)) continue;
    const { gradient, name } = node.operator;
    if (gradient === notDifferentiable) {
      throw new UserError(`${name} has no gradient${node.scope && ` (in layer ${node.scope})`}`);
    }
    withScope(node.scope, () => {
      const contributions = gradient(outputGradients, node);
      node.inputs.forEach((input, i) => {
        const contribution = contributions[i];
        if (!contribution || !needed.has(input.node)) return;
        invariant(
          sameShape(contribution.shape, input.shape),
          `the gradient of ${name} for input ${i} has shape ${describeShape(contribution.shape)}, the input ${describeShape(input.shape)}`,
        );
        const sum = sums.get(input);
        sums.set(input, sum ? add(sum, contribution) : contribution);
      });
    });
  }
  return wanted.map((tensor) => sums.get(tensor) ?? zerosLike(tensor));
}

/** The nodes that have a wanted tensor among their outputs or their inputs' ancestors. */
function leadingTo(order: readonly Node[], wanted: ReadonlySet<Tensor>): Set<Node> {
  const needed = new Set<Node>();
  for (const node of order) {
    if (node.outputs.some((t) => wanted.has(t)) || node.inputs.some((t) => needed.has(t.node))) needed.add(node);
  }
  return needed;
}
