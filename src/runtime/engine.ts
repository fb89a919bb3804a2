import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { env, InferenceSession, listSupportedBackends, Tensor } from "onnxruntime-node";
import { messageOf } from "../core/errors.ts";
import { arrayFor, type DType, type HostTensor, hostTensor, sizeOf } from "../core/host-tensor.ts";
import { chooseDevice } from "./device.ts";
import { endedInPlace, MARKER, markInPlace } from "./in-place.ts";
import { type Profile, summarizeProfile } from "./profile.ts";
import type { Requests } from "./protocol.ts";
import { checkResident, type Device, type DeviceName, fixedShape, isShared, type TensorInfo } from "./session.ts";
import { probeModel } from "./small-model.ts";

/** A session of ONNX Runtime in this thread. */
export interface Engine {
  readonly inputs: TensorInfo[];
  readonly outputs: TensorInfo[];
  readonly device: Device;
  run(request: Requests["run"], transfer: ArrayBuffer[]): Promise<Record<string, HostTensor>>;
  read(input: string, transfer: ArrayBuffer[]): HostTensor;
  write(input: string, tensor: HostTensor): void;
  profile(): Promise<Profile>;
  close(): Promise<void>;
}

/** Loads a model. Tensors given to `run` and `write` now belong to the engine, except shared ones. */
export async function openEngine({ model, options }: Requests["open"]): Promise<Engine> {
  const { name, resident = {} } = options;
  // What goes wrong comes back as an error; the log would only repeat it on stderr.
  env.logLevel = "fatal";
  const listed = listSupportedBackends().map((backend) => backend.name);
  const device = await chooseDevice(options.device ?? "cpu", listed, failureOf);
  const swapped = Object.values(resident).filter((output) => output !== null);
  const inPlace = device.name === "cpu" && swapped.length > 0;
  const profileFolder = options.profile ? await mkdtemp(join(tmpdir(), "allegory-profile-")) : undefined;

  const session = await load(model, options, device.name, inPlace, profileFolder);
  const inputs = session.inputMetadata.map((meta) => infoOf(name, meta));
  const outputs = session.outputMetadata.filter((meta) => meta.name !== MARKER).map((meta) => infoOf(name, meta));
  checkResident({ name, inputs, outputs }, resident);

  /** Resident state by input name. */
  const state = new Map<string, HostTensor>();
  /** Where the next run writes resident state, by input name: the state before the last one. */
  const spare = new Map<string, HostTensor>();
  /** Memory of this thread for shared tensors: ONNX Runtime in Node 20 takes no SharedArrayBuffer. */
  const staging = new Map<string, HostTensor>();

  const ofThisThread = (key: string, tensor: HostTensor): HostTensor => {
    if (!isShared(tensor)) return tensor;
    let copy = staging.get(key);
    if (copy?.data.length !== tensor.data.length) {
      copy = hostTensor(tensor.dtype, tensor.shape, arrayFor(tensor.dtype, tensor.data.length));
      staging.set(key, copy);
    }
    copy.data.set(tensor.data as never);
    return { ...copy, shape: tensor.shape };
  };

  /** A run into preallocated memory: nothing is copied. */
  const runInPlace = async (feeds: Record<string, Tensor>, fetch: readonly string[]) => {
    const results: Record<string, HostTensor> = {};
    for (const [input, output] of Object.entries(resident)) {
      if (output === null) continue;
      const current = state.get(input)!;
      const target =
        spare.get(input) ?? hostTensor(current.dtype, current.shape, arrayFor(current.dtype, current.data.length));
      spare.set(input, target);
      results[output] = target;
    }
    for (const output of fetch) {
      if (results[output]) continue;
      const info = outputs.find((info) => info.name === output)!;
      const shape = fixedShape(info.shape);
      if (!shape) {
        throw new Error(`${name}: output '${output}' has no fixed shape, which a session with resident state needs`);
      }
      results[output] = hostTensor(info.dtype, shape, arrayFor(info.dtype, sizeOf(shape)));
    }
    const fetches: Record<string, Tensor | null> = { [MARKER]: null };
    for (const [output, tensor] of Object.entries(results)) fetches[output] = toOrt(tensor);
    try {
      const unused = await session.run(feeds, fetches as InferenceSession.FetchesType);
      for (const tensor of Object.values(unused)) tensor.dispose();
    } catch (error) {
      if (!endedInPlace(error)) throw error;
    }
    return results;
  };

  /** A run whose results ONNX Runtime allocates. */
  const runFresh = async (feeds: Record<string, Tensor>, fetch: readonly string[]) => {
    const ran = await session.run(feeds, [...fetch]);
    const results: Record<string, HostTensor> = {};
    for (const [output, tensor] of Object.entries(ran)) {
      results[output] = fromOrt(tensor as Tensor);
      tensor.dispose();
    }
    return results;
  };

  return {
    inputs,
    outputs,
    device,

    async run({ feeds, fetch, into, dropped }, transfer) {
      if (dropped && Atomics.load(dropped, 0) !== 0) return {};
      const given: Record<string, Tensor> = {};
      for (const { name: input } of inputs) {
        const tensor = input in resident ? state.get(input) : feeds[input];
        if (!tensor) throw new Error(`${name}: resident input '${input}' was never set: write('${input}', …) first`);
        given[input] = toOrt(ofThisThread(`in ${input}`, tensor));
      }
      const wanted = fetch ?? outputs.map((output) => output.name).filter((output) => !swapped.includes(output));
      const all = [...new Set([...swapped, ...wanted])];
      let results: Record<string, HostTensor>;
      try {
        results = await (inPlace ? runInPlace(given, all) : runFresh(given, all));
      } catch (error) {
        throw new Error(explain(name, error, inputs, feeds), { cause: error });
      }
      for (const [input, output] of Object.entries(resident)) {
        if (output === null) continue;
        spare.set(input, state.get(input)!);
        state.set(input, results[output]!);
      }
      const returned: Record<string, HostTensor> = {};
      for (const output of wanted) {
        const result = results[output]!;
        const target = into[output];
        if (target) {
          if (result.data.length !== target.data.length) {
            throw new Error(
              `${name}: output '${output}' is [${result.shape}], more or less than the tensor given for it`,
            );
          }
          target.data.set(result.data as never);
        } else if (swapped.includes(output)) {
          returned[output] = handOver({ ...result, data: result.data.slice() } as HostTensor, transfer);
        } else {
          returned[output] = handOver(result, transfer);
        }
      }
      return returned;
    },

    read(input, transfer) {
      const tensor = state.get(input);
      if (!tensor) throw new Error(`${name}: resident input '${input}' was never set`);
      return handOver({ ...tensor, data: tensor.data.slice() } as HostTensor, transfer);
    },

    write(input, tensor) {
      const own = isShared(tensor)
        ? hostTensor(tensor.dtype, tensor.shape, arrayFor(tensor.dtype, tensor.data.length))
        : tensor;
      if (own !== tensor) own.data.set(tensor.data as never);
      state.set(input, own);
      if (spare.get(input)?.data.length !== own.data.length) spare.delete(input);
    },

    async profile() {
      if (!profileFolder) throw new Error(`${name}: open the session with the option profile to profile it`);
      session.endProfiling();
      const [file] = await readdir(profileFolder);
      if (!file) throw new Error(`${name}: its profile was read already`);
      const events = JSON.parse(await readFile(join(profileFolder, file), "utf8"));
      await rm(join(profileFolder, file));
      return summarizeProfile(events);
    },

    async close() {
      await session.release();
      if (profileFolder) await rm(profileFolder, { recursive: true, force: true });
    },
  };
}

