import { beforeAll, describe, expect, test } from "vitest";
import { UserError } from "../src/core/errors.ts";
import { describeShape } from "../src/core/host-tensor.ts";
import { notDifferentiable, operators, topological } from "../src/graph/index.ts";
import { toArray64 } from "./operators/array64.ts";
import { composites } from "./operators/composite.ts";
import {
  buildSample,
  evaluate,
  type Result,
  referenceOutputs,
  referenceSlopes,
  type SampleGraph,
} from "./operators/evaluate.ts";
import { samples } from "./operators/index.ts";
import { type Provider, portableCpu, tunedCpu } from "./operators/provider.ts";
import type { Sample } from "./operators/sample.ts";

/**
 * Every registered operator, forward and backward, against a plain float64 reference: its outputs as they are, its
 * gradient graph against central differences of the reference. An operator without samples fails the test.
 */

/** Largest error of float32 gradients, relative to the largest element. */
const GRADIENT_TOLERANCE = 2e-4;
/** Largest error of float32 outputs, relative to the largest element, unless a sample says otherwise. */
const FORWARD_TOLERANCE = 1e-5;

const cases = [
  ...Object.entries(samples).flatMap(([operator, list]) => list.map((sample) => ({ operator, sample }))),
  ...composites.map((sample) => ({ operator: undefined, sample })),
].map(({ operator, sample }) => {
  const rule = operator === undefined ? undefined : operators.get(operator);
  const isLeaf = rule && ["input", "parameter", "constant"].includes(rule.name);
  const title = `${operator ?? "composite"}: ${sample.name}`;
  const { outputs } = buildSample(sample, title, false);
  // Through integers and bools no gradient is ever asked for.
  const floats = outputs.every(({ dtype }) => dtype === "float32");
  const differentiable = floats && sample.inputs.some(({ dtype }) => dtype === "float32");
  const refuses = rule?.gradient === notDifferentiable && !isLeaf;
  return {
    operator,
    sample,
    title,
    refuses: differentiable && refuses,
    differentiable: differentiable && !refuses,
  };
});

type Case = (typeof cases)[number];
const titled = (list: readonly Case[]) => list.map((each) => [each.title, each] as const);

test("every registered operator has samples, and every entry is a registered operator", () => {
  expect(Object.keys(samples).sort()).toEqual([...operators.keys()].sort());
  for (const [name, list] of Object.entries(samples)) expect(list.length, name).toBeGreaterThan(0);
});

test("no two samples have the same name", () => {
  expect(new Set(cases.map(({ title }) => title)).size).toBe(cases.length);
});

test.each(titled(cases.filter(({ operator }) => operator)))(
  "%s: the sample contains the operator",
  (title, { operator, sample }) => {
    const names = topological(buildSample(sample, title, false).outputs).map((node) => node.operator.name);
    if (sample.simplified) return expect(names).not.toContain(operator);
    expect(names).toContain(operator);
  },
);

test.each(titled(cases.filter(({ refuses }) => refuses)))(
  "%s: asking for a gradient is an error that names it",
  (title, { operator, sample }) => {
    expect(() => buildSample(sample, title, true)).toThrow(UserError);
    expect(() => buildSample(sample, title, true)).toThrow(new RegExp(`^${operator} has no gradient`));
  },
);

const providers: readonly Provider[] = [portableCpu, await tunedCpu()];

describe.each(providers.map((provider) => [provider.name, provider] as const))("on %s", (_, provider) => {
  let results: ReadonlyMap<Sample, Result | Error>;

  beforeAll(async () => {
    const found = new Map<Sample, Result | Error>();
    const graphs = new Map<Sample, SampleGraph>();
    for (const { sample, title, differentiable } of cases) {
      try {
        graphs.set(sample, buildSample(sample, title, differentiable));
      } catch (error) {
        found.set(sample, error as Error);
      }
    }
    for (const [sample, result] of await evaluate(graphs, provider)) found.set(sample, result);
    results = found;
  }, 120_000);

  const resultOf = (sample: Sample): Result => {
    const result = results.get(sample)!;
    if (result instanceof Error) throw result;
    return result;
  };

  test.each(titled(cases))("%s: forward", (_, { sample }) => {
    const outputs = referenceOutputs(sample);
    const found = resultOf(sample).outputs;
    expect(found.length).toBe(outputs.length);
    found.forEach((tensor, i) => {
      expect(describeShape(tensor.shape)).toBe(describeShape(outputs[i]!.shape));
      expectClose(toArray64(tensor).data, outputs[i]!.data, sample.tolerance ?? FORWARD_TOLERANCE, `output ${i}`);
    });
  });

  test.each(titled(cases.filter(({ differentiable }) => differentiable)))("%s: gradient", (_, { sample }) => {
    const { gradients } = resultOf(sample);
    sample.inputs.forEach((input, i) => {
      if (input.dtype !== "float32") return;
      const gradient = toArray64(gradients[i]!);
      expect(gradient.shape).toEqual(input.shape);
      if (sample.convention) {
        expect([...gradient.data], `input ${i}`).toEqual(sample.convention[i]!.map((x) => expect.closeTo(x, 5)));
        return;
      }
      const slopes = referenceSlopes(sample)[i]!;
      expect(slopes.length).toBeGreaterThan(0);
      const along = slopes.map(({ direction }) => {
        let total = 0;
        direction.forEach((amount, place) => {
          total += amount * gradient.data[place]!;
        });
        return total;
      });
      const expected = slopes.map(({ value }) => value);
      expectClose(along, expected, GRADIENT_TOLERANCE, `the gradient for input ${i}`);
    });
  });
});

/** Compares relative to the largest expected number; below 1e-3 the largest counts as 1e-3 (gradients that are zero). */
function expectClose(found: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number, what: string): void {
  const largest = Array.from(expected).reduce((a, b) => Math.max(a, Math.abs(b)), 1e-3);
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs(found[i]! - expected[i]!) / largest;
    if (!(error <= tolerance)) {
      expect.fail(
        `${what} at ${i}: ${found[i]}, expected ${expected[i]} (relative to the largest, ${error.toExponential(2)})`,
      );
    }
  }
}
