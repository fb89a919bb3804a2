import { realpath } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { float32, type HostTensor, hostTensor } from "../core/host-tensor.ts";
import { input, portableTarget, type Target, toOnnx } from "../graph/index.ts";
import { bindWeights, type StoredWeight, unet2d, type WeightSource } from "../models/index.ts";
import { type Device, type DeviceName, openSession, type Session } from "../runtime/index.ts";
import type { UnconditionalFolder } from "./unconditional-folder.ts";

/** Sessions that are kept when no one uses them: one shape in use and the one before. */
const KEPT = 2;

/** ONNX Runtime's CPU provider blocks the weights of convolutions by itself where they are constant. */
const cpuTarget: Target = { contrib: true, blockedChannels: 0 };

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

export interface ComputeOptions {
  /** Default `"cpu"`. */
  readonly device?: DeviceName | "auto";
  /** Default: one for each core. */
  readonly threads?: number;
}

/** Sessions of a network, opened when a shape is first needed; idle ones beyond a few are closed again. */
export function unetSessions(
  folder: UnconditionalFolder,
  { device: asked = "cpu", threads }: ComputeOptions,
): UnetSessions {
  const open = new Map<string, { readonly session: Promise<Session>; users: number }>();
  let chosen: Device | undefined;

  const load = async (x: HostTensor, hasLabels: boolean): Promise<Session> => {
    const network = unet2d(folder.config);
    const n = x.shape[0]!;
    const output = network(
      input("x", x.shape),
      input("timestep", [n]),
      ...(hasLabels ? [input("labels", [n], "int64")] : []),
    );
    const { weights, externalData } = await storedWeights(folder);
    const bind = bindWeights(network, weights, { what: folder.weights.source });
    const start = (target: Target, device: DeviceName | "auto") =>
      openSession(toOnnx({ output }, { bind, target }).bytes, { name: "unet", device, threads, externalData });
    if (chosen) return start(chosen.name === "cpu" ? cpuTarget : portableTarget, chosen.name);
    let session = await start(asked === "cpu" ? cpuTarget : portableTarget, asked);
    chosen = session.device;
    if (asked !== "cpu" && chosen.name === "cpu") {
      // `auto` found no GPU: written again with the operators that only the CPU provider has.
      await session.close();
      session = await start(cpuTarget, "cpu");
    }
    return session;
  };

  return {
    device: () => chosen,

    async run({ x, timestep, labels }, { signal } = {}) {
      signal?.throwIfAborted();
      const key = `${x.shape} ${labels !== undefined}`;
      const entry = open.get(key) ?? { session: load(x, labels !== undefined), users: 0 };
      // Last in the map is last used.
      open.delete(key);
      open.set(key, entry);
      entry.users++;
      try {
        const session = await entry.session;
        const feeds = {
          x,
          timestep: float32([x.shape[0]!], new Float32Array(x.shape[0]!).fill(timestep)),
          ...(labels ? { labels: hostTensor("int64", [labels.length], BigInt64Array.from(labels, BigInt)) } : {}),
        };
        const { output } = await session.run(feeds, { signal });
        return output as HostTensor<"float32">;
      } catch (error) {
        // A network that could not be loaded is tried anew next time.
        entry.session.catch(() => open.delete(key));
        throw error;
      } finally {
        entry.users--;
        for (const [other, { session, users }] of open) {
          if (open.size <= KEPT || users > 0) continue;
          open.delete(other);
          void session.then((idle) => idle.close());
        }
      }
    },

    async close() {
      const all = [...open.values()];
      open.clear();
      await Promise.all(
        all.map(({ session }) =>
          session.then(
            (one) => one.close(),
            () => undefined,
          ),
        ),
      );
    },
  };
}

/** Weights as external data where their files share a folder (they do, unless someone linked them together). */
async function storedWeights(
  folder: UnconditionalFolder,
): Promise<{ weights: WeightSource; externalData: string | undefined }> {
  const { files, tensors, read } = folder.weights;
  const folders = new Set(await Promise.all(files.map(async (file) => dirname(await realpath(file)))));
  const weights = new Map<string, StoredWeight>();
  if (folders.size === 1) {
    for (const [name, { dtype, shape, offset, length, path }] of tensors) {
      weights.set(name, { dtype, shape, file: basename(path), offset, length });
    }
    return { weights, externalData: [...folders][0]! };
  }
  for (const name of tensors.keys()) weights.set(name, await read(name));
  return { weights, externalData: undefined };
}
