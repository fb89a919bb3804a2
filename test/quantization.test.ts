import { describe, expect, test } from "vitest";
import { UserError } from "../src/core/errors.ts";
import { float32, type HostTensor, hostTensor, sizeOf } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { input, matmul, portableTarget, type Target, toOnnx } from "../src/graph/index.ts";
import {
  bindPacked,
  bindRounded,
  bindWeights,
  linearWeights,
  packedBytes,
  quantizeMatrix,
  type Weighted,
} from "../src/models/index.ts";
import { linear } from "../src/nn/layers.ts";
import { inferenceTarget, openSession } from "../src/runtime/index.ts";
import { randomWeights } from "./original-files.ts";
import { smallNetworks } from "./small-networks.ts";

const random = seeded(11);

/** The numbers that a packed matrix stands for, by plain loops. */
function unpacked({ bits, blockSize, codes, scales }: ReturnType<typeof quantizeMatrix>, [n, k]: readonly number[]) {
  const blocks = scales.shape[1]!;
  const result = new Float32Array(n! * k!);
  for (let i = 0; i < n! * k!; i++) {
    const [row, column] = [Math.floor(i / k!), i % k!];
    const at = row * blocks * blockSize + column;
    const code = bits === 8 ? codes.data[at]! : (codes.data[at >> 1]! >> (4 * (at % 2))) & 15;
    result[i] = (code - 2 ** (bits - 1)) * scales.data[row * blocks + Math.floor(column / blockSize)]!;
  }
  return float32([n!, k!], result);
}

async function run(model: Uint8Array, feeds: Record<string, HostTensor>): Promise<Float32Array> {
  const session = await openSession(model, { threads: 1 });
  try {
    return (await session.run(feeds)).y!.data as Float32Array;
  } finally {
    await session.close();
  }
}

const largest = (a: Float32Array, b: Float32Array) => a.reduce((max, x, i) => Math.max(max, Math.abs(x - b[i]!)), 0);
const size = (x: Float32Array) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length);
const relative = (a: Float32Array, b: Float32Array) => size(a.map((x, i) => x - b[i]!)) / size(b);

describe.each([
  [4, 32],
  [4, 16],
  [8, 32],
] as const)("%i bits in blocks of %i", (bits, blockSize) => {
  test("a matrix is rounded to within a step of each block's scale", () => {
    const matrix = random.normal([7, 50]);
    const packed = quantizeMatrix(matrix, { bits, blockSize });
    const numbers = unpacked(packed, matrix.shape).data;
    matrix.data.forEach((value, i) => {
      const step = Math.abs(
        packed.scales.data[Math.floor(i / 50) * packed.scales.shape[1]! + Math.floor((i % 50) / blockSize)]!,
      );
      // Half a step, but a whole one at the end of the range that has one code less.
      expect(Math.abs(value - numbers[i]!)).toBeLessThanOrEqual(step * 1.0001);
    });
    expect(relative(numbers, matrix.data)).toBeLessThan(bits === 4 ? 0.12 : 0.008);
  });

  test("ONNX Runtime multiplies by it as by the numbers it stands for, packed and unpacked in the graph", async () => {
    const layer = linear(50, 7);
    const weights = randomWeights(layer, 1);
    const packed = quantizeMatrix(weights.get("weight")!, { bits, blockSize });
    const x = random.normal([2, 3, 50]);
    const y = layer(input("x", x.shape));
    const write = (target: Target, values: ReadonlyMap<string, HostTensor>, pack: boolean) => {
      const bind = bindWeights(layer, values);
      return toOnnx({ y }, { target, bind: pack ? bindPacked(layer, bind, new Map([["weight", packed]])) : bind })
        .bytes;
    };
    const expected = await run(
      write(inferenceTarget(), new Map(weights).set("weight", unpacked(packed, [7, 50])), false),
      { x },
    );
    const names = (model: Uint8Array) => new TextDecoder("latin1").decode(model);
    const contrib = write(inferenceTarget(), weights, true);
    expect(names(contrib)).toContain("MatMulNBits");
    expect(names(contrib)).not.toContain("Slice");
    const portable = write(portableTarget, weights, true);
    expect(names(portable)).not.toContain("MatMulNBits");
    expect(largest(await run(contrib, { x }), expected)).toBeLessThan(2e-5);
    expect(largest(await run(portable, { x }), expected)).toBeLessThan(2e-5);
  });
});

