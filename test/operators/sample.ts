import type { HostTensor, Shape } from "../../src/core/host-tensor.ts";
import { hostTensor } from "../../src/core/host-tensor.ts";
import { type Random, seeded } from "../../src/core/random.ts";
import type { Tensor } from "../../src/graph/index.ts";
import type { Array64 } from "./array64.ts";

/** One use of an operator: inputs, the graph that is tested and what it must compute. */
export interface Sample {
  /** What is particular about it. */
  readonly name: string;
  readonly inputs: readonly HostTensor[];
  /** Builds the graph as a user of the library would. */
  readonly build: (...inputs: Tensor[]) => Tensor | readonly Tensor[];
  /** The same in float64, in plain loops. */
  readonly reference: (...inputs: Array64[]) => Array64 | readonly Array64[];
  /**
   * The derivative of Σ outputs (all weights 1) with respect to each input, written out, for points at which the
   * operator has a kink and a convention takes the place of the derivative. Everywhere else finite differences tell.
   */
  readonly convention?: readonly (readonly number[])[];
  /** Inputs (by position) that are bound as weights inside the model instead of being fed. */
  readonly weights?: readonly number[];
  /** The library builds something simpler, in which the operator does not occur. */
  readonly simplified?: boolean;
  /** Largest error of the outputs, relative to the largest output. */
  readonly tolerance?: number;
}

/** The samples of every operator, by its name. */
export type Samples = Readonly<Record<string, readonly Sample[]>>;

/** A sample of a function of several arrays. */
export function sample(
  name: string,
  inputs: readonly HostTensor[],
  build: Sample["build"],
  reference: Sample["reference"],
  more: Pick<Sample, "convention" | "weights" | "simplified" | "tolerance"> = {},
): Sample {
  return { name, inputs, build, reference, ...more };
}

/** Where sample inputs come from: a seeded source, so that a failure comes back at the next run. */
export function inputs(seed: number) {
  const random: Random = seeded(seed);
  return {
    /** Uniform in [low, high). */
    uniform: (shape: Shape, low = -2, high = 2): HostTensor => random.uniform(shape, { low, high }),
    /** Uniform in ±[low, high): nothing near zero. */
    awayFromZero: (shape: Shape, low = 0.3, high = 2): HostTensor => {
      const { data } = random.uniform(shape, { low, high });
      const signs = random.bernoulli(0.5, shape).data;
      return hostTensor(
        "float32",
        shape,
        data.map((x, i) => (signs[i] === 1 ? x : -x)),
      );
    },
    /** All different by at least 0.1, in random order: no ties and no near-ties. */
    distinct: (shape: Shape): HostTensor => {
      const size = shape.reduce((n, axis) => n * axis, 1);
      const order = random.permutation(size);
      return hostTensor(
        "float32",
        shape,
        Float32Array.from(order, (place) => 0.1 * (place - size / 2)),
      );
    },
    integers: (shape: Shape, low: number, high: number): HostTensor => random.integers(low, high, shape),
  };
}

/** Booleans from zeros and ones. */
export function bools(shape: Shape, values: readonly number[]): HostTensor {
  return hostTensor("bool", shape, Uint8Array.from(values));
}
