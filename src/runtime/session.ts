import type { DType, HostTensor } from "../core/host-tensor.ts";
import { bytesPerElement, describeShape, sizeOf } from "../core/host-tensor.ts";
import type { AheadModel } from "../graph/index.ts";
import type { Profile } from "./profile.ts";

/**
 * What a session is and what it accepts, apart from where it runs: the same for Node (`node-session.ts`) and, later,
 * for the browser. Nothing here imports an engine or a platform.
 */

/** An execution provider of ONNX Runtime. */
export type DeviceName = "cpu" | "cuda" | "webgpu" | "coreml" | "dml";

/** The device a session runs on, and in words why that one. */
export interface Device {
  readonly name: DeviceName;
  readonly reason: string;
}

/** An input or output of a model. An axis that is a name instead of a size may differ from run to run. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly (number | string)[];
}

export interface SessionOptions {
  /** What messages call this model. */
  readonly name?: string;
  /** Default `"cpu"`. `"auto"` takes the fastest device known to be right, and says why in `session.device.reason`. */
  readonly device?: DeviceName | "auto";
  /** Threads inside an operator. Default: `os.availableParallelism()`. */
  readonly threads?: number;
  /** The folder in which the model's external initializers lie (a real path: links that lead out of it are refused). */
  readonly externalData?: string;
  /**
   * State that stays in the session between runs, by input name. `{ "state.w": "next.w" }`: output `next.w` of a run is
   * input `state.w` of the following one, and neither crosses a thread. `{ "w": null }`: set by `write`, never changed
   * by a run. All of it is set by `write` before the first run and looked at by `read`.
   */
  readonly resident?: Readonly<Record<string, string | null>>;
  /**
   * Models that are run before this one (`OnnxModel.ahead`): those without inputs when the session is opened, the others
   * when a feed of theirs has changed. What they give are inputs of this model that are not fed.
   */
  readonly ahead?: readonly AheadModel[];
  /** Plan memory ahead for each input shape. Turn off for models whose input shapes vary. Default true. */
  readonly memoryPattern?: boolean;
  /** Keep freed memory for the next run. Default true. */
  readonly arena?: boolean;
  /** Graph optimization at load. Default `"all"`. */
  readonly optimization?: "disabled" | "basic" | "extended" | "layout" | "all";
  /** Time every node; `session.profile()` has the result. */
  readonly profile?: boolean;
  /** ONNX Runtime's session configuration entries, such as `{ "session.disable_prepacking": "1" }`. */
  readonly configEntries?: Readonly<Record<string, string>>;
}

export interface RunOptions {
  /** The outputs wanted; the others are not returned (and not computed where nothing else needs them). */
  readonly fetch?: readonly string[];
  /**
   * Outputs to be written into given tensors, whose data must lie in `SharedArrayBuffer`s: the way to hand large
   * results to other threads.
   */
  readonly into?: Readonly<Record<string, HostTensor>>;
  /** Drops the run if it has not started; a run that has started goes on, its result unused. */
  readonly signal?: AbortSignal;
}

export type Feeds = Readonly<Record<string, HostTensor>>;

/** A loaded model, ready to run, in a thread of its own. */
export interface Session {
  readonly name: string;
  readonly inputs: readonly TensorInfo[];
  readonly outputs: readonly TensorInfo[];
  readonly device: Device;
  readonly threads: number;
  /**
   * Runs the model. `feeds` holds every input that is not resident; the result every output that does not feed a
   * resident input, or those of `fetch`. Feeds are copied on the way in, unless their data lie in `SharedArrayBuffer`s:
   * these are read when the run starts. Runs take place one after the other, in the order of the calls. A run that
   * fails leaves resident state as it was.
   */
  run(feeds: Feeds, options?: RunOptions): Promise<Record<string, HostTensor>>;
  /** A copy of resident state, by its input name, as it is after the runs called before. */
  read(input: string): Promise<HostTensor>;
  /** Sets resident state, by its input name, for the runs called after. The data are copied. */
  write(input: string, tensor: HostTensor): Promise<void>;
  /** Ends profiling and returns where the time went. Needs the option `profile`. */
  profile(): Promise<Profile>;
  /** Lets the runs already called finish, then frees the model and its thread. */
  close(): Promise<void>;
}

