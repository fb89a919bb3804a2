import { basename, dirname } from "node:path";
import { float32, type HostTensor, sizeOf } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { input } from "../src/graph/index.ts";
import { readModelFolder } from "../src/io/index.ts";
import {
  type Bind,
  bindRounded,
  bindWeights,
  bytesPerRounded,
  linearWeights,
  type StoredWeight,
} from "../src/models/index.ts";
import { forInference } from "../src/nn/index.ts";
import { openNetwork } from "../src/pipelines/open-network.ts";
import { median } from "./measure.ts";
import { residentMb, type Sd15Options, stopwatch, weightsFolder } from "./sd15.ts";
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
  const built = (rounded: boolean) =>
    forInference(() => network(given("sample"), given("t"), given("text")), { rounded });
  const y = built(false);
  const stored = new Map<string, StoredWeight>(
    [...weights.tensors].map(([name, { path, ...entry }]) => [name, { ...entry, file: basename(path) }]),
  );
  const plain = bindWeights(network, stored);
  const chosen = linearWeights(network, [y]);

  const measure = async (bind: Bind, bytes: number, output = y) => {
    const clock = stopwatch();
    const externalData = dirname(weights.files[0]!);
    const session = await openNetwork(
      { y: output },
      { name: "quantization", bind, large: true, steady: ["text"], threads, device, externalData },
    );
    const seconds = clock();
    const times: number[] = [];
    let result: HostTensor | undefined;
    for (let i = 0; i <= repeats; i++) {
      result = (await session.run(feeds)).y!;
      times.push(clock());
    }
    const mb = residentMb();
    await session.close();
    return { data: result!.data as Float32Array, bytes, seconds, step: median(times.slice(1)), mb };
  };

  const numbers = (name: string) => sizeOf(weights.tensors.get(name)!.shape);
  const total = chosen.reduce((sum, name) => sum + numbers(name), 0);
  const full = await measure(plain, 4 * total);
  const rows: object[] = [{ weights: "float32", ...columns(full, 0) }];
  for (const bits of [8, 4] as const) {
    const rounded = bindRounded(network, plain, chosen, { bits });
    const found = await measure(rounded, total * bytesPerRounded({ bits }), built(true));
    rows.push({ weights: `${bits} bits`, ...columns(found, relative(found.data, full.data)) });
  }
  return { batch, threads, linear_layers: chosen.length, rows };
}

interface Measured {
  readonly bytes: number;
  readonly seconds: number;
  readonly step: number;
  readonly mb: number;
}

function columns({ bytes, seconds, step, mb }: Measured, error: number) {
  return {
    relative_error: Number(error.toPrecision(3)),
    linear_mb: Math.round(bytes / 1e5) / 10,
    load_s: Math.round(seconds * 100) / 100,
    s_per_step: Math.round(step * 1000) / 1000,
    /** Of the process after the last step. */
    resident_mb: mb,
  };
}

/** Root of the mean square of the difference over that of the reference. */
function relative(found: Float32Array, expected: Float32Array): number {
  const square = (value: (i: number) => number) => found.reduce((sum, _, i) => sum + value(i) ** 2, 0);
  return Math.sqrt(square((i) => found[i]! - expected[i]!) / square((i) => expected[i]!));
}
