import { expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { float32 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { input, toOnnx } from "../graph/index.ts";
import { conv2d, groupNorm, linear } from "../nn/layers.ts";
import { module, namedParameters } from "../nn/module.ts";
import { pixelAttention } from "./unet-2d-blocks.ts";
import { bindWeights, initialize, matchWeights, type StoredWeight } from "./weights.ts";

function small() {
  const parts = { first: linear(3, 4), norm: groupNorm(2, 4), last: linear(4, 2, { bias: false }) };
  return module(parts, () => undefined);
}

/** A fitting checkpoint. */
function checkpoint(network: Parameters<typeof initialize>[0]): Map<string, StoredWeight> {
  return new Map(initialize(network, seeded(0)));
}

function messageOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as Error).message;
  }
  throw new Error("nothing was thrown");
}

test("a fitting checkpoint binds every parameter", () => {
  const network = small();
  const bind = bindWeights(network, checkpoint(network));
  for (const { tensor, shape } of namedParameters(network).values()) {
    expect(bind(tensor)).toMatchObject({ kind: "data", tensor: { dtype: "float32", shape } });
  }
});

test("missing, unexpected and wrongly shaped weights are all in one error", () => {
  const network = small();
  const weights = checkpoint(network);
  weights.delete("norm.bias");
  weights.delete("last.weight");
  weights.set("other.weight", float32([1], [0]));
  weights.set("first.weight", float32([4, 5], Array(20).fill(0)));
  weights.set("first.bias", { dtype: "int64", shape: [4], data: new BigInt64Array(4) });
  const message = messageOf(() => bindWeights(network, weights, { what: "unet.safetensors" }));
  expect(message).toContain("unet.safetensors does not fit");
  expect(message).toContain("2 missing:\n  norm.bias [4]\n  last.weight [2, 4]");
  expect(message).toContain("1 not expected:\n  other.weight");
  expect(message).toContain("first.weight: [4, 5] instead of [4, 3]");
  expect(message).toContain("first.bias: int64 numbers instead of floats");
});

test("old names of attention layers are understood, also where they are stored as 1×1 convolutions", () => {
  const network = module({ attentions: [pixelAttention(4, 4, 2, {})] }, () => undefined);
  const old = new Map<string, StoredWeight>();
  const names = { to_q: "query", to_k: "key", to_v: "value", "to_out.0": "proj_attn" };
  for (const [name, weight] of checkpoint(network)) {
    const layer = Object.keys(names).find((each) => name.includes(each)) as keyof typeof names | undefined;
    const shape = layer && weight.shape.length === 2 ? [...weight.shape, 1, 1] : weight.shape;
    old.set(layer ? name.replace(layer, names[layer]) : name, { ...weight, shape });
  }
  expect([...old.keys()]).toContain("attentions.0.proj_attn.weight");
  const matched = matchWeights(network, old);
  expect(matched.get("attentions.0.to_out.0.weight")!.storedName).toBe("attentions.0.proj_attn.weight");
  expect(matched.size).toBe(namedParameters(network).size);
});

test("a network may know further names, and names it has no need of", () => {
  const network = {
    parts: { weight: linear(2, 2).parts.weight },
    storedName: (name: string) => (name === "ids" ? null : name === "w" ? "weight" : undefined),
  };
  const w = float32([2, 2], [1, 2, 3, 4]);
  expect(
    matchWeights(
      network,
      new Map<string, StoredWeight>([
        ["w", w],
        ["ids", w],
      ]),
    ).get("weight")!.storedName,
  ).toBe("w");
  // Its own name wins over another for the same.
  const both = new Map<string, StoredWeight>([
    ["weight", w],
    ["w", w],
  ]);
  expect(matchWeights(network, both).get("weight")!.storedName).toBe("weight");
});

test("weights in files become external data, converted inside the graph", () => {
  const layer = linear(2, 3, { bias: false });
  const stored: StoredWeight = { dtype: "float16", shape: [3, 2], file: "a.safetensors", offset: 17, length: 12 };
  const bind = bindWeights(layer, new Map([["weight", stored]]));
  expect(bind(layer.parts.weight.tensor)).toEqual({
    kind: "external",
    name: "weight",
    file: "a.safetensors",
    offset: 17,
    length: 12,
    dtype: "float16",
  });
  const { bytes } = toOnnx({ y: layer(input("x", [1, 2])) }, { bind });
  const text = new TextDecoder("latin1").decode(bytes);
  expect(text).toContain("a.safetensors");
  expect(text).toContain("Cast");
});

test("starting values are torch's: uniform within 1/√fan_in, norms 1 and 0, the same for the same seed", () => {
  const network = module(
    { conv: conv2d(8, 16), norm: groupNorm(2, 16), zero: linear(4, 4, { initial: "zero" }) },
    () => 0,
  );
  const start = initialize(network, seeded(5));
  const bound = 1 / Math.sqrt(8 * 9);
  const weights = start.get("conv.weight")!.data;
  expect(Math.max(...weights.map(Math.abs))).toBeLessThanOrEqual(bound);
  // The variance of a uniform distribution on ±bound is bound²/3.
  const variance = weights.reduce((total, w) => total + w * w, 0) / weights.length;
  expect(variance / (bound ** 2 / 3)).toBeCloseTo(1, 1);
  expect([...start.get("norm.weight")!.data]).toEqual(Array(16).fill(1));
  expect([...start.get("norm.bias")!.data]).toEqual(Array(16).fill(0));
  expect([...start.get("zero.weight")!.data]).toEqual(Array(16).fill(0));
  expect(initialize(network, seeded(5))).toEqual(start);
  expect(initialize(network, seeded(6))).not.toEqual(start);
});
