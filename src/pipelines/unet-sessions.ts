import { float32, type HostTensor, hostTensor } from "../core/host-tensor.ts";
import { unet2d } from "../models/index.ts";
import type { Device } from "../runtime/index.ts";
import { type ComputeOptions, partSessions } from "./part-sessions.ts";
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

/** Sessions of a network of pixels. */
export function unetSessions(folder: UnconditionalFolder, options: ComputeOptions): UnetSessions {
  const network = unet2d(folder.config);
  const { run, device, close } = partSessions({ name: "unet", network, weights: folder.weights }, options);
  return {
    device,
    close,
    async run({ x, timestep, labels }, runOptions) {
      const n = x.shape[0]!;
      const feeds = {
        x,
        timestep: float32([n], new Float32Array(n).fill(timestep)),
        ...(labels ? { labels: hostTensor("int64", [n], BigInt64Array.from(labels, BigInt)) } : {}),
      };
      const { output } = await run(
        {
          name: "denoise",
          feeds,
          graph: (inputs) => ({
            output: network(inputs.x!, inputs.timestep!, ...(inputs.labels ? [inputs.labels] : [])),
          }),
        },
        runOptions,
      );
      return output as HostTensor<"float32">;
    },
  };
}
