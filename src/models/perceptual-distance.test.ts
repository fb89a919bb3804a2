import { describe, expect, test } from "vitest";
import { type HostTensor, zeros } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { gradients, input, sum, toOnnx } from "../graph/index.ts";
import { namedParameters } from "../nn/module.ts";
import { openSession } from "../runtime/index.ts";
import { linearName, perceptualDistance } from "./perceptual-distance.ts";
import { bindWeights, initialize, matchWeights } from "./weights.ts";

const WIDTHS = [3, 4, 5, 4, 6];
const SIDE = 17;

type Numbers = HostTensor<"float32">;

/** Weights by which about half of the features are alive at every stage. */
function weightsOf(network: ReturnType<typeof perceptualDistance>): Map<string, Numbers> {
  const random = seeded(7);
  return new Map(
    [...initialize(network, random)].map(([name, { shape }]) => {
      if (name.startsWith("lin")) return [name, random.uniform(shape)];
      return [name, random.normal(shape, { std: name.endsWith("bias") ? 0.1 : 0.5 })];
    }),
  );
}

// ---- the same in plain float64 loops ----

/** Channels of rows of pixels. */
type Planes = number[][][];

/** A 3×3 convolution with a border of zeros, then the rectifier. */
function convolved(x: Planes, weight: Numbers, bias: Numbers): Planes {
  const inputs = weight.shape[1]!;
  return Array.from(bias.data, (shift, o) =>
    x[0]!.map((line, row) =>
      line.map((_, column) => {
        let total = shift;
        for (let c = 0; c < inputs; c++)
          for (let u = 0; u < 3; u++)
            for (let v = 0; v < 3; v++)
              total += weight.data[((o * inputs + c) * 3 + u) * 3 + v]! * (x[c]![row + u - 1]?.[column + v - 1] ?? 0);
        return Math.max(0, total);
      }),
    ),
  );
}

function pooled(x: Planes): Planes {
  const half = Math.floor(x[0]!.length / 2);
  const places = Array.from({ length: half }, (_, i) => 2 * i);
  return x.map((plane) =>
    places.map((row) =>
      places.map((column) => Math.max(...[row, row + 1].flatMap((r) => plane[r]!.slice(column, column + 2)))),
    ),
  );
}

function stagesOf(picture: Planes, weights: ReadonlyMap<string, Numbers>): Planes[] {
  const colours = picture.length === 1 ? [picture[0]!, picture[0]!, picture[0]!] : picture;
  let x = colours.map((plane, c) =>
    plane.map((line) => line.map((value) => (value - [-0.03, -0.088, -0.188][c]!) / [0.458, 0.448, 0.45][c]!)),
  );
  // torchvision's places of the convolutions of VGG16, stage by stage.
  const places = [
    [0, 2],
    [5, 7],
    [10, 12, 14],
    [17, 19, 21],
    [24, 26, 28],
  ];
  return places.map((convolutions, stage) => {
    if (stage > 0) x = pooled(x);
    for (const place of convolutions) {
      x = convolved(x, weights.get(`features.${place}.weight`)!, weights.get(`features.${place}.bias`)!);
    }
    return x;
  });
}

function expected(a: Planes, b: Planes, weights: ReadonlyMap<string, Numbers>): number {
  const [ours, theirs] = [stagesOf(a, weights), stagesOf(b, weights)];
  return ours.reduce((total, stage, i) => {
    const linear = weights.get(linearName(i))?.data;
    const side = stage[0]!.length;
    let distance = 0;
    for (let row = 0; row < side; row++)
      for (let column = 0; column < side; column++) {
        const lengths = [stage, theirs[i]!].map((x) => Math.hypot(...x.map((plane) => plane[row]![column]!)) || 1);
        stage.forEach((plane, c) => {
          const difference = plane[row]![column]! / lengths[0]! - theirs[i]![c]![row]![column]! / lengths[1]!;
          distance += (linear?.[c] ?? 1) * difference ** 2;
        });
      }
    return total + distance / side ** 2;
  }, 0);
}

