import { basename, dirname } from "node:path";
import { float32, type HostTensor } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { input, type PackedMatrix, toOnnx } from "../src/graph/index.ts";
import { readModelFolder } from "../src/io/index.ts";
import {
  type Bind,
  bindPacked,
  bindWeights,
  linearWeights,
  packedBytes,
  quantizeMatrix,
  type StoredWeight,
} from "../src/models/index.ts";
import { inferenceTarget, openSession } from "../src/runtime/index.ts";
import { median } from "./measure.ts";
import { type Sd15Options, weightsFolder } from "./sd15.ts";
import { sd15Unet } from "./sd15-weights.ts";

/**
 * The linear layers of Stable Diffusion 1.5's U-Net in 8 and 4 bits against float32: relative error of the result, bytes of
 * these layers, seconds a step. Random weights round worse than trained ones, which have fewer extremes.
 */
export async function benchQuantization(options: Sd15Options): Promise<object> {
  const { batch, tiny = false, threads, device, repeats } = options;
  const { weights } = await readModelFolder(weightsFolder({ part: "unet", tiny }, { ...options, dtype: "fp32" }));
  const network = sd15Unet(tiny);
  const side = tiny ? 8 : 64;
  const random = seeded(0);
  const feeds = {
    sample: random.normal([batch, 4, side, side]),
    t: float32([batch], Array(batch).fill(321)),
    text: random.normal([batch, 77, tiny ? 32 : 768]),
  };
  const given = (name: keyof typeof feeds) => input(name, feeds[name].shape);
  const y = network(given("sample"), given("t"), given("text"));
  const stored = new Map<string, StoredWeight>(
    [...weights.tensors].map(([name, { path, ...entry }]) => [name, { ...entry, file: basename(path) }]),
  );
  const plain = bindWeights(network, stored);
  const chosen = linearWeights(network, [y]);

  const measure = async (bind: Bind, bytes: number) => {
    const loading = performance.now();
    const model = toOnnx({ y }, { bind, target: inferenceTarget(device) });
    const externalData = dirname(weights.files[0]!);
    const session = await openSession(model.bytes, { name: "quantization", threads, device, externalData });
    const seconds = (performance.now() - loading) / 1000;
    const times: number[] = [];
    let result: HostTensor | undefined;
    for (let i = 0; i <= repeats; i++) {
      const started = performance.now();
      result = (await session.run(feeds)).y!;
      if (i > 0) times.push((performance.now() - started) / 1000);
    }
    await session.close();
    return { data: result!.data as Float32Array, bytes, seconds, step: median(times) };
  };

  const full = await measure(
    plain,
    chosen.reduce((sum, name) => sum + weights.tensors.get(name)!.length, 0),
  );
  const rows: object[] = [{ weights: "float32", ...columns(full, 0) }];
  for (const [bits, blockSize] of [
    [8, 32],
    [4, 32],
  ] as const) {
    const packed = new Map<string, PackedMatrix>();
    for (const name of chosen) {
      const matrix = (await weights.read(name)) as HostTensor<"float32">;
      packed.set(name, quantizeMatrix(matrix, { bits, blockSize }));
    }
    const bytes = [...packed.values()].reduce((sum, matrix) => sum + packedBytes(matrix), 0);
    const found = await measure(bindPacked(network, plain, packed), bytes);
    rows.push({ weights: `${bits} bits, blocks of ${blockSize}`, ...columns(found, relative(found.data, full.data)) });
  }
  return { batch, threads, linear_layers: chosen.length, rows };
}

function columns({ bytes, seconds, step }: { bytes: number; seconds: number; step: number }, error: number) {
  return {
    relative_error: Number(error.toPrecision(3)),
    linear_mb: Math.round(bytes / 1e5) / 10,
    load_s: Math.round(seconds * 100) / 100,
    s_per_step: Math.round(step * 1000) / 1000,
  };
}

/** Root of the mean square of the difference over that of the reference. */
function relative(found: Float32Array, expected: Float32Array): number {
  const square = (value: (i: number) => number) => found.reduce((sum, _, i) => sum + value(i) ** 2, 0);
  return Math.sqrt(square((i) => found[i]! - expected[i]!) / square((i) => expected[i]!));
}
