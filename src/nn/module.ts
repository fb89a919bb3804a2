import { invariant } from "../core/errors.ts";
import type { Shape } from "../core/host-tensor.ts";
import { parameterLeaf, type Tensor, withScope } from "../graph/index.ts";

/** How a parameter starts, before any training. Distributions are torch's defaults for the layer. */
export type Initializer =
  | { readonly kind: "constant"; readonly value: number }
  /** Uniform on [−bound, bound). */
  | { readonly kind: "uniform"; readonly bound: number }
  | { readonly kind: "normal"; readonly deviation: number }
  /** Numbers of one's own, computed when they are asked for: a loaded network never needs them. */
  | { readonly kind: "values"; readonly values: () => Float32Array };

/** A trainable tensor. Its name is its place in the module tree. */
export interface Parameter {
  readonly tensor: Tensor;
  readonly shape: Shape;
  readonly initial: Initializer;
  /** False for tables that are stored with the weights but not trained. */
  readonly trainable: boolean;
}

/** A layer or network: called with tensors, and holding named parameters and modules. */
export type Module<Arguments extends readonly unknown[] = never[], Result = unknown> = ((
  ...args: Arguments
) => Result) & { readonly parts: Parts };

/** What a module holds. The keys are the names in checkpoints; arrays give `name.0`, `name.1`, … */
export interface Parts {
  readonly [name: string]: Part | readonly Part[] | undefined;
}
/** One thing a module can hold. */
// biome-ignore lint/suspicious/noExplicitAny: a tree holds modules of every signature
export type Part = Module<any, any> | Parameter | PartGroup;

/** Parts under a common name without a forward pass of their own, such as a block's lists of layers. */
export interface PartGroup {
  readonly parts: Parts;
}

const paths = new WeakMap<Parts, string>();

/**
 * Makes a module of its parts and its forward pass. While the forward pass builds nodes, errors and profiles name the
 * module's path in the tree.
 */
export function module<const P extends Parts, Arguments extends readonly unknown[], Result>(
  parts: P,
  forward: (...args: Arguments) => Result,
): ((...args: Arguments) => Result) & { readonly parts: P } {
  const call = (...args: Arguments): Result => {
    const path = paths.get(parts);
    return path === undefined ? forward(...args) : withScope(path, () => forward(...args));
  };
  return Object.assign(call, { parts });
}

/** Parts under a common name, reachable as `group.parts`. */
export function group<const P extends Parts>(parts: P): { readonly parts: P } {
  return { parts };
}

/** A trainable parameter with torch's usual ways to start. */
export function parameter(shape: Shape, initial: Initializer, { trainable = true } = {}): Parameter {
  return { tensor: parameterLeaf(shape), shape, initial, trainable };
}

/** All parameters of a module by their full names, in the order of definition. Also gives every module its path. */
export function namedParameters(root: PartGroup, prefix = ""): Map<string, Parameter> {
  const found = new Map<string, Parameter>();
  const visit = (part: Part, path: string) => {
    if ("tensor" in part) {
      invariant(!found.has(path), `two parameters are called ${path}`);
      found.set(path, part);
      return;
    }
    paths.set(part.parts, path);
    for (const [name, child] of Object.entries(part.parts)) {
      const full = path ? `${path}.${name}` : name;
      if (child === undefined) continue;
      if (Array.isArray(child)) {
        (child as readonly Part[]).forEach((item, i) => {
          visit(item, `${full}.${i}`);
        });
      } else visit(child as Part, full);
    }
  };
  visit(root, prefix);
  return found;
}

/** How many numbers a module's parameters hold. */
export function parameterCount(root: PartGroup): number {
  let count = 0;
  for (const { shape } of namedParameters(root).values()) count += shape.reduce((a, b) => a * b, 1);
  return count;
}