/** Picture `i` of a batch. */
function planesOf({ shape, data }: Numbers, i: number): Planes {
  const [, channels, height, width] = shape as [number, number, number, number];
  return Array.from({ length: channels }, (_, c) =>
    Array.from({ length: height }, (_, row) => {
      const at = ((i * channels + c) * height + row) * width;
      return [...data.subarray(at, at + width)];
    }),
  );
}

describe("the perceptual distance", () => {
  test.each([
    ["with learned weights of channels", 3, true],
    ["of gray pictures, without them", 1, false],
  ])("%s is that of plain loops, of pictures whose sides are odd too", async (_, channels, linear) => {
    const network = perceptualDistance({ widths: WIDTHS, linear });
    const shape = [2, channels, SIDE, SIDE];
    const [a, b] = [1, 2].map((seed) => seeded(seed).uniform(shape, { low: -1, high: 1 })) as [Numbers, Numbers];
    const weights = weightsOf(network);
    const graph = toOnnx({ y: network(input("a", shape), input("b", shape)) }, { bind: bindWeights(network, weights) });
    const session = await openSession(graph.bytes, { threads: 1 });
    try {
      const { y } = await session.run({ a, b });
      expect(y!.shape).toEqual([2]);
      (y!.data as Float32Array).forEach((distance, i) => {
        const reference = expected(planesOf(a, i), planesOf(b, i), weights);
        expect(reference).toBeGreaterThan(0.05);
        expect(Math.abs(distance / reference - 1)).toBeLessThan(1e-4);
      });
      expect([...((await session.run({ a, b: a })).y!.data as Float32Array)]).toEqual([0, 0]);
    } finally {
      await session.close();
    }
  });

  test("is 0 where no feature is alive, and so is its gradient", async () => {
    const network = perceptualDistance({ widths: WIDTHS });
    const shape = [1, 3, 16, 16];
    const a = input("a", shape);
    const distance = sum(network(a, input("b", shape)));
    const dead = new Map([...namedParameters(network)].map(([name, { shape }]) => [name, zeros("float32", shape)]));
    const graph = toOnnx({ distance, slope: gradients(distance, [a])[0]! }, { bind: bindWeights(network, dead) });
    const session = await openSession(graph.bytes, { threads: 1 });
    try {
      const result = await session.run({ a: seeded(3).normal(shape), b: seeded(4).normal(shape) });
      expect(result.distance!.data[0]).toBe(0);
      expect((result.slope!.data as Float32Array).every((value) => value === 0)).toBe(true);
    } finally {
      await session.close();
    }
  });

  test("has torchvision's names of VGG16 and those of LPIPS, and takes a checkpoint with the classifier", () => {
    const network = perceptualDistance({ linear: true });
    const names = [...namedParameters(network)];
    expect(names.slice(0, 26).map(([name]) => name)).toEqual(
      [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28].flatMap((i) => [`features.${i}.weight`, `features.${i}.bias`]),
    );
    expect(names.slice(26).map(([name]) => name)).toEqual([0, 1, 2, 3, 4].map(linearName));
    const count = names.reduce((total, [, { shape }]) => total + shape.reduce((a, b) => a * b, 1), 0);
    // torchvision's VGG16 has 14,714,688 parameters before its classifier; LPIPS has one for each of 1,472 channels.
    expect(count).toBe(14_714_688 + 1472);
    const stored = new Map(names.map(([name, { shape }]) => [name, { dtype: "float32" as const, shape, data: empty }]));
    for (const name of ["classifier.0.weight", "pre_logits.fc1.bias", "head.fc.weight"]) {
      stored.set(name, { dtype: "float32", shape: [2, 2], data: empty });
    }
    expect(matchWeights(network, stored).size).toBe(names.length);
    stored.set("features.1.running_mean", { dtype: "float32", shape: [64], data: empty });
    expect(() => matchWeights(network, stored)).toThrow(/1 not expected:\n {2}features.1.running_mean/);
  });
});

const empty = new Float32Array();
