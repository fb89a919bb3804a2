import { float32 } from "../core/host-tensor.ts";
import { add, conv2d, input, portableTarget, type Target, toOnnx } from "../graph/index.ts";
import { openSession } from "./node-session.ts";
import type { Device, SessionOptions } from "./session.ts";

const probed = new Map<string, Promise<Target>>();

/**
 * The forms of operators that pay on a device, for graphs whose weights change from run to run (training). On the CPU
 * the width of ONNX Runtime's channel blocks depends on the processor and is found out by a small convolution, once a
 * process.
 */
export function trainingTarget(device: SessionOptions["device"] = "cpu"): Promise<Target> {
  if (device !== "cpu") return Promise.resolve(portableTarget);
  const known = probed.get(device);
  if (known) return known;
  const found = probeCpu();
  probed.set(device, found);
  return found;
}

/**
 * The same for graphs of large networks whose weights are constants: what these become is computed once, each by itself, so
 * that they need not be there twice.
 */
export async function largeNetworkTarget(device: SessionOptions["device"] = "cpu"): Promise<Target> {
  return device === "cpu" ? { ...(await trainingTarget(device)), ahead: true } : portableTarget;
}

/** The same for other graphs whose weights are constants: ONNX Runtime blocks their channels itself. */
export function inferenceTarget(device: SessionOptions["device"] = "cpu"): Target {
  return device === "cpu" ? { contrib: true, blockedChannels: 0 } : portableTarget;
}

async function probeCpu(): Promise<Target> {
  for (const blockedChannels of [16, 8] as const) {
    const target: Target = { contrib: true, blockedChannels };
    if (await computesRight(target)) return target;
  }
  return { contrib: true, blockedChannels: 0 };
}

/** Whether a blocked convolution gives the numbers of a plain one. On other processors it fails or gives others. */
async function computesRight(target: Target): Promise<boolean> {
  const x = input("x", [1, 16, 4, 4]);
  const weights = input("weights", [16, 16, 3, 3]);
  const y = conv2d(x, weights, undefined, { padding: 1 });
  const numbers = (shape: readonly number[], k: number) =>
    float32(
      shape,
      Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => Math.sin(k * i)),
    );
  const feeds = { x: numbers(x.shape, 1.1), weights: numbers(weights.shape, 0.7) };
  const run = async (form: Target | undefined) => {
    const session = await openSession(toOnnx({ y }, { target: form }).bytes, { name: "probe", threads: 1 });
    try {
      return (await session.run(feeds)).y!.data as Float32Array;
    } finally {
      await session.close();
    }
  };
  const expected = await run(undefined);
  try {
    const found = await run(target);
    return found.every((value, i) => Math.abs(value - expected[i]!) < 1e-3);
  } catch {
    return false;
  }
}

const devices = new Map<string, Promise<Device>>();

/**
 * The device that sessions asked for as `asked` run on, and why: found out by opening one, once a process. What must know
 * it beforehand (how a graph is written, how a batch is shared) asks here.
 * @throws UserError when the device is not available
 */
export function availableDevice(asked: NonNullable<SessionOptions["device"]>): Promise<Device> {
  if (asked === "cpu") return Promise.resolve({ name: "cpu", reason: "cpu was asked for" });
  const known = devices.get(asked);
  if (known) return known;
  const found = probeDevice(asked);
  devices.set(asked, found);
  return found;
}

async function probeDevice(asked: NonNullable<SessionOptions["device"]>): Promise<Device> {
  const x = input("x", [1]);
  const session = await openSession(toOnnx({ y: add(x, x) }).bytes, { name: "probe", device: asked });
  await session.close();
  return session.device;
}
