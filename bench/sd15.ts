import { spawnSync } from "node:child_process";
import { tmpdir } from "node:os";
import { basename, dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { float32, type HostTensor } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { input, type Tensor } from "../src/graph/index.ts";
import { readModelFolder } from "../src/io/index.ts";
import { bindWeights, type StoredWeight } from "../src/models/index.ts";
import { forInference } from "../src/nn/index.ts";
import { pipeline } from "../src/pipelines/index.ts";
import { openNetwork } from "../src/pipelines/open-network.ts";
import { formatProfile } from "../src/runtime/index.ts";
import { type BenchOptions, median } from "./measure.ts";
import { type Architecture, isWritten, sd15Unet, sd15Vae } from "./sd15-weights.ts";

/** What the benchmarks of Stable Diffusion 1.5 can be told beside the rest. */
export interface Sd15Options extends BenchOptions {
  /** Where the weights lie, or are written; default a folder for temporary files, kept for the next time. */
  readonly folder?: string;
  readonly dtype: "fp32" | "fp16";
  /** A network of the same blocks in a few channels, to try the benchmark itself. */
  readonly tiny?: boolean;
  /** As small networks are loaded: ONNX Runtime converts the weights, packs matrices and plans memory. */
  readonly asSmall?: boolean;
  /** Steps measured after the first. */
  readonly repeats: number;
}

/** Seconds a step of the U-Net: `batch` latents of 64×64 (2: both halves of guidance), 77 tokens of text. */
export async function benchSd15Unet(options: Sd15Options): Promise<object> {
  const { batch, tiny = false } = options;
  const network = sd15Unet(tiny);
  const side = tiny ? 8 : 64;
  const random = seeded(0);
  const feeds = {
    sample: random.normal([batch, 4, side, side]),
    t: float32([batch], Array(batch).fill(321)),
    text: random.normal([batch, 77, tiny ? 32 : 768]),
  };
  return measure(
    { part: "unet", tiny },
    network,
    feeds,
    (given) => network(given("sample"), given("t"), given("text")),
    options,
  );
}

/** Seconds a decoding of one latent of 64×64 to a picture of 512×512. */
export async function benchSd15Vae(options: Sd15Options): Promise<object> {
  const { tiny = false } = options;
  const network = sd15Vae(tiny);
  const side = tiny ? 8 : 64;
  const feeds = { latent: seeded(0).normal([1, 4, side, side]) };
  return measure({ part: "vae", tiny }, network, feeds, (given) => network.decode(given("latent")), {
    ...options,
    batch: 1,
  });
}

async function measure(
  architecture: Architecture,
  network: Parameters<typeof bindWeights>[0],
  feeds: Readonly<Record<string, HostTensor>>,
  build: (given: (name: string) => Tensor) => Tensor,
  options: Sd15Options,
): Promise<object> {
  const { threads, device, profile, asSmall = false } = options;
  const folder = weightsFolder(architecture, options);
  const clock = stopwatch();
  const { weights } = await readModelFolder(folder);
  const stored = new Map<string, StoredWeight>(
    [...weights.tensors].map(([name, { path, ...entry }]) => [name, { ...entry, file: basename(path) }]),
  );
  const y = forInference(() => build((name) => input(name, feeds[name]!.shape, feeds[name]!.dtype)));
  const graphSeconds = clock();
  const session = await openNetwork(
    { y },
    {
      name: `sd15-${architecture.part}`,
      bind: bindWeights(network, stored),
      large: !asSmall,
      ...{ threads, device, profile },
      steady: ["text"],
      externalData: dirname(weights.files[0]!),
    },
  );
  const loadSeconds = clock();
  const loadedMb = residentMb();
  const run = async () => (await session.run(feeds)).y!;
  const first = await run();
  const firstPeakMb = peakMb();
  const firstSeconds = clock();
  const coldSeconds = performance.now() / 1000;
  const times: number[] = [];
  for (let i = 0; i < options.repeats; i++) {
    await run();
    times.push(clock());
  }
  if (profile) console.error(formatProfile(await session.profile(), { top: 40 }));
  await session.close();
  if (!(first.data as Float32Array).every(Number.isFinite)) throw new Error("the result is not finite");
  const round = (value: number) => Math.round(value * 100) / 100;
  return {
    batch: options.batch,
    shape: first.shape,
    dtype: options.dtype,
    threads: session.threads,
    device: session.device.name,
    ...(asSmall ? { as_small: true } : {}),
    parameters: [...weights.tensors.values()].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
    graph_s: round(graphSeconds),
    load_s: round(loadSeconds),
    first_step_s: round(firstSeconds),
    /** From the start of the process. */
    cold_start_to_first_step_s: round(coldSeconds),
    s_per_step: round(median(times)),
    best_s_per_step: round(Math.min(...times)),
    repeats: times.length,
    after_load_mb: loadedMb,
    first_step_peak_mb: firstPeakMb,
    peak_mb: peakMb(),
  };
}

/** Seconds that two pictures of 512×512 take from the start of the process, each of four steps with guidance. */
export async function benchSd15Generate(options: Sd15Options): Promise<object> {
  const { tiny = false, threads, device } = options;
  const folder = weightsFolder({ part: "pipeline", tiny }, options);
  const draw = await pipeline("text-to-image", folder, { threads, device });
  const pictures: object[] = [];
  const clock = stopwatch();
  for (const seed of [1, 2]) {
    const side = tiny ? 64 : 512;
    const [picture] = await draw.generate({ prompt: "a red lighthouse", steps: 4, seed, width: side, height: side });
    if (!picture!.float.data.every(Number.isFinite)) throw new Error("the picture is not finite");
    const seconds = seed === 1 ? performance.now() / 1000 : clock();
    if (seed === 1) clock();
    pictures.push({ seconds: Math.round(seconds * 100) / 100, peak_mb: peakMb() });
  }
  await draw.close();
  return { dtype: options.dtype, threads, steps: 4, pictures };
}

/** The folder of the weights, written by a process of its own where they are not there: it would count for memory here. */
export function weightsFolder({ part, tiny }: Architecture, { folder, dtype }: Sd15Options): string {
  const root = folder ?? join(tmpdir(), "allegory-bench");
  const path = join(root, `sd15-${part}-${dtype}${tiny ? "-tiny" : ""}`);
  if (isWritten(path)) return path;
  console.error(`Writing random weights to ${path} …`);
  // Beside this file, as it is or compiled.
  const here = fileURLToPath(import.meta.url);
  const script = join(dirname(here), `sd15-weights${extname(here)}`);
  const type = dtype === "fp16" ? "float16" : "float32";
  const { status } = spawnSync(
    process.execPath,
    [...process.execArgv, script, part, path, type, ...(tiny ? ["tiny"] : [])],
    { stdio: "inherit" },
  );
  if (status !== 0) throw new Error(`the weights could not be written (exit code ${status})`);
  console.error("Written. Run this again for a cold start without it.");
  return path;
}

/** Seconds since it was last asked. */
export function stopwatch(): () => number {
  let last = performance.now();
  return () => {
    const now = performance.now();
    const seconds = (now - last) / 1000;
    last = now;
    return seconds;
  };
}

const peakMb = () => Math.round(process.resourceUsage().maxRSS / 1024);
/** Memory of this process now, in MiB. */
export const residentMb = () => Math.round(process.memoryUsage.rss() / 2 ** 20);
