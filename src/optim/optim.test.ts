import { describe, expect, test } from "vitest";
import { float32, type HostTensor } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { input, type Tensor, toOnnx } from "../graph/index.ts";
import { openSession } from "../runtime/index.ts";
import { adamw, adamwScalars } from "./adamw.ts";
import { clipByNorm } from "./clipping.ts";
import { ema, emaDecay, towards } from "./ema.ts";
import { flatLayout, flatten, packed, unflatten, unpacked } from "./flat.ts";

const N = 40;

/** Runs a graph of float32 inputs once. */
async function run(
  outputs: Record<string, Tensor>,
  feeds: Record<string, HostTensor<"float32">>,
): Promise<Record<string, Float32Array>> {
  const session = await openSession(toOnnx(outputs).bytes, { name: "optim", threads: 1 });
  try {
    const results = await session.run(feeds);
    return Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, data as Float32Array]));
  } finally {
    await session.close();
  }
}

function vector(seed: number, scale = 1): Float32Array {
  return seeded(seed)
    .normal([N])
    .data.map((x) => x * scale);
}

describe("AdamW", () => {
  test.each([
    [0.1, 0.9, 0.999],
    [0, 0.5, 0.9],
  ])(
    "with weight decay %d, betas %d and %d takes the steps of the paper's algorithm",
    async (weightDecay, beta1, beta2) => {
      const options = { beta1, beta2, epsilon: 1e-6, weightDecay };
      const names = ["parameters", "mean", "square"] as const;
      const state = Object.fromEntries(names.map((name) => [name, input(name, [N])])) as Record<
        (typeof names)[number],
        Tensor
      >;
      const scalars = { rate: input("rate", []), correction: input("correction", []), correctedRate: input("cr", []) };
      const next = adamw(state, input("gradient", [N]), scalars, options);
      // Algorithm 2 of Loshchilov & Hutter 2019 (with lr for α and no schedule multiplier), in double precision.
      let theta = Float64Array.from(vector(1));
      let m = new Float64Array(N);
      let v = new Float64Array(N);
      let found: Record<string, Float32Array> = {
        parameters: vector(1),
        mean: new Float32Array(N),
        square: new Float32Array(N),
      };
      for (let n = 1; n <= 4; n++) {
        const g = vector(10 + n, n === 2 ? 1e-4 : 1);
        const lr = 0.05 / n;
        m = m.map((x, i) => beta1 * x + (1 - beta1) * g[i]!);
        v = v.map((x, i) => beta2 * x + (1 - beta2) * g[i]! ** 2);
        theta = theta.map((x, i) => {
          const mHat = m[i]! / (1 - beta1 ** n);
          const vHat = v[i]! / (1 - beta2 ** n);
          return x - lr * weightDecay * x - (lr * mHat) / (Math.sqrt(vHat) + 1e-6);
        });
        const { rate, correction, correctedRate } = adamwScalars(n, lr, options);
        const feeds = { ...found, gradient: g, rate: [rate], correction: [correction], cr: [correctedRate] };
        const result = await run(
          { nextParameters: next.parameters, nextMean: next.mean, nextSquare: next.square },
          Object.fromEntries(
            Object.entries(feeds)
              .filter(([name]) => weightDecay !== 0 || name !== "rate")
              .map(([name, x]) => [name, float32(x.length === 1 ? [] : [N], x)]),
          ),
        );
        found = { parameters: result.nextParameters!, mean: result.nextMean!, square: result.nextSquare! };
        found.parameters!.forEach((x, i) => {
          expect(Math.abs(x - theta[i]!)).toBeLessThan(2e-6);
        });
      }
    },
  );
});

