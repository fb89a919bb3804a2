import { mkdtemp, readFile, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { float32, type HostTensor, int64 } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { add, cast, constant, input, type Target, toOnnx } from "../src/graph/index.ts";
import {
  convertFloat,
  type Float8DType,
  type FloatDType,
  readSafetensors,
  readSafetensorsHeader,
  writeSafetensors,
} from "../src/io/index.ts";
import { bindWeights, type StoredWeight, unet2d } from "../src/models/index.ts";
import { inferenceTarget, largeNetworkTarget, openSession } from "../src/runtime/index.ts";

const model = fileURLToPath(new URL("./fixtures/reference/models/unet2d-class", import.meta.url));

for (const dtype of ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"] as const) {
  test(`${dtype} weights run straight from their file, as if they had been converted before`, async () => {
    const folder = await realpath(await mkdtemp(join(tmpdir(), "allegory-half-")));
    try {
      const full = await readSafetensors(join(model, "diffusion_pytorch_model.safetensors"));
      const half = new Map([...full].map(([name, tensor]) => [name, rounded(tensor, dtype)]));
      await writeSafetensors(join(folder, "half.safetensors"), half);
      const { tensors } = await readSafetensorsHeader(join(folder, "half.safetensors"));
      const stored = new Map([...tensors].map(([name, entry]) => [name, { ...entry, file: "half.safetensors" }]));
      const converted = new Map([...half].map(([name, tensor]) => [name, convertFloat(tensor, "float32")]));

      const straight = await run(stored, folder);
      expect(straight).toEqual(await run(converted));
      // Nor are they other numbers where weights are converted ahead, as those of large networks are.
      const ahead = await run(stored, folder, await largeNetworkTarget());
      for (const [i, value] of ahead.entries()) expect(value).toBeCloseTo(straight[i]!, 4);
      // They are not the full weights.
      expect(straight).not.toEqual(await run(full));
    } finally {
      await rm(folder, { recursive: true });
    }
  });
}

function rounded(tensor: HostTensor, dtype: FloatDType | Float8DType): HostTensor {
  if (dtype !== "float8_e4m3fn" && dtype !== "float8_e5m2") return convertFloat(tensor, dtype);
  const values = [...valuesOf(dtype)].filter(([value]) => Number.isFinite(value)).sort(([a], [b]) => a - b);
  const nearest = (wanted: number) => {
    const above = values.findIndex(([value]) => value >= wanted);
    const [low, high] = [values.at(Math.max(above - 1, 0))!, values.at(above)!];
    return wanted - low[0] < high[0] - wanted ? low[1] : high[1];
  };
  const { data } = convertFloat(tensor, "float32");
  return { dtype, shape: tensor.shape, data: Uint8Array.from(data, nearest) };
}

/** What each of the 256 patterns stands for. */
function valuesOf(dtype: Float8DType): Map<number, number> {
  const patterns = Uint8Array.from({ length: 256 }, (_, i) => i);
  const { data } = convertFloat({ dtype, shape: [256], data: patterns }, "float32");
  return new Map([...data].map((value, bits) => [value, bits]));
}

test("the numbers of eight-bit floats are those of the paper's table, and ONNX Runtime's", async () => {
  for (const [dtype, known] of [
    ["float8_e4m3fn", { 1: 2 ** -9, 7: 7 * 2 ** -9, 8: 2 ** -6, 56: 1, 60: 1.5, 126: 448, 184: -1 }],
    ["float8_e5m2", { 1: 2 ** -16, 3: 3 * 2 ** -16, 4: 2 ** -14, 60: 1, 123: 57344, 124: Infinity, 188: -1 }],
  ] as const) {
    const data = Uint8Array.from({ length: 256 }, (_, i) => i);
    const values = convertFloat({ dtype, shape: [256], data }, "float32").data;
    for (const [bits, value] of Object.entries(known)) expect(values[Number(bits)], bits).toBe(value);
    expect(values[127]).toBeNaN();
    const y = add(cast(constant({ dtype, shape: [256], data }), "float32"), input("x", [1]));
    const session = await openSession(toOnnx({ y }).bytes, { threads: 1 });
    expect([...((await session.run({ x: float32([1], [0]) })).y!.data as Float32Array)]).toEqual(
      [...values].map((value) => value + 0),
    );
    await session.close();
  }
});

async function run(
  weights: Map<string, StoredWeight>,
  externalData?: string,
  target: Target = inferenceTarget(),
): Promise<Float32Array> {
  const network = unet2d(JSON.parse(await readFile(join(model, "config.json"), "utf8")));
  const y = network(input("x", [1, 1, 8, 8]), input("t", [1]), input("label", [1], "int64"));
  const { bytes, ahead } = toOnnx({ y }, { bind: bindWeights(network, weights), target });
  const session = await openSession(bytes, { threads: 1, externalData, ahead });
  try {
    const x = seeded(1).normal([1, 1, 8, 8]);
    return (await session.run({ x, t: float32([1], [321]), label: int64([1], [3]) })).y!.data as Float32Array;
  } finally {
    await session.close();
  }
}
