import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { float32, type HostTensor } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { input } from "../graph/index.ts";
import { type FloatDType, readModelFolder, writeModelFolder } from "../io/index.ts";
import { bindWeights, initialize, isLarge, unet2dCondition } from "../models/index.ts";
import { forInference } from "../nn/index.ts";
import { openNetwork } from "./open-network.ts";

const network = unet2dCondition({
  sample_size: 64,
  block_out_channels: [32, 64],
  layers_per_block: 1,
  down_block_types: ["CrossAttnDownBlock2D", "DownBlock2D"],
  up_block_types: ["UpBlock2D", "CrossAttnUpBlock2D"],
  cross_attention_dim: 16,
  attention_head_dim: 4,
});
const random = seeded(3);
const text = random.normal([2, 5, 16]);
const feeds = { sample: random.normal([2, 4, 64, 64]), t: float32([2], [321, 321]), text };

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "allegory-open-network-"));
});
afterAll(() => rm(root, { recursive: true }));

/** A session of the network, its weights stored as `dtype`. */
async function open(dtype: FloatDType, large: boolean, built: "whole" | "inference" = "inference") {
  const folder = join(root, dtype);
  const { _class_name: className, ...config } = network.config;
  // Layers that start at zero would hide what others compute.
  const noise = seeded(6);
  const tensors = new Map(
    [...initialize(network, seeded(5))].map(([name, { shape, data }]) => {
      const added = noise.normal(shape, { std: 0.05 }).data;
      return [
        name,
        float32(
          shape,
          data.map((value, i) => value + added[i]!),
        ),
      ] as const;
    }),
  );
  await writeModelFolder(folder, { className: String(className), config, tensors }, { dtype });
  const { weights } = await readModelFolder(folder);
  const stored = new Map(
    [...weights.tensors].map(([name, { path, ...entry }]) => [name, { ...entry, file: basename(path) }]),
  );
  const build = () => network(input("sample", feeds.sample.shape), input("t", [2]), input("text", text.shape));
  const y = built === "whole" ? build() : forInference(build);
  return openNetwork(
    { y },
    {
      bind: bindWeights(network, stored),
      large,
      steady: large ? ["text"] : [],
      threads: 1,
      externalData: dirname(weights.files[0]!),
    },
  );
}

function difference(a: HostTensor, b: HostTensor): number {
  return Math.max(...(a.data as Float32Array).map((value, i) => Math.abs(value - (b.data as Float32Array)[i]!)));
}

test.each(["float32", "float16", "bfloat16"] as const)(
  "a network loaded as a large one computes what it computes otherwise, from %s weights",
  async (dtype) => {
    const plain = await open(dtype, false, "whole");
    const expected = (await plain.run(feeds)).y!;
    await plain.close();
    const large = await open(dtype, true);
    expect(large.inputs.map(({ name }) => name).sort()).toEqual(["sample", "t", "text"]);
    expect(difference((await large.run(feeds)).y!, expected)).toBeLessThan(2e-5);
    await large.close();
  },
);

test("what depends on a steady input follows it when it changes, and only then changes the result", async () => {
  const plain = await open("float32", false);
  const steady = await open("float32", true);
  const first = (await steady.run(feeds)).y!;
  expect(difference((await steady.run(feeds)).y!, first)).toBe(0);
  const other = { ...feeds, text: seeded(9).normal(text.shape) };
  const changed = (await steady.run(other)).y!;
  expect(difference(changed, first)).toBeGreaterThan(1e-4);
  expect(difference(changed, (await plain.run(other)).y!)).toBeLessThan(2e-5);
  // A feed in shared memory is copied: it may be written to between runs.
  const shared = new Float32Array(new SharedArrayBuffer(text.data.byteLength));
  shared.set(text.data);
  const given = { ...feeds, text: float32(text.shape, shared) };
  expect(difference((await steady.run(given)).y!, first)).toBe(0);
  shared.set(other.text.data);
  expect(difference((await steady.run(given)).y!, changed)).toBe(0);
  await plain.close();
  await steady.close();
});

test("Stable Diffusion's U-Net counts as large, one of a few channels does not", () => {
  expect(isLarge(network)).toBe(false);
  expect(isLarge(unet2dCondition({ cross_attention_dim: 768 }))).toBe(true);
});
