import { float32, type HostTensor, sizeOf } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { input, mean, mul, sub, toOnnx } from "../src/graph/index.ts";
import { bindWeights, initialize, unet2d } from "../src/models/index.ts";
import { parameterCount } from "../src/nn/module.ts";
import { adamwScalars, packed } from "../src/optim/index.ts";
import { formatProfile, inferenceTarget, openSession, type Session, trainingTarget } from "../src/runtime/index.ts";
import { STATE, trainingStep } from "../src/train/index.ts";
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
  const error = sub(network(input("x", [batch, ...IMAGE]), input("t", [batch])), input("y", [batch, ...IMAGE]));
  const { model, layout, resident } = trainingStep(network, mean(mul(error, error)), {
    clip: 1,
    target: await trainingTarget(options.device),
  });
  const session = await openSession(model.bytes, { ...sessionOptions(options), name: "unet-train", resident });
  const random = seeded(0);
  const start = packed(initialize(network, random), layout);
  for (const name of STATE) {
    const zero = name === "mean" || name === "square";
    await session.write(`state.${name}`, float32([layout.size], zero ? new Float32Array(layout.size) : start));
  }
  const feeds = { x: random.normal([batch, ...IMAGE]), t: timesteps(batch), y: random.normal([batch, ...IMAGE]) };
  let n = 0;
  const step = () => session.run({ ...feeds, ...scalars({ ...adamwScalars(++n, 2e-4), averaging: 1e-3 }) });
  return finish(session, options, await timed(step, options.seconds), layout.size);
}

/** Only the forward pass, weights constant, as in sampling. */
export async function benchUNetInfer(options: BenchOptions): Promise<object> {
  const { batch } = options;
  const network = unet2d(CONFIG);
  const random = seeded(0);
  const y = network(input("x", [batch, ...IMAGE]), input("t", [batch]));
  const model = toOnnx(
    { y },
    { bind: bindWeights(network, initialize(network, random)), target: inferenceTarget(options.device) },
  );
  const session = await openSession(model.bytes, { ...sessionOptions(options), name: "unet-infer" });
  const feeds = { x: random.normal([batch, ...IMAGE]), t: timesteps(batch) };
  const times = await timed(() => session.run(feeds), options.seconds);
  return finish(session, options, times, parameterCount(network));
}

async function finish(session: Session, options: BenchOptions, times: readonly number[], parameters: number) {
  if (options.profile) console.error(formatProfile(await session.profile(), { top: 40 }));
  await session.close();
  return throughput(options, times, parameters);
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

function scalars(numbers: Record<string, number>): Record<string, HostTensor> {
  return Object.fromEntries(Object.entries(numbers).map(([name, value]) => [name, float32([], [value])]));
}
