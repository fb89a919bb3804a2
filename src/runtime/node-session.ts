import { availableParallelism } from "node:os";
import { basename } from "node:path";
import { UserError } from "../core/errors.ts";
import type { HostTensor } from "../core/host-tensor.ts";
import { checkFeeds, checkFetches, checkTensor, isShared, type Session, type SessionOptions } from "./session.ts";
import { returnWorker, takeWorker } from "./worker-pool.ts";

/**
 * Loads an ONNX model into a worker thread of its own.
 *
 * Keep sessions: creating and releasing many of them leaks memory inside ONNX Runtime (onnxruntime#25325).
 *
 * @param model ONNX bytes (copied), or the path of an .onnx file
 * @throws UserError when the device is not available; Error when ONNX Runtime refuses the model
 */
export async function openSession(
  model: Uint8Array | { path: string },
  options: SessionOptions = {},
): Promise<Session> {
  const { threads = availableParallelism(), resident = {} } = options;
  const name = options.name ?? (model instanceof Uint8Array ? "model" : basename(model.path));
  if (!Number.isInteger(threads) || threads < 1) {
    throw new UserError(`${threads} threads were asked for; accepted is a whole number from 1 on.`, {
      field: "threads",
    });
  }
  const host = takeWorker(name);
  const copy = model instanceof Uint8Array ? new Uint8Array(model) : model;
  const transfer = copy instanceof Uint8Array ? [copy.buffer as ArrayBuffer] : [];
  const { inputs, outputs, device } = await host
    .call("open", { model: copy, options: { ...options, name, threads } }, transfer)
    .catch(async (error) => {
      await host.terminate();
      throw error;
    });
  const residentInputs = new Set(Object.keys(resident));
  let closing: Promise<void> | undefined;

  const open = () => {
    if (closing) throw new Error(`${name}: the session is closed`);
  };
  const residentInfo = (input: string) => {
    const info = inputs.find((info) => info.name === input);
    if (info && residentInputs.has(input)) return info;
    const names = [...residentInputs].map((name) => `'${name}'`).join(", ");
    throw new Error(`${name}: input '${input}' is not resident; resident are ${names || "none"}`);
  };

  return {
    name,
    inputs,
    outputs,
    device,
    threads,

    async run(feeds, { fetch, into = {}, signal } = {}) {
      open();
      signal?.throwIfAborted();
      checkFeeds({ name, inputs }, residentInputs, feeds);
      checkFetches({ name, outputs }, { fetch, into });
      const moved: ArrayBuffer[] = [];
      const body = { feeds: mapTensors(feeds, (tensor) => forThread(tensor, moved)), fetch, into: { ...into } };
      if (!signal) {
        const reply = await host.call("run", { ...body, dropped: undefined }, moved);
        return { ...reply.outputs, ...into };
      }
      const dropped = new Int32Array(new SharedArrayBuffer(4));
      const running = host.call("run", { ...body, dropped }, moved);
      return new Promise((resolve, reject) => {
        const abort = () => {
          Atomics.store(dropped, 0, 1);
          reject(signal.reason);
        };
        signal.addEventListener("abort", abort, { once: true });
        running
          .then((reply) => resolve({ ...reply.outputs, ...into }), reject)
          .finally(() => signal.removeEventListener("abort", abort));
      });
    },

    async read(input) {
      open();
      residentInfo(input);
      return (await host.call("read", { input })).tensor;
    },

    async write(input, tensor) {
      open();
      checkTensor(name, "input", residentInfo(input), tensor);
      const moved: ArrayBuffer[] = [];
      await host.call("write", { input, tensor: forThread(tensor, moved) }, moved);
    },

    async profile() {
      open();
      return (await host.call("profile", {})).profile;
    },

    close() {
      closing ??= host.call("close", {}).then(
        ({ held }) => returnWorker(host, held),
        () => host.terminate(), // a thread that crashed is closed all the same
      );
      return closing;
    },
  };
}

/** The tensor as it is sent: shared as it is, else one compact copy, moved. */
function forThread({ dtype, shape, data }: HostTensor, moved: ArrayBuffer[]): HostTensor {
  if (isShared({ dtype, shape, data })) return { dtype, shape: [...shape], data };
  const copy = data.slice();
  moved.push(copy.buffer as ArrayBuffer);
  return { dtype, shape: [...shape], data: copy };
}

function mapTensors(
  tensors: Readonly<Record<string, HostTensor>>,
  change: (tensor: HostTensor) => HostTensor,
): Record<string, HostTensor> {
  return Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, change(tensor)]));
}
