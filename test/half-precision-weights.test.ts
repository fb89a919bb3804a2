import { mkdtemp, readFile, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { float32, type HostTensor, int64 } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { input, toOnnx } from "../src/graph/index.ts";
import { convertFloat, readSafetensors, readSafetensorsHeader, writeSafetensors } from "../src/io/index.ts";
import { bindWeights, type StoredWeight, unet2d } from "../src/models/index.ts";
import { inferenceTarget, openSession } from "../src/runtime/index.ts";

const model = fileURLToPath(new URL("./fixtures/reference/models/unet2d-class", import.meta.url));

for (const dtype of ["float16", "bfloat16"] as const) {
  test(`${dtype} weights run straight from their file, as if they had been converted before`, async () => {
    const folder = await realpath(await mkdtemp(join(tmpdir(), "allegory-half-")));
    try {
      const full = await readSafetensors(join(model, "diffusion_pytorch_model.safetensors"));
      const half = new Map([...full].map(([name, tensor]) => [name, halved(tensor, dtype)]));
      await writeSafetensors(join(folder, "half.safetensors"), half);
      const { tensors } = await readSafetensorsHeader(join(folder, "half.safetensors"));
      const stored = new Map([...tensors].map(([name, entry]) => [name, { ...entry, file: "half.safetensors" }]));
      const converted = new Map([...half].map(([name, tensor]) => [name, halved(tensor, "float32")]));

      const straight = await run(stored, folder);
      expect(straight).toEqual(await run(converted));
      // They are not the full weights.
      expect(straight).not.toEqual(await run(full));
    } finally {
      await rm(folder, { recursive: true });
    }
  });
}

function halved(tensor: HostTensor, dtype: "float16" | "bfloat16" | "float32"): HostTensor {
  return convertFloat(tensor as Parameters<typeof convertFloat>[0], dtype);
}

async function run(weights: Map<string, StoredWeight>, externalData?: string): Promise<Float32Array> {
  const network = unet2d(JSON.parse(await readFile(join(model, "config.json"), "utf8")));
  const y = network(input("x", [1, 1, 8, 8]), input("t", [1]), input("label", [1], "int64"));
  const graph = toOnnx({ y }, { bind: bindWeights(network, weights), target: inferenceTarget() });
  const session = await openSession(graph.bytes, { threads: 1, externalData });
  try {
    const x = seeded(1).normal([1, 1, 8, 8]);
    return (await session.run({ x, t: float32([1], [321]), label: int64([1], [3]) })).y!.data as Float32Array;
  } finally {
    await session.close();
  }
}