describe.each([
  "UNet2DConditionModel, odd size, linear projections, all conditions",
  "CLIPTextModel",
  "FluxTransformer2DModel",
])("%s", (name) => {
  test.each([
    [4, 0.5],
    [8, 0.04],
  ] as const)("with the weights of its linear layers in %i bits it gives nearly the same", async (bits, limit) => {
    const { network, inputs, output } = smallNetworks[name]!() as ReturnType<(typeof smallNetworks)[string]> & {
      network: Weighted;
    };
    const weights = randomWeights(network, 5);
    const chosen = linearWeights(network, [output]);
    expect(chosen.length).toBeGreaterThan(5);
    expect(chosen.filter((each) => /(token|position)_embedding|conv|layer_norm/.test(each))).toEqual([]);
    const packed = new Map(chosen.map((each) => [each, quantizeMatrix(weights.get(each)!, { bits, blockSize: 16 })]));
    const bind = bindWeights(network, weights);
    const feeds = Object.fromEntries(
      Object.entries(inputs).map(([key, { shape, dtype }]): [string, HostTensor] => [
        key,
        dtype === "int64"
          ? hostTensor(
              "int64",
              shape,
              BigInt64Array.from({ length: sizeOf(shape) }, (_, i) => BigInt(i % 7)),
            )
          : random.uniform(shape),
      ]),
    );
    const full = toOnnx({ y: output }, { bind, target: inferenceTarget() });
    const fed = Object.fromEntries(Object.keys(full.inputs).map((key) => [key, feeds[key]!]));
    const small = toOnnx({ y: output }, { bind: bindPacked(network, bind, packed), target: inferenceTarget() });
    const expected = await run(full.bytes, fed);
    const found = await run(small.bytes, fed);
    const error = relative(found, expected);
    expect(error).toBeGreaterThan(0);
    expect(error).toBeLessThan(limit);
    for (const [each, matrix] of packed) {
      const [n, k] = weights.get(each)!.shape as [number, number];
      const perRow = Math.ceil(k / 16) * 16;
      expect(packedBytes(matrix)).toBe(n * ((perRow * bits) / 8 + (4 * perRow) / 16));
    }
  });
});

describe.each([
  [4, 32],
  [8, 16],
] as const)("rounded by the graph to %i bits in blocks of %i", (bits, blockSize) => {
  const layer = linear(50, 7);
  const weights = new Map(randomWeights(layer, 1));
  // A block of zeros has no largest magnitude.
  weights.set(
    "weight",
    float32(
      [7, 50],
      weights.get("weight")!.data.map((value, i) => (i < 32 ? 0 : Number(value))),
    ),
  );
  const x = random.normal([2, 3, 50]);
  const y = layer(input("x", x.shape));
  const bind = bindWeights(layer, weights);
  const packed = new Map([["weight", quantizeMatrix(weights.get("weight")!, { bits, blockSize })]]);
  const rounded = bindRounded(layer, bind, ["weight"], { bits, blockSize });

  test.each([
    ["a small network's", inferenceTarget()],
    ["a large network's, ahead", { ...inferenceTarget(), ahead: true }],
    ["other devices', unpacked again", portableTarget],
  ] as const)("a matrix is the same as when it is rounded before: %s", async (_, target) => {
    const expected = await run(toOnnx({ y }, { target, bind: bindPacked(layer, bind, packed) }).bytes, { x });
    const model = toOnnx({ y }, { target, bind: rounded });
    const ahead = "ahead" in target;
    const types = model.ahead.flatMap(({ outputs }) => Object.values(outputs).map(({ dtype }) => dtype));
    expect(types.sort()).toEqual(ahead ? ["float32", "uint8"] : []);
    const session = await openSession(model.bytes, { threads: 1, ahead: model.ahead });
    const found = (await session.run({ x })).y!.data as Float32Array;
    await session.close();
    expect(largest(found, expected)).toBeLessThan(1e-6);
    expect(largest(found, await run(toOnnx({ y }, { target, bind }).bytes, { x }))).toBeGreaterThan(1e-3);
  });
});

test("a matrix that is used otherwise than by a linear layer is not packed", () => {
  const layer = linear(8, 8, { bias: false });
  const x = input("x", [2, 8]);
  expect(linearWeights(layer, [layer(x)])).toEqual(["weight"]);
  expect(linearWeights(layer, [layer(x), matmul(x, layer.parts.weight.tensor)])).toEqual([]);
});

test("block sizes that there is no kernel for are refused", () => {
  expect(() => quantizeMatrix(float32([1, 8], Array(8).fill(1)), { blockSize: 24 })).toThrow(UserError);
  expect(() => bindRounded(linear(8, 8), () => undefined, [], { blockSize: 8 })).toThrow(UserError);
});