/** Throws unless `feeds` holds just the inputs that a run needs, each of the declared dtype and shape. */
export function checkFeeds(
  session: { readonly name: string; readonly inputs: readonly TensorInfo[] },
  resident: ReadonlySet<string>,
  feeds: Feeds,
): void {
  const wanted = session.inputs.filter((input) => !resident.has(input.name));
  for (const name of Object.keys(feeds)) {
    if (resident.has(name)) {
      throw new Error(`${session.name}: input '${name}' is resident: set it by write('${name}', …), not as a feed`);
    }
    if (!wanted.some((input) => input.name === name)) {
      const names = wanted.map((input) => `'${input.name}'`).join(", ");
      throw new Error(`${session.name}: there is no input '${name}'; its inputs are ${names || "none"}`);
    }
  }
  const sizes = new Map<string, { size: number; input: string }>();
  for (const input of wanted) {
    const tensor = feeds[input.name];
    if (tensor === undefined) {
      throw new Error(`${session.name}: input '${input.name}' (${describeInfo(input)}) was not given`);
    }
    checkTensor(session.name, "input", input, tensor);
    // A named axis has one size throughout a run.
    input.shape.forEach((axis, i) => {
      if (typeof axis !== "string" || axis === "") return;
      const size = tensor.shape[i]!;
      const first = sizes.get(axis);
      if (first && first.size !== size) {
        throw new Error(
          `${session.name}: axis '${axis}' is ${first.size} in input '${first.input}' but ${size} in input '${input.name}'`,
        );
      }
      if (!first) sizes.set(axis, { size, input: input.name });
    });
  }
}

/** Throws unless `tensor` has the dtype and shape of `info`, and as many elements as its shape says. */
export function checkTensor(model: string, role: "input" | "output", info: TensorInfo, tensor: HostTensor): void {
  const problem = (text: string) => new Error(`${model}: ${role} '${info.name}' is ${describeInfo(info)}, but ${text}`);
  if (tensor.dtype !== info.dtype) throw problem(`${tensor.dtype} ${describeShape(tensor.shape)} was given`);
  const fits =
    tensor.shape.length === info.shape.length &&
    info.shape.every((axis, i) => typeof axis === "string" || axis === tensor.shape[i]);
  if (!fits) throw problem(`the shape ${describeShape(tensor.shape)} was given`);
  const size = sizeOf(tensor.shape);
  if (tensor.data.length !== size) {
    throw problem(`${tensor.data.length} elements were given for the shape ${describeShape(tensor.shape)}`);
  }
  if (tensor.data.BYTES_PER_ELEMENT !== bytesPerElement(info.dtype)) {
    throw problem(`its data are a ${tensor.data.constructor.name}`);
  }
}

/** Throws unless every name in `fetch` and `into` is an output, and the tensors of `into` are shared and fit. */
export function checkFetches(
  session: { readonly name: string; readonly outputs: readonly TensorInfo[] },
  options: RunOptions,
): void {
  const find = (name: string): TensorInfo => {
    const output = session.outputs.find((output) => output.name === name);
    if (output) return output;
    const names = session.outputs.map((output) => `'${output.name}'`).join(", ");
    throw new Error(`${session.name}: there is no output '${name}'; its outputs are ${names}`);
  };
  options.fetch?.forEach(find);
  for (const [name, tensor] of Object.entries(options.into ?? {})) {
    checkTensor(session.name, "output", find(name), tensor);
    if (options.fetch && !options.fetch.includes(name)) {
      throw new Error(`${session.name}: output '${name}' is in 'into' but not in 'fetch'`);
    }
    if (!isShared(tensor)) {
      throw new Error(`${session.name}: the tensor given for output '${name}' must lie in a SharedArrayBuffer`);
    }
  }
}

/** Throws unless `resident` names inputs, and outputs of the same dtype and fixed shape, each output once. */
export function checkResident(
  session: { readonly name: string; readonly inputs: readonly TensorInfo[]; readonly outputs: readonly TensorInfo[] },
  resident: Readonly<Record<string, string | null>>,
): void {
  const seen = new Set<string>();
  for (const [inputName, outputName] of Object.entries(resident)) {
    const input = session.inputs.find((input) => input.name === inputName);
    if (!input) throw new Error(`${session.name}: there is no input '${inputName}' to keep resident`);
    if (outputName === null) continue;
    const output = session.outputs.find((output) => output.name === outputName);
    if (!output) throw new Error(`${session.name}: there is no output '${outputName}' to feed input '${inputName}'`);
    if (describeInfo(input) !== describeInfo(output)) {
      throw new Error(
        `${session.name}: output '${outputName}' (${describeInfo(output)}) cannot feed input '${inputName}' (${describeInfo(input)})`,
      );
    }
    if (seen.has(outputName)) throw new Error(`${session.name}: output '${outputName}' feeds two resident inputs`);
    seen.add(outputName);
  }
}

/** Whether a tensor's data lie in memory that several threads see. */
export function isShared(tensor: HostTensor): boolean {
  return typeof SharedArrayBuffer !== "undefined" && tensor.data.buffer instanceof SharedArrayBuffer;
}

/** A shape without named axes, or undefined. */
export function fixedShape(shape: readonly (number | string)[]): readonly number[] | undefined {
  return shape.every((axis) => typeof axis === "number") ? (shape as readonly number[]) : undefined;
}

/** `float32 [batch, 3, 32, 32]` in messages. */
export function describeInfo(info: TensorInfo): string {
  return `${info.dtype} [${info.shape.map((axis) => axis || "?").join(", ")}]`;
}
