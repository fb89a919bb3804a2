import { type OnnxModel, type OnnxOptions, onnxInTurns, type Tensor } from "../graph/index.ts";
import type { Bind } from "../models/index.ts";
import {
  type DeviceName,
  inferenceTarget,
  largeNetworkTarget,
  openSession,
  type Session,
  type SessionOptions,
} from "../runtime/index.ts";

/** What is known of a network when its graph is to run. */
export interface NetworkSession
  extends Pick<SessionOptions, "name" | "device" | "threads" | "externalData" | "profile"> {
  readonly bind: Bind;
  /** The device whose operators the graph is written with; default: `device`. */
  readonly known?: DeviceName | "auto";
  /** Whether the weights are too many to be there twice while they are loaded: see `isLarge`. */
  readonly large: boolean;
  /** Inputs that often stay the same from run to run. */
  readonly steady?: readonly string[];
}

/** Milliseconds after which others get a turn while a graph is written, which for large networks takes longer. */
const TURN = 10;

/** Writes a graph without holding up the event loop. */
async function written(outputs: Readonly<Record<string, Tensor>>, options: OnnxOptions): Promise<OnnxModel> {
  const writing = onnxInTurns(outputs, options);
  for (let since = performance.now(); ; ) {
    const { done, value } = writing.next();
    if (done) return value;
    if (performance.now() - since < TURN) continue;
    await turn();
    since = performance.now();
  }
}

/** Lets others have a turn. */
export function turn(): Promise<void> {
  return new Promise((done) => setImmediate(done));
}

/**
 * Opens a session for a network's graph, for inference.
 *
 * Of a large network on the CPU, ONNX Runtime neither packs matrices nor brings convolutions' weights into blocks once more
 * (they stay mapped from their file), nor plans memory ahead (it would hold a plan's block beside what the first run took).
 * Those weights that gain by blocks are brought into them, and 16-bit ones into float32, before it sees them.
 */
export async function openNetwork(
  outputs: Readonly<Record<string, Tensor>>,
  { bind, known, large, steady, ...options }: NetworkSession,
): Promise<Session> {
  const device = known ?? options.device ?? "cpu";
  if (!large || device !== "cpu") {
    const { bytes, ahead } = await written(outputs, { bind, target: inferenceTarget(device), steady });
    return openSession(bytes, { ...options, ahead });
  }
  const { bytes, ahead } = await written(outputs, { bind, target: await largeNetworkTarget(device), steady });
  return openSession(bytes, {
    ...options,
    ahead,
    optimization: "extended",
    memoryPattern: false,
    configEntries: { "session.disable_prepacking": "1" },
  });
}