describe("clipping", () => {
  test.each([
    [3, 1, 1],
    [3, 100, 3],
  ])("of a gradient of norm %d to %d gives norm %d in the same direction", async (norm, limit, expected) => {
    const direction = vector(5);
    const length = Math.hypot(...direction);
    const g = direction.map((x) => (x / length) * norm);
    const found = await run(clipByNorm(input("g", [N]), limit), { g: float32([N], g) });
    expect(found.norm![0]).toBeCloseTo(norm, 5);
    expect(Math.hypot(...found.clipped!)).toBeCloseTo(expected, 5);
    found.clipped!.forEach((x, i) => {
      expect(x / expected).toBeCloseTo(g[i]! / norm, 5);
    });
  });

  test("in parts clips each by its own norm, and gives the norm of all", async () => {
    const g = vector(5).map((x, i) => (i < 30 ? 0.01 * x : 10 * x));
    const found = await run(clipByNorm(input("g", [N]), 1, [30, 10]), { g: float32([N], g) });
    expect(found.norm![0]).toBeCloseTo(Math.hypot(...g), 4);
    // The first part is below the limit and stays, however large the other is.
    found.clipped!.subarray(0, 30).forEach((x, i) => {
      expect(x).toBeCloseTo(g[i]!, 6);
    });
    expect(Math.hypot(...found.clipped!.subarray(30))).toBeCloseTo(1, 4);
  });

  test("of no gradient at all gives none, not NaN", async () => {
    const found = await run(clipByNorm(input("g", [N]), 1), { g: float32([N], new Float32Array(N)) });
    expect([...found.clipped!, ...found.norm!]).toEqual(new Array(N + 1).fill(0));
  });
});

describe("moving averages", () => {
  test("go the share 1 − decay of the way", async () => {
    const [a, x] = [vector(1), vector(2)];
    const average = input("a", [N]);
    const found = await run(
      {
        ema: ema(average, input("x", [N]), input("d", [])),
        towards: towards(average, input("x", [N]), input("s", [])),
      },
      { a: float32([N], a), x: float32([N], x), d: float32([], [0.9]), s: float32([], [0.1]) },
    );
    a.forEach((value, i) => {
      const expected = 0.9 * value + 0.1 * x[i]!;
      expect(found.ema![i]).toBeCloseTo(expected, 6);
      expect(found.towards![i]).toBeCloseTo(expected, 6);
    });
  });

  test("decay as diffusers' EMAModel: 0 first, then (1 + n)/(10 + n) up to the limit", () => {
    // diffusers' EMAModel(decay=0.99) on five steps, from the training reference.
    const theirs = [0, 0.18181818181818182, 0.25, 0.3076923076923077, 0.35714285714285715];
    expect([1, 2, 3, 4, 5].map((n) => emaDecay(n, 0.99))).toEqual(theirs);
    expect(emaDecay(5000, 0.99)).toBe(0.99);
    expect(emaDecay(1, 0.99, { warmup: false })).toBe(0.99);
  });
});

describe("the flat layout", () => {
  const layout = flatLayout([
    ["a", { shape: [2, 3] }],
    ["b", { shape: [] }],
    ["c", { shape: [4] }],
  ]);
  const values = new Map([
    ["a", float32([2, 3], [1, 2, 3, 4, 5, 6])],
    ["b", float32([], [7])],
    ["c", float32([4], [8, 9, 10, 11])],
  ]);

  test("keeps named tensors one after the other, and gives them back", () => {
    const vector = packed(values, layout);
    expect([...vector]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    expect(unpacked(vector, layout)).toEqual(values);
  });

  test("does the same in a graph", async () => {
    const pieces = unflatten(input("v", [11]), layout);
    expect(pieces.map(({ shape }) => shape)).toEqual([[2, 3], [], [4]]);
    const found = await run({ whole: flatten(pieces), c: pieces[2]! }, { v: float32([11], packed(values, layout)) });
    expect([...found.whole!]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    expect([...found.c!]).toEqual([8, 9, 10, 11]);
  });

  test("refuses numbers that are missing or of another length", () => {
    expect(() => packed(new Map([...values].slice(1)), layout)).toThrow(/no float32 values for a/);
    expect(() => packed(new Map([...values, ["a", float32([2], [1, 2])]]), layout)).toThrow(/no float32 values for a/);
  });
});
