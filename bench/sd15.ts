import { spawnSync } from "node:child_process";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { float32, type HostTensor } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { input, type Tensor, toOnnx } from "../src/graph/index.ts";
import { readModelFolder } from "../src/io/index.ts";
import { bindWeights, type StoredWeight } from "../src/models/index.ts";
import { withScoreLimit } from "../src/nn/index.ts";
import { formatProfile, inferenceTarget, openSession } from "../src/runtime/index.ts";
import { type BenchOptions, median } from "./measure.ts";
import { type Architecture, isWritten, sd15Unet, sd15Vae } from "./sd15-weights.ts";

/** What the benchmarks of Stable Diffusion 1.5 can be told beside the rest. */
export interface Sd15Options extends BenchOptions {
  /** Where the weights lie, or are written; default a folder for temporary files, kept for the next time. */
  readonly folder?: string;
  readonly dtype: "fp32" | "fp16";
  /** A network of the same blocks in a few channels, to try the benchmark itself. */
  readonly tiny?: boolean;
  /** The most that one attention's scores may take, in MiB. */
  readonly scoreLimit?: number;
  readonly arena: boolean;
  readonly prepacking: boolean;
  readonly memoryPattern: boolean;
  /** Further configuration entries of ONNX Runtime, `key=value`. */
  readonly config: readonly string[];
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
  const { threads, device, profile, arena, memoryPattern, scoreLimit } = options;
  const folder = weightsFolder(architecture, options);
  const clock = stopwatch();
  const { weights } = await readModelFolder(folder);
  const stored = new Map<string, StoredWeight>(
    [...weights.tensors].map(([name, { path, ...entry }]) => [name, { ...entry, file: basename(path) }]),
  );
  const limited = <T>(make: () => T) =>
    scoreLimit === undefined ? make() : withScoreLimit(scoreLimit * 2 ** 20, make);
  const y = limited(() => build((name) => input(name, feeds[name]!.shape, feeds[name]!.dtype)));
  const model = toOnnx({ y }, { bind: bindWeights(network, stored), target: inferenceTarget(device) });
  const graphSeconds = clock();
  const entries = options.config.map((entry) => entry.split(/=(.*)/s).slice(0, 2) as [string, string]);
  const session = await openSession(model.bytes, {
    name: `sd15-${architecture.part}`,
    threads,
    device,
    profile,
    arena,
    memoryPattern,
    externalData: dirname(weights.files[0]!),
    configEntries: {
      ...(options.prepacking ? {} : { "session.disable_prepacking": "1" }),
      ...Object.fromEntries(entries),
    },
  });
  const loadSeconds = clock();
  const loadedMb = residentMb();
  const run = async () => (await session.run(feeds)).y!;
  const first = await run();
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
    ...(scoreLimit === undefined ? {} : { score_limit_mb: scoreLimit }),
    arena,
    prepacking: options.prepacking,
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
    peak_mb: Math.round(process.resourceUsage().maxRSS / 1024),
  };
}

/** The folder of the weights, written by a process of its own where they are not there: it would count for memory here. */
export function weightsFolder({ part, tiny }: Architecture, { folder, dtype }: Sd15Options): string {
  const root = folder ?? join(tmpdir(), "allegory-bench");
  const path = join(root, `sd15-${part}-${dtype}${tiny ? "-tiny" : ""}`);
  if (isWritten(path)) return path;
  console.error(`Writing random weights to ${path} …`);
  const script = fileURLToPath(new URL("./sd15-weights.ts", import.meta.url));
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
function stopwatch(): () => number {
  let last = performance.now();
  return () => {
    const now = performance.now();
    const seconds = (now - last) / 1000;
    last = now;
    return seconds;
  };
}

const residentMb = () => Math.round(process.memoryUsage.rss() / 2 ** 20);
