import { expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { float32 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { input, toOnnx } from "../graph/index.ts";
import { namedParameters } from "../nn/module.ts";
import { openSession } from "../runtime/index.ts";
import { patchDiscriminator, smallestSide } from "./patch-discriminator.ts";
import { bindWeights, initialize } from "./weights.ts";

test("with three levels it has the convolutions of Isola et al. 2017 and their 30×30 patches of 256×256 pixels", () => {
  const network = patchDiscriminator({ channels: 3, width: 64, levels: 3 });
  expect(network(input("images", [2, 3, 256, 256])).shape).toEqual([2, 1, 30, 30]);
  const convolutions = [...namedParameters(network)].filter(([, { shape }]) => shape.length === 4);
  expect(convolutions.map(([, { shape }]) => shape)).toEqual([
    [64, 3, 4, 4],
    [128, 64, 4, 4],
    [256, 128, 4, 4],
    [512, 256, 4, 4],
    [1, 512, 4, 4],
  ]);
});

test("channels double up to eight times the first level's", () => {
  const network = patchDiscriminator({ channels: 1, width: 2, levels: 5 });
  const { conv_out } = network.parts;
  expect(conv_out.parts.weight.shape).toEqual([1, 16, 4, 4]);
});

test.each([1, 2, 3])(
  "with %i levels finds a patch in the smallest side that it takes, and in none smaller",
  (levels) => {
    const network = patchDiscriminator({ channels: 1, width: 4, levels });
    const side = smallestSide(levels);
    expect(network(input("images", [1, 1, side, side])).shape).toEqual([1, 1, 1, 1]);
    expect(() => network(input("smaller", [1, 1, side - 1, side]))).toThrow(UserError);
  },
);

test("the verdict on a picture does not depend on the others of its batch", async () => {
  const network = patchDiscriminator({ channels: 2, width: 4, levels: 2 });
  const weights = initialize(network, seeded(1));
  const x = input("x", [3, 2, 16, 16]);
  const graph = toOnnx({ y: network(x) }, { bind: bindWeights(network, weights) });
  const session = await openSession(graph.bytes, { threads: 1 });
  try {
    const images = seeded(2).normal(x.shape);
    const others = float32(
      x.shape,
      images.data.map((value, i) => (i < (2 / 3) * images.data.length ? -3 * value : value)),
    );
    const [first, second] = await Promise.all([images, others].map(async (x) => (await session.run({ x })).y!.data));
    const patches = first!.length / 3;
    expect(second!.slice(0, 2 * patches)).not.toEqual(first!.slice(0, 2 * patches));
    expect(second!.slice(2 * patches)).toEqual(first!.slice(2 * patches));
  } finally {
    await session.close();
  }
});
