import { mkdtemp, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { type HostTensor, hostTensor, sizeOf } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { toOnnx } from "../src/graph/index.ts";
import { convertFloat, type FloatDType, readModelFolder, writeModelFolder } from "../src/io/index.ts";
import { bindWeights, networkName, networks, type StoredWeight, type Weighted } from "../src/models/index.ts";
import { namedParameters } from "../src/nn/module.ts";
import { inferenceTarget, openSession } from "../src/runtime/index.ts";
import { randomWeights } from "./original-files.ts";
import { type SmallNetwork, smallNetworks } from "./small-networks.ts";

// What is written opens again as the same network with the same outputs, for every class.

const root = await realpath(await mkdtemp(join(tmpdir(), "allegory-writing-")));
afterAll(() => rm(root, { recursive: true, force: true }));

async function run(
  { inputs, output }: SmallNetwork,
  network: Weighted,
  weights: ReadonlyMap<string, StoredWeight>,
  externalData?: string,
): Promise<Float32Array> {
  const model = toOnnx({ output }, { bind: bindWeights(network, weights), target: inferenceTarget() });
  const random = seeded(7);
  const feeds = Object.fromEntries(
    Object.entries(inputs).map(([name, { shape, dtype }]): [string, HostTensor] =>
      dtype === "int64"
        ? [
            name,
            hostTensor(
              "int64",
              shape,
              BigInt64Array.from({ length: sizeOf(shape) }, () => BigInt(random.integer(0, 7))),
            ),
          ]
        : [name, random.uniform(shape)],
    ),
  );
  const session = await openSession(model.bytes, { threads: 1, externalData });
  try {
    const fed = Object.fromEntries(Object.keys(model.inputs).map((name) => [name, feeds[name]!]));
    return (await session.run(fed)).output!.data as Float32Array;
  } finally {
    await session.close();
  }
}

const DTYPES = ["float32", "float16", "bfloat16"] as const;

describe.each([...Object.keys(smallNetworks).entries()])("%i: %s", (i, name) => {
  // One type for each class: all for all take a minute and run the same code.
  test.each([DTYPES[i % DTYPES.length]!])("is written as %s and read again", async (dtype: FloatDType) => {
    const small = smallNetworks[name]!();
    const network = small.network as Weighted & { readonly config: Readonly<Record<string, unknown>> };
    const className = networkName(network.config);
    const tensors = randomWeights(network, 3);
    const folder = join(root, `${name.replaceAll(/\W+/g, "-")}-${dtype}`);
    const library = /^(CLIP|T5)/.test(className) ? "transformers" : "diffusers";
    // Small enough for several files.
    const maxShardBytes = [...tensors.values()].reduce((sum, { data }) => sum + data.byteLength, 0) / 3;
    const { _class_name: _, architectures: __, ...config } = network.config;
    await writeModelFolder(folder, { className, config, tensors }, { dtype, library, maxShardBytes });

    const read = await readModelFolder(folder);
    expect(networkName(read.config)).toBe(className);
    const again = networks[className](read.config as never) as unknown as typeof network;
    const { _diffusers_version: ___, ...saved } = read.config;
    expect(again.config).toEqual({ ...network.config, ...saved });
    expect(read.weights.files.length).toBeGreaterThan(1);
    const stored = new Map(
      [...read.weights.tensors].map(([weight, { path, ...entry }]) => [weight, { ...entry, file: basename(path) }]),
    );
    expect([...stored.values()].every((weight) => weight.dtype === dtype)).toBe(true);
    expect([...namedParameters(again).keys()]).toEqual([...namedParameters(network).keys()]);
    const rounded = new Map(
      [...tensors].map(([weight, tensor]) => [weight, convertFloat(convertFloat(tensor, dtype), "float32")]),
    );
    const found = await run(small, network, stored, folder);
    expect(found.every((value) => Number.isFinite(value))).toBe(true);
    expect(found).toEqual(await run(small, network, rounded));
  });
});
