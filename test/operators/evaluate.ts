import { messageOf } from "../../src/core/errors.ts";
import type { HostTensor } from "../../src/core/host-tensor.ts";
import { seeded } from "../../src/core/random.ts";
import {
  add,
  constant,
  gradients,
  input,
  mul,
  parameterLeaf,
  sum,
  type Tensor,
  withScope,
} from "../../src/graph/index.ts";
import { type Array64, dot, toArray64 } from "./array64.ts";
import { type Provider, run } from "./provider.ts";
import type { Sample } from "./sample.ts";

/** A sample as graph: its leaves, its outputs, and the gradients of Σ outputs·weights for its float inputs. */
export interface SampleGraph {
  readonly leaves: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  /** One for each input; undefined for inputs of integers or bools. Empty when nothing can be differentiated. */
  readonly gradients: readonly (Tensor | undefined)[];
}

/** What a provider computed for a sample, or why it could not. */
export interface Result {
  readonly outputs: readonly HostTensor[];
  readonly gradients: readonly (HostTensor | undefined)[];
}

const isFloat = (x: { readonly dtype: string }) => x.dtype === "float32";

/** The fixed random weights that make a scalar of a sample's outputs: all 1 where a convention is tested. */
export function lossWeights({ convention }: Sample, outputs: readonly { readonly shape: readonly number[] }[]) {
  const random = seeded(99);
  return outputs.map(({ shape }) => {
    const weights = random.uniform(shape, { low: 0.5, high: 1.5 });
    return convention ? { ...weights, data: weights.data.map(() => 1) } : weights;
  });
}

/** Builds a sample's forward graph, and its gradient graph where the operators have gradients. */
export function buildSample(sample: Sample, prefix: string, differentiate: boolean): SampleGraph {
  return withScope(prefix, () => {
    const leaves = sample.inputs.map(({ shape, dtype }, i) =>
      sample.weights?.includes(i) ? parameterLeaf(shape, dtype) : input(`${prefix}.x${i}`, shape, dtype),
    );
    const built = sample.build(...leaves);
    const outputs: readonly Tensor[] = "node" in built ? [built] : built;
    if (!differentiate) return { leaves, outputs, gradients: [] };
    const weights = lossWeights(sample, outputs);
    const loss = outputs.map((y, i) => sum(mul(y, constant(weights[i]!)))).reduce((a, b) => add(a, b));
    const wanted = leaves.filter(isFloat);
    const found = gradients(loss, wanted);
    return { leaves, outputs, gradients: leaves.map((x) => found[wanted.indexOf(x)]) };
  });
}

/**
 * Runs all samples on a provider, in one model, which is fast. When that model fails it is halved until only the samples
 * at fault are left: these have an error in place of a result.
 */
export async function evaluate(
  samples: ReadonlyMap<Sample, SampleGraph>,
  provider: Provider,
): Promise<Map<Sample, Result | Error>> {
  try {
    return await evaluateTogether(samples, provider);
  } catch (error) {
    const entries = [...samples];
    if (entries.length === 1) return new Map([[entries[0]![0], new Error(messageOf(error), { cause: error })]]);
    const middle = entries.length >> 1;
    const halves = [entries.slice(0, middle), entries.slice(middle)].map((half) => evaluate(new Map(half), provider));
    return new Map((await Promise.all(halves)).flatMap((half) => [...half]));
  }
}

async function evaluateTogether(samples: ReadonlyMap<Sample, SampleGraph>, provider: Provider) {
  const outputs: Record<string, Tensor> = {};
  const feeds: Record<string, HostTensor> = {};
  const weights = new Map<Tensor, HostTensor>();
  let count = 0;
  const names = new Map<Tensor, string>();
  const wanted = (tensor: Tensor) => {
    if (!names.has(tensor)) names.set(tensor, `out${count++}`);
    outputs[names.get(tensor)!] = tensor;
  };
  for (const [sample, graph] of samples) {
    graph.leaves.forEach((leaf, i) => {
      if (sample.weights?.includes(i)) weights.set(leaf, sample.inputs[i]!);
      else feeds[(leaf.node.attributes as { name: string }).name] = sample.inputs[i]!;
    });
    graph.outputs.forEach(wanted);
    for (const gradient of graph.gradients) if (gradient) wanted(gradient);
  }
  const found = await run(outputs, feeds, provider, weights);
  const value = (tensor: Tensor) => found[names.get(tensor)!]!;
  return new Map(
    [...samples].map(([sample, graph]): [Sample, Result] => [
      sample,
      { outputs: graph.outputs.map(value), gradients: graph.gradients.map((g) => g && value(g)) },
    ]),
  );
}

/** What the reference computes for the sample's inputs. */
export function referenceOutputs(sample: Sample): readonly Array64[] {
  const outputs = sample.reference(...sample.inputs.map(toArray64));
  return "data" in outputs ? [outputs] : outputs;
}

/** A derivative of a sample's loss: along one element of an input, or along a direction through all of them. */
export interface Slope {
  readonly direction: ReadonlyMap<number, number> | Float64Array;
  readonly value: number;
}

/** Above so many elements only some are varied one by one, and all together along random directions. */
const ALL_ELEMENTS = 160;

const cache = new WeakMap<Sample, readonly (readonly Slope[])[]>();

/**
 * Derivatives of Σ reference outputs·weights with respect to each float input, by central differences in float64: with
 * a step of 1e-4 they are right to about 1e-8.
 */
export function referenceSlopes(sample: Sample): readonly (readonly Slope[])[] {
  const known = cache.get(sample);
  if (known) return known;
  const values = sample.inputs.map(toArray64);
  const weights = lossWeights(sample, referenceOutputs(sample)).map(({ data }) => Float64Array.from(data));
  const loss = () => {
    const outputs = sample.reference(...values);
    return ("data" in outputs ? [outputs] : outputs).reduce((total, y, i) => total + dot(y.data, weights[i]!), 0);
  };
  const step = 1e-4;
  const random = seeded(7);
  const slopes = values.map(({ data }, i) => {
    if (!isFloat(sample.inputs[i]!)) return [];
    const along = (direction: Slope["direction"]): Slope => {
      const start = data.slice();
      const move = (length: number) => {
        data.set(start);
        direction.forEach((amount, place) => {
          data[place]! += amount * length;
        });
        return loss();
      };
      const value = (move(step) - move(-step)) / (2 * step);
      data.set(start);
      return { direction, value };
    };
    const places =
      data.length <= ALL_ELEMENTS ? data.keys() : Array.from(random.permutation(data.length)).slice(0, ALL_ELEMENTS);
    const single = Array.from(places, (place) => along(new Map([[place, 1]])));
    if (data.length <= ALL_ELEMENTS) return single;
    const directions = Array.from({ length: 3 }, () =>
      Float64Array.from(random.uniform([data.length], { low: -1, high: 1 }).data, (x) => x / Math.sqrt(data.length)),
    );
    return [...single, ...directions.map(along)];
  });
  cache.set(sample, slopes);
  return slopes;
}
