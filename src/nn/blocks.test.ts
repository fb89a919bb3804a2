import { expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { type HostTensor, sizeOf } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { input, type Tensor, toOnnx, topological, values } from "../graph/index.ts";
import { openSession } from "../runtime/index.ts";
import { activation } from "./activation.ts";
import { attend, attention } from "./attention.ts";
import { feedForward } from "./feed-forward.ts";
import { forInference, withScoreLimit } from "./inference.ts";
import { namedParameters, type PartGroup } from "./module.ts";
import { unpatchify } from "./patch-embedding.ts";
import { resizeNearest } from "./resampling.ts";
import { resnetBlock } from "./resnet-block.ts";
import { rotate, rotationsOf } from "./rotary.ts";
import { sinusoids } from "./timestep-embedding.ts";

/** Random numbers as a constant, the same for the same seed. */
const draw = (shape: readonly number[], seed: number) => values(shape, seeded(seed).normal(shape).data);

async function run<Names extends string>(outputs: Record<Names, Tensor>, network?: PartGroup) {
  const parameters = new Map<Tensor, HostTensor>();
  const random = seeded(3);
  if (network)
    for (const { tensor } of namedParameters(network).values()) parameters.set(tensor, random.normal(tensor.shape));
  const bind = (leaf: Tensor) => {
    const tensor = parameters.get(leaf);
    return tensor && ({ kind: "data", tensor } as const);
  };
  const session = await openSession(toOnnx(outputs, { bind }).bytes, { threads: 1 });
  try {
    return (await session.run({})) as Record<Names, HostTensor>;
  } finally {
    await session.close();
  }
}

function difference(a: HostTensor, b: HostTensor): number {
  expect(a.shape).toEqual(b.shape);
  return (a.data as Float32Array).reduce((most, x, i) => Math.max(most, Math.abs(x - (b.data[i] as number))), 0);
}

test("an image's pixels attend as its tokens do", async () => {
  const layer = attention(6, { heads: 2, headWidth: 3, bias: true, normGroups: 3 });
  const image = draw([2, 6, 3, 4], 1);
  const tokens = values([2, 12, 6], transposed(seeded(1).normal([2, 6, 12]).data, 2, 6, 12));
  const result = await run({ image: layer(image), tokens: layer(tokens) }, layer);
  const asTokens = {
    ...result.image,
    shape: [2, 12, 6],
    data: transposed(result.image.data as Float32Array, 2, 6, 12),
  };
  expect(difference(asTokens as HostTensor, result.tokens)).toBeLessThan(1e-5);
});

test("masked keys change nothing", async () => {
  const layer = attention(4, { heads: 2, headWidth: 2, contextWidth: 5 });
  const x = draw([1, 3, 4], 1);
  const numbers = seeded(2).normal([1, 6, 5]).data;
  const hidden = values([1, 6], [0, 0, 0, 0, -1e4, -1e4]);
  const result = await run(
    {
      short: layer(x, { context: values([1, 4, 5], numbers.slice(0, 20)) }),
      masked: layer(x, { context: values([1, 6, 5], numbers), mask: hidden }),
      all: layer(x, { context: values([1, 6, 5], numbers) }),
    },
    layer,
  );
  expect(difference(result.short, result.masked)).toBeLessThan(1e-5);
  expect(difference(result.short, result.all)).toBeGreaterThan(1e-3);
});

test("added keys and values stand beside the layer's own, or alone", async () => {
  const beside = attention(4, { heads: 1, headWidth: 4, addedWidth: 3 });
  const alone = attention(4, { heads: 1, headWidth: 4, addedWidth: 3, onlyAdded: true });
  const context = draw([1, 1, 3], 2);
  const [x, y] = [draw([1, 5, 4], 1), draw([1, 5, 4], 9)];
  expect([...namedParameters(alone).keys()]).not.toContain("to_k.weight");
  // With a single key there is nothing to choose: the queries do not matter.
  const only = await run({ x: alone(x, { context }), y: alone(y, { context }) }, alone);
  expect(difference(only.x, only.y)).toBeLessThan(1e-6);
  const both = await run({ x: beside(x, { context }), y: beside(y, { context }), without: beside(x) }, beside);
  expect(difference(both.x, both.y)).toBeGreaterThan(1e-3);
  expect(difference(both.x, both.without)).toBeGreaterThan(1e-3);
});

test("with a limit on its scores attention takes its queries in pieces, with the same result", async () => {
  const [q, k, v] = [draw([2, 3, 7, 4], 1), draw([2, 3, 5, 4], 2), draw([2, 3, 5, 4], 3)] as const;
  const masks = { none: undefined, forAll: draw([2, 1, 1, 5], 4), each: draw([1, 1, 7, 5], 5) };
  for (const mask of Object.values(masks)) {
    const options = { scale: 0.5, mask };
    const whole = attend(q, k, v, options);
    // Room for the scores of 2 of 7 queries.
    const pieces = withScoreLimit(2 * 3 * 2 * 5 * 4, () => attend(q, k, v, options));
    expect(topological([pieces]).filter(({ operator }) => operator.name === "softmax")).toHaveLength(4);
    const result = await run({ whole, pieces });
    expect(difference(result.whole, result.pieces)).toBeLessThan(1e-6);
  }
  expect(topological([attend(q, k, v, { scale: 1 })]).filter((node) => node.operator.name === "softmax")).toHaveLength(
    1,
  );
});

test.each([
  { rows: [2, 300], pieces: 2 },
  // A prime: pieces of 344, 344 and 343.
  { rows: [1031], pieces: 3 },
  { rows: [500], pieces: 1 },
])(
  "a feed-forward layer for inference takes $rows tokens in $pieces pieces, with the same result",
  async ({ rows, pieces }) => {
    // 16 KB of hidden values a token: 512 tokens in 8 MB.
    const layer = feedForward(3, { inner: 2048, outputs: 5, act: "geglu" });
    const x = draw([...rows, 3], 1);
    const build = (tokens: Tensor) => layer(tokens);
    const inPieces = forInference(() => build(x));
    expect(topological([inPieces]).filter(({ operator }) => operator.name === "gelu")).toHaveLength(pieces);
    const result = await run({ whole: build(x), inPieces }, layer);
    expect(difference(result.whole, result.inPieces) / 1e3).toBeLessThan(1e-6);
  },
);

test("scores of rotated queries and keys depend on the distance of their positions only", async () => {
  const q = draw([1, 1, 1, 8], 1);
  const k = draw([1, 1, 1, 8], 2);
  const at = (x: Tensor, row: number, column: number) => rotate(x, rotationsOf(values([1, 2], [row, column]), [4, 4]));
  const result = await run({ q0: at(q, 2, 3), k0: at(k, 5, 1), q1: at(q, 12, 43), k1: at(k, 15, 41), q2: at(q, 2, 4) });
  const score = (a: HostTensor, b: HostTensor) =>
    (a.data as Float32Array).reduce((total, x, i) => total + x * (b.data[i] as number), 0);
  expect(score(result.q1, result.k1)).toBeCloseTo(score(result.q0, result.k0), 4);
  expect(Math.abs(score(result.q2, result.k0) - score(result.q0, result.k0))).toBeGreaterThan(1e-3);
});

test("nearest resizing takes pixel ⌊i·old/new⌋, also where it is not doubling", async () => {
  const x = values(
    [1, 1, 3, 4],
    Array.from({ length: 12 }, (_, i) => i),
  );
  const sizes = [
    [6, 8],
    [5, 7],
    [7, 5],
    [2, 9],
  ] as const;
  const result = await run(Object.fromEntries(sizes.map((size) => [String(size), resizeNearest(x, size)])));
  for (const [h, w] of sizes) {
    const expected = Array.from({ length: h * w }, (_, i) => {
      const row = Math.floor((Math.floor(i / w) * 3) / h);
      return row * 4 + Math.floor(((i % w) * 4) / w);
    });
    expect([...(result[`${h},${w}`]!.data as Float32Array)]).toEqual(expected);
  }
});

test("patches come back to where they were cut", async () => {
  const image = await run({
    y: unpatchify(
      values(
        [1, 2, 8],
        Array.from({ length: 16 }, (_, i) => i),
      ),
      2,
      2,
      1,
      2,
    ),
  });
  expect(image.y.shape).toEqual([1, 2, 2, 4]);
  // Channels are innermost in a token: channel 0 holds the even numbers.
  expect([...(image.y.data as Float32Array)]).toEqual([0, 2, 8, 10, 4, 6, 12, 14, 1, 3, 9, 11, 5, 7, 13, 15]);
});

test("sinusoids of an odd number of channels end with a zero", async () => {
  const { y } = await run({ y: sinusoids(values([2], [0, 3]), 5, { flipSinToCos: false }) });
  expect(y.shape).toEqual([2, 5]);
  expect(y.data[4]).toBe(0);
  expect(y.data[5]).toBeCloseTo(Math.sin(3), 6);
  expect(y.data[7]).toBeCloseTo(Math.cos(3), 6);
});

test("a residual block's shortcut, size and scale follow its options", async () => {
  const up = resnetBlock(4, 4, { groups: 2, resample: "up", outputScale: 2, shortcut: true, shortcutBias: false });
  const y = up(draw([1, 4, 3, 2], 1));
  expect(y.shape).toEqual([1, 4, 6, 4]);
  expect([...namedParameters(up).keys()]).toContain("conv_shortcut.weight");
  expect([...namedParameters(up).keys()]).not.toContain("conv_shortcut.bias");
  const down = resnetBlock(4, 6, { groups: 2, resample: "down" });
  expect((await run({ y: down(draw([1, 4, 5, 7], 1)) }, down)).y.shape).toEqual([1, 6, 2, 3]);
});

test("unknown activations are refused with the known ones", () => {
  expect(() => activation("toString")).toThrow(UserError);
  expect(() => activation("sine")).toThrow(/accepted are "silu", "swish"/);
  expect(() => feedForward(4, { act: "relu" })).toThrow(/accepted are gelu, gelu-approximate, geglu/);
});

test("an error inside a layer names its path", () => {
  const block = resnetBlock(4, 4, { groups: 2 });
  namedParameters({ parts: { down_blocks: [block] } });
  expect(() => block(input("x", [1, 3, 4, 4]))).toThrow(/in layer down_blocks\.0\.norm1/);
});

/** [n, a, b] → [n, b, a] */
function transposed(x: Float32Array, n: number, a: number, b: number): Float32Array {
  const result = new Float32Array(sizeOf([n, a, b]));
  for (let i = 0; i < n; i++)
    for (let j = 0; j < a; j++) for (let k = 0; k < b; k++) result[(i * b + k) * a + j] = x[(i * a + j) * b + k]!;
  return result;
}
