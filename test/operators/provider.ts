import type { HostTensor } from "../../src/core/host-tensor.ts";
import { seeded } from "../../src/core/random.ts";
import { conv2d, input, portableTarget, type Target, type Tensor, toOnnx } from "../../src/graph/index.ts";
import { type DeviceName, openSession } from "../../src/runtime/index.ts";

/** Where graphs run in these tests, and the form they are written in. */
export interface Provider {
  readonly name: string;
  readonly device: DeviceName;
  readonly target: Target;
}

/** Writes the graph of `outputs` for a provider, runs it once and returns the results. */
export async function run(
  outputs: Readonly<Record<string, Tensor>>,
  feeds: Readonly<Record<string, HostTensor>>,
  { device, target }: Provider,
  weights: ReadonlyMap<Tensor, HostTensor> = new Map(),
): Promise<Record<string, HostTensor>> {
  const model = toOnnx(outputs, {
    target,
    bind: (leaf) => {
      const tensor = weights.get(leaf);
      return tensor && { kind: "data", tensor };
    },
  });
  const session = await openSession(model.bytes, { device, threads: 1 });
  try {
    // Inputs that no output depends on are not part of the model.
    const used = Object.fromEntries(Object.entries(feeds).filter(([name]) => name in model.inputs));
    return await session.run(used);
  } finally {
    await session.close();
  }
}

/** Standard ONNX on the CPU. */
export const portableCpu: Provider = { name: "CPU, standard ONNX", device: "cpu", target: portableTarget };

/** The CPU with its own operators, and with the largest channel block that computes a convolution right here. */
export async function tunedCpu(): Promise<Provider> {
  const blockedChannels = await channelBlock();
  return {
    name: `CPU, own operators, channel blocks of ${blockedChannels}`,
    device: "cpu",
    target: { contrib: true, blockedChannels },
  };
}

async function channelBlock(): Promise<0 | 8 | 16> {
  const random = seeded(5);
  const feeds = { x: random.normal([1, 16, 5, 5]), w: random.normal([16, 16, 3, 3]) };
  const y = conv2d(input("x", feeds.x.shape), input("w", feeds.w.shape), undefined, { padding: 1 });
  const expected = (await run({ y }, feeds, portableCpu)).y!.data as Float32Array;
  for (const blockedChannels of [16, 8] as const) {
    const provider: Provider = { ...portableCpu, target: { contrib: true, blockedChannels } };
    try {
      const found = (await run({ y }, feeds, provider)).y!.data as Float32Array;
      if (found.every((value, i) => Math.abs(value - expected[i]!) < 1e-3)) return blockedChannels;
    } catch {
      // This block is not the machine's: the next is tried, and without any the ordinary convolution is tested.
    }
  }
  return 0;
}