async function load(
  model: Uint8Array | { path: string },
  options: Requests["open"]["options"],
  device: DeviceName,
  inPlace: boolean,
  profileFolder: string | undefined,
): Promise<InferenceSession> {
  const { name, optimization = "all", memoryPattern = true, arena = true } = options;
  const bytes = model instanceof Uint8Array ? model : undefined;
  const path = model instanceof Uint8Array ? undefined : model.path;
  const externalData = options.externalData ?? (path && inPlace ? dirname(path) : undefined);
  const sessionOptions: InferenceSession.SessionOptions = {
    executionProviders: [device],
    intraOpNumThreads: options.threads,
    interOpNumThreads: 1,
    executionMode: "sequential",
    graphOptimizationLevel: optimization,
    enableMemPattern: memoryPattern,
    enableCpuMemArena: arena,
    logSeverityLevel: 4,
    extra: {
      ...options.configEntries,
      ...(externalData ? { "session.model_external_initializers_file_folder_path": externalData } : {}),
    },
    ...(profileFolder ? { enableProfiling: true, profileFilePrefix: join(profileFolder, "ort") } : {}),
  };
  try {
    if (inPlace) return await InferenceSession.create(markInPlace(bytes ?? (await readFile(path!))), sessionOptions);
    return await (bytes
      ? InferenceSession.create(bytes, sessionOptions)
      : InferenceSession.create(path!, sessionOptions));
  } catch (error) {
    if (profileFolder) await rm(profileFolder, { recursive: true, force: true });
    throw new Error(`${name}: the model could not be loaded: ${messageOf(error).trim()}`, { cause: error });
  }
}

