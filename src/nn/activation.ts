import { UserError } from "../core/errors.ts";
import { gelu, mul, quickGelu, relu, sigmoid, silu, softplus, type Tensor, tanh } from "../graph/index.ts";

/** x·tanh(ln(1 + eˣ)) (Misra 2019). */
export function mish(x: Tensor): Tensor {
  return mul(x, tanh(softplus(x)));
}

/** A function applied to every element. */
export type Activation = (x: Tensor) => Tensor;

const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  silu,
  swish: silu,
  mish,
  gelu: (x) => gelu(x),
  // The names that text encoders' configurations use.
  gelu_new: (x) => gelu(x, "tanh"),
  gelu_pytorch_tanh: (x) => gelu(x, "tanh"),
  quick_gelu: quickGelu,
  relu,
  sigmoid,
  tanh,
  softplus,
};

/** The names `activation` knows. */
export const activationNames: readonly string[] = Object.keys(ACTIVATIONS);

/**
 * The activation that configurations call `name`.
 * @throws UserError for a name that is not known
 */
export function activation(name: string): Activation {
  const found = Object.hasOwn(ACTIVATIONS, name) ? ACTIVATIONS[name] : undefined;
  if (!found) {
    throw new UserError(
      `There is no activation function "${name}"; accepted are ${activationNames.map((n) => `"${n}"`).join(", ")}.`,
    );
  }
  return found;
}
