import { batchParts, cutBatch } from "../src/core/batch-parts.ts";
import { float32, type HostTensor, sizeOf } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { input, mean, mul, sub, toOnnx } from "../src/graph/index.ts";
import { bindWeights, initialize, unet2d } from "../src/models/index.ts";
import { parameterCount } from "../src/nn/module.ts";
import { adamwScalars, packed } from "../src/optim/index.ts";
import { formatProfile, inferenceTarget, openSession } from "../src/runtime/index.ts";
import { openStepRunner, STATE } from "../src/train/index.ts";
import { type BenchOptions, throughput, timed } from "./measure.ts";

/** About 2.7 M parameters. */
const CONFIG = {
  sample_size: 32,
  in_channels: 1,
  out_channels: 1,
  block_out_channels: [32, 64, 128],
  layers_per_block: 1,
  down_block_types: ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
  up_block_types: ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
  norm_num_groups: 8,
  attention_head_dim: 8,
};
const IMAGE = [1, 32, 32] as const;

/** One whole training step at a time. */
export async function benchUNetTrain(options: BenchOptions): Promise<object> {
  const { batch } = options;
  const network = unet2d(CONFIG);
  const runner = await openStepRunner({
    ...sessionOptions(options),
    network,
    lossOf: (images) => {
      const of = (name: string) => input(name, [images, ...IMAGE]);
      const error = sub(network(of("x"), input("t", [images])), of("y"));
      return mean(mul(error, error));
    },
    batch,
    clip: 1,
  });
  const { layout, parts } = runner;
  const random = seeded(0);
  const start = packed(initialize(network, random), layout);
  for (const name of STATE) {
    await runner.write(name, name === "mean" || name === "square" ? new Float32Array(layout.size) : start);
  }
  const feeds = Array.from({ length: parts }, () => ({
    x: random.normal([batch / parts, ...IMAGE]),
    t: timesteps(batch / parts),
    y: random.normal([batch / parts, ...IMAGE]),
  }));
  let n = 0;
  const step = () => runner.step(feeds, { ...adamwScalars(++n, 2e-4), averaging: 1e-3 });
  const times = await timed(step, options.seconds);
  if (options.profile) console.error(formatProfile(await runner.sessions[0]!.profile(), { top: 40 }));
  await runner.close();
  return throughput(options, times, layout.size);
}

/** Only the forward pass, weights constant, as in sampling. */
export async function benchUNetInfer(options: BenchOptions): Promise<object> {
  const { batch } = options;
  const network = unet2d(CONFIG);
  const random = seeded(0);
  // As the pipelines do it: on the CPU a batch is shared among sessions of one thread each.
  const parts = options.device === "cpu" ? batchParts(batch, options.threads) : 1;
  const share = batch / parts;
  const y = network(input("x", [share, ...IMAGE]), input("t", [share]));
  const model = toOnnx(
    { y },
    { bind: bindWeights(network, initialize(network, random)), target: inferenceTarget(options.device) },
  );
  const sessions = await Promise.all(
    Array.from({ length: parts }, () =>
      openSession(model.bytes, {
        ...sessionOptions({ ...options, threads: Math.floor(options.threads / parts) }),
        name: "unet-infer",
      }),
    ),
  );
  const x = cutBatch(random.normal([batch, ...IMAGE]), parts);
  const t = cutBatch(timesteps(batch), parts);
  const step = () => Promise.all(sessions.map((session, i) => session.run({ x: x[i]!, t: t[i]! })));
  const times = await timed(step, options.seconds);
  if (options.profile) console.error(formatProfile(await sessions[0]!.profile(), { top: 40 }));
  await Promise.all(sessions.map((session) => session.close()));
  return throughput(options, times, parameterCount(network));
}

function sessionOptions({ threads, device, profile }: BenchOptions) {
  return { threads, device, profile };
}

function timesteps(batch: number): HostTensor<"float32"> {
  const random = seeded(1);
  return float32(
    [batch],
    Float32Array.from({ length: sizeOf([batch]) }, () => random.integer(0, 1000)),
  );
}