/** Undefined when a session starts on `device`, else why it does not. */
async function failureOf(device: DeviceName): Promise<string | undefined> {
  try {
    const session = await InferenceSession.create(probeModel(), { executionProviders: [device], logSeverityLevel: 4 });
    await session.release();
    return undefined;
  } catch (error) {
    return messageOf(error).trim().split("\n")[0]!;
  }
}

const DTYPES: readonly string[] = [
  "float32",
  "float64",
  "float16",
  "int64",
  "int32",
  "int16",
  "int8",
  "uint8",
  "uint16",
  "uint32",
  "bool",
] satisfies DType[];

function infoOf(model: string, meta: InferenceSession.ValueMetadata): TensorInfo {
  if (!meta.isTensor) throw new Error(`${model}: '${meta.name}' is not a tensor`);
  if (!DTYPES.includes(meta.type)) throw new Error(`${model}: '${meta.name}' has the unsupported type ${meta.type}`);
  return { name: meta.name, dtype: meta.type as DType, shape: meta.shape };
}

function toOrt({ dtype, data, shape }: HostTensor): Tensor {
  return new Tensor(dtype as "float32", data as Float32Array, shape);
}

function fromOrt(tensor: Tensor): HostTensor {
  const data = tensor.data as Float32Array;
  // Newer versions of Node have a Float16Array, in which ONNX Runtime returns float16; ours are raw bits.
  const bits = tensor.type === "float16" ? new Uint16Array(data.buffer, data.byteOffset, data.length) : data;
  return hostTensor(tensor.type as DType, [...tensor.dims], bits as never);
}

/** Marks a tensor's memory to be moved, not copied, with the reply. */
function handOver(tensor: HostTensor, transfer: ArrayBuffer[]): HostTensor {
  transfer.push(tensor.data.buffer as ArrayBuffer);
  return tensor;
}

function explain(
  model: string,
  error: unknown,
  inputs: readonly TensorInfo[],
  feeds: Requests["run"]["feeds"],
): string {
  const given = inputs
    .map(({ name, dtype, shape }) => `'${name}' ${dtype} [${(feeds[name]?.shape ?? shape).join(", ")}]`)
    .join(", ");
  const message = messageOf(error).trim();
  return message.startsWith(`${model}: `) ? message : `${model}: the run failed: ${message}\nIts inputs: ${given}`;
}
