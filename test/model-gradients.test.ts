import { describe, expect, test } from "vitest";
import { float32, type HostTensor, int64, sizeOf } from "../src/core/host-tensor.ts";
import { type Random, seeded } from "../src/core/random.ts";
import { gradients, mul, sum, type Tensor, toOnnx, values } from "../src/graph/index.ts";
import { initialize } from "../src/models/index.ts";
import { namedParameters } from "../src/nn/module.ts";
import { openSession, trainingTarget } from "../src/runtime/index.ts";
import { smallNetworks } from "./small-networks.ts";

/**
 * Every network's gradients against finite differences: for some parameters, the slope of a random functional of the
 * output along a random direction, by central differences of fourth order. Everything runs in float32; the functional is
 * summed in double precision.
 */
const CHECKED_PARAMETERS = 12;
const STEP = 1e-2;

describe("gradients agree with finite differences:", () => {
  for (const [name, build] of Object.entries(smallNetworks)) {
    test(name, async () => {
      const random = seeded(7);
      const { network, inputs, output, arrange } = build();
      const feeds = Object.fromEntries(
        Object.entries(inputs).map(([key, tensor]) => [key, drawInput(tensor, random)] as const),
      );
      const start = startingValues(network, random);
      for (const [key, { data }] of start) arrange?.(key, data as Float32Array);
      const weights = random.normal(output.shape);
      const parameters = namedParameters(network);
      const trainable = [...parameters].filter(([, p]) => p.trainable);
      const loss = sum(mul(output, values(output.shape, weights.data)));
      const slopes = gradients(
        loss,
        trainable.map(([, p]) => p.tensor),
      );
      const names = new Map([...parameters].map(([key, p]) => [p.tensor, key]));
      const graph = toOnnx(
        { output, ...Object.fromEntries(trainable.map(([key], i) => [`d.${key}`, slopes[i]!])) },
        {
          target: await trainingTarget(),
          bind: (leaf) => (names.has(leaf) ? { kind: "input", name: `p.${names.get(leaf)}` } : undefined),
        },
      );
      const session = await openSession(graph.bytes, { name, threads: 1 });
      try {
        const given = (moved: ReadonlyMap<string, HostTensor>) => {
          const all: Record<string, HostTensor> = { ...feeds };
          for (const key of parameters.keys()) all[`p.${key}`] = moved.get(key) ?? start.get(key)!;
          return Object.fromEntries(Object.keys(graph.inputs).map((key) => [key, all[key]!]));
        };
        const value = async (moved: ReadonlyMap<string, HostTensor>) => {
          const result = await session.run(given(moved), { fetch: ["output"] });
          return dot(result.output!.data as Float32Array, weights.data);
        };
        const analytic = await session.run(given(start));
        const results: { key: string; slope: number; expected: number }[] = [];
        for (const key of chosen(
          trainable.map(([each]) => each),
          random,
        )) {
          const at = start.get(key)!.data as Float32Array;
          const direction = random.normal(start.get(key)!.shape).data;
          const scale = Math.max(rootMeanSquare(at), 1e-2);
          const along = (distance: number) =>
            value(
              new Map([
                [
                  key,
                  float32(
                    start.get(key)!.shape,
                    at.map((x, i) => x + distance * scale * direction[i]!),
                  ),
                ],
              ]),
            );
          const near = (await along(STEP)) - (await along(-STEP));
          const far = (await along(2 * STEP)) - (await along(-2 * STEP));
          const expected = (8 * near - far) / (12 * STEP);
          results.push({
            key,
            slope: scale * dot(analytic[`d.${key}`]!.data as Float32Array, direction),
            expected,
          });
        }
        const largest = Math.max(...results.map(({ expected }) => Math.abs(expected)));
        // A network whose output does not depend on its parameters would pass everything below.
        expect(largest).toBeGreaterThan(1e-3);
        const wrong = results.filter(
          ({ slope, expected }) => !(Math.abs(slope - expected) <= 5e-3 * Math.abs(expected) + 5e-4 * largest),
        );
        expect(wrong).toEqual([]);
      } finally {
        await session.close();
      }
    });
  }
});

/** Some parameters, always with the first and the last. */
function chosen(names: readonly string[], random: Random): string[] {
  const order = [...random.permutation(names.length)].map((i) => names[i]!);
  return [...new Set([names[0]!, names.at(-1)!, ...order])].slice(0, CHECKED_PARAMETERS);
}

/** The network's own beginning, moved a little so that nothing is exactly 0 or 1. */
function startingValues(network: Parameters<typeof initialize>[0], random: Random): Map<string, HostTensor> {
  const start = initialize(network, random);
  return new Map(
    [...start].map(([name, { shape, data }]) => {
      const moved = random.normal(shape, { std: 0.1 * Math.max(rootMeanSquare(data), 0.5) });
      return [
        name,
        float32(
          shape,
          data.map((x, i) => x + moved.data[i]!),
        ),
      ];
    }),
  );
}

function drawInput({ shape, dtype }: Tensor, random: Random): HostTensor {
  if (dtype === "int64") return int64(shape, [...random.integers(0, 8, shape).data]);
  const size = sizeOf(shape);
  // Vectors are timesteps and scales, and masks keep everything.
  if (shape.length === 1)
    return float32(
      shape,
      Float32Array.from({ length: size }, (_, i) => 20 + 300 * i),
    );
  return random.normal(shape);
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i]! * b[i]!;
  return total;
}

function rootMeanSquare(x: Float32Array): number {
  return Math.sqrt(dot(x, x) / x.length);
}
