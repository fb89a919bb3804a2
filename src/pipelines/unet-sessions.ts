import { availableParallelism } from "node:os";
import { batchParts, cutBatch, joinBatch } from "../core/batch-parts.ts";
import { float32, type HostTensor, hostTensor } from "../core/host-tensor.ts";
import type { Tensor } from "../graph/index.ts";
import { unet2d } from "../models/index.ts";
import type { Device } from "../runtime/index.ts";
import { type ComputeOptions, type PartSessions, partSessions } from "./part-sessions.ts";
import type { UnconditionalFolder } from "./unconditional-folder.ts";

/** A batch in the network's own pixels, [n, c, h, w]: one timestep for all, a label for each where it has classes. */
export interface NetworkBatch {
  readonly x: HostTensor<"float32">;
  readonly timestep: number;
  readonly labels: readonly number[] | undefined;
}

/** A `UNet2DModel` on disk that can be run at any batch shape. */
export interface UnetSessions {
  /** Runs a batch; gives [n, c or 2c, h, w]. Loads the network first where no session has the shape. */
  run(batch: NetworkBatch, options?: { readonly signal?: AbortSignal }): Promise<HostTensor<"float32">>;
  /** What it runs on, known after the first run. */
  device(): Device | undefined;
  close(): Promise<void>;
}

/** Networks of more bytes are not loaded once for each thread. */
const SMALL = 200e6;

/**
 * Sessions of a network of pixels. On the CPU a batch of a small network is shared among sessions of one thread each,
 * which is faster than one session of all threads.
 */
export function unetSessions(folder: UnconditionalFolder, options: ComputeOptions): UnetSessions {
  const network = unet2d(folder.config);
  const { device = "cpu", threads = availableParallelism() } = options;
  const part = { name: "unet", network, weights: folder.weights };
  const whole = partSessions(part, options);
  const shared = device === "cpu" && bytesOf(folder) <= SMALL;
  const sharing = Array.from({ length: shared ? threads : 0 }, () => partSessions(part, { device, threads: 1 }));
  const all = [whole, ...sharing];
  const graph = (inputs: Readonly<Record<string, Tensor>>) => ({
    output: network(inputs.x!, inputs.timestep!, ...(inputs.labels ? [inputs.labels] : [])),
  });
  return {
    device: () => all.map((sessions) => sessions.device()).find((found) => found),
    close: async () => void (await Promise.all(all.map((sessions) => sessions.close()))),
    async run({ x, timestep, labels }, runOptions) {
      const n = x.shape[0]!;
      const feeds: Record<string, HostTensor> = {
        x,
        timestep: float32([n], new Float32Array(n).fill(timestep)),
        ...(labels ? { labels: hostTensor("int64", [n], BigInt64Array.from(labels, BigInt)) } : {}),
      };
      const parts = shared ? batchParts(n, threads) : 1;
      const denoise = async (sessions: PartSessions, given: Record<string, HostTensor>) =>
        (await sessions.run({ name: "denoise", feeds: given, graph }, runOptions)).output as HostTensor<"float32">;
      if (parts === 1) return denoise(whole, feeds);
      const cut = Object.entries(feeds).map(([name, tensor]) => [name, cutBatch(tensor, parts)] as const);
      const outputs = sharing
        .slice(0, parts)
        .map((sessions, i) => denoise(sessions, Object.fromEntries(cut.map(([name, tensors]) => [name, tensors[i]!]))));
      return joinBatch(await Promise.all(outputs));
    },
  };
}

function bytesOf({ weights }: UnconditionalFolder): number {
  return [...weights.tensors.values()].reduce((sum, { length }) => sum + length, 0);
}
