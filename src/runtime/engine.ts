import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { env, InferenceSession, listSupportedBackends, type Tensor } from "onnxruntime-node";
import { messageOf } from "../core/errors.ts";
import { arrayFor, describeShape, type HostTensor, hostTensor, sizeOf } from "../core/host-tensor.ts";
import { computeAhead, copyOf, runInPlace } from "./ahead.ts";
import { chooseDevice } from "./device.ts";
import { MARKER, markInPlace } from "./in-place.ts";
import { fromOrt, infoOf, toOrt } from "./ort-tensor.ts";
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
  /** The resident input that an output feeds. */
  const feeding = new Map(
    Object.entries(resident).flatMap(([input, output]) => (output === null ? [] : [[output, input]])),
  );
  // A model file is best left to ONNX Runtime to read, unless much would be copied at every run.
  const inPlace = device.name === "cpu" && (model instanceof Uint8Array || feeding.size > 0);
  const profileFolder = options.profile ? await mkdtemp(join(tmpdir(), "allegory-profile-")) : undefined;

  const ahead = await computeAhead(options.ahead ?? [], async (bytes, once) => {
    // What is run once needs no optimizing: that would do the same work a second time.
    const plain = once ? ({ optimization: "disabled", memoryPattern: false } as const) : {};
    const marked = device.name === "cpu";
    const session = await load(bytes, { ...options, ...plain }, device.name, marked, undefined);
    return { session, inPlace: marked };
  });
  const session = await load(model, options, device.name, inPlace, profileFolder);
  const taken = session.inputMetadata.map((meta) => infoOf(name, meta));
  const computed = new Set((options.ahead ?? []).flatMap(({ outputs }) => Object.keys(outputs)));
  const own = taken.filter((info) => !computed.has(info.name));
  const steady = (options.ahead ?? []).flatMap(({ inputs }) =>
    Object.entries(inputs).map(([input, { dtype, shape }]): TensorInfo => ({ name: input, dtype, shape })),
  );
  const inputs = [...own, ...steady.filter((info) => !own.some((other) => other.name === info.name))];
  const outputs = session.outputMetadata.filter((meta) => meta.name !== MARKER).map((meta) => infoOf(name, meta));
  checkResident({ name, inputs, outputs }, resident);

  /** Resident state by input name. */
  const state = new Map<string, HostTensor>();
  /** Where the next run writes resident state, by input name: the state before the last one. */
  const spare = new Map<string, HostTensor>();
  /** Memory of this thread for shared tensors: ONNX Runtime in Node 20 takes no SharedArrayBuffer. */
  const staging = new Map<string, HostTensor>();

  /** A copy of `tensor` in the memory that `place` has for `key`. */
  const copyInto = (place: Map<string, HostTensor>, key: string, tensor: HostTensor): HostTensor => {
    const { dtype, shape, data } = tensor;
    const old = place.get(key);
    const copy = old?.data.length === data.length ? old.data : arrayFor(dtype, data.length);
    copy.set(data as never);
    place.set(key, hostTensor(dtype, shape, copy));
    return place.get(key)!;
  };

  /** Where a run shall write its outputs, or undefined when the shape of one is not known before the run. */
  const targetsFor = (fetch: readonly string[], shared: ReadonlySet<string>) => {
    const targets: Record<string, HostTensor> = {};
    for (const output of fetch) {
      const { dtype, shape } = outputs.find((info) => info.name === output)!;
      const fixed = fixedShape(shape);
      if (!fixed) return undefined;
      const allocate = () => hostTensor(dtype, fixed, arrayFor(dtype, sizeOf(fixed)));
      const input = feeding.get(output);
      if (input !== undefined) targets[output] = remember(spare, input, allocate);
      else if (shared.has(output)) targets[output] = remember(staging, `out ${output}`, allocate);
      else targets[output] = allocate();
    }
    return targets;
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
      await ahead.update(feeds);
      for (const { name: input } of taken) {
        const tensor = input in resident ? state.get(input) : (ahead.values.get(input) ?? feeds[input]);
        if (!tensor) throw new Error(`${name}: resident input '${input}' was never set: write('${input}', …) first`);
        given[input] = toOrt(isShared(tensor) ? copyInto(staging, `in ${input}`, tensor) : tensor);
      }
      const wanted = fetch ?? outputs.map((output) => output.name).filter((output) => !feeding.has(output));
      const all = [...new Set([...feeding.keys(), ...wanted])];
      const targets = inPlace ? targetsFor(all, new Set(Object.keys(into))) : undefined;
      let results: Record<string, HostTensor>;
      try {
        if (targets) await runInPlace(session, given, targets);
        results = targets ?? (await runFresh(given, all));
      } catch (error) {
        throw new Error(explain(name, error, inputs, feeds), { cause: error });
      }
      for (const [output, target] of Object.entries(into)) {
        const { data, shape } = results[output]!;
        if (data.length === target.data.length) continue;
        throw new Error(
          `${name}: output '${output}' is ${describeShape(shape)}, not of the size of the tensor given for it`,
        );
      }
      for (const [output, input] of feeding) {
        if (targets) spare.set(input, state.get(input)!);
        state.set(input, results[output]!);
      }
      const returned: Record<string, HostTensor> = {};
      for (const output of wanted) {
        const result = results[output]!;
        const target = into[output];
        if (target) target.data.set(result.data as never);
        else returned[output] = handOver(feeding.has(output) ? copyOf(result) : result, transfer);
      }
      return returned;
    },

    read(input, transfer) {
      const tensor = state.get(input);
      if (!tensor) throw new Error(`${name}: resident input '${input}' was never set`);
      return handOver(copyOf(tensor), transfer);
    },

    write(input, tensor) {
      if (isShared(tensor)) copyInto(state, input, tensor);
      else state.set(input, tensor);
    },

    async profile() {
      if (!profileFolder) throw new Error(`${name}: open the session with the option profile to profile it`);
      session.endProfiling();
      const [file] = await readdir(profileFolder);
      if (!file) throw new Error(`${name}: its profile was read already`);
      const events = JSON.parse(await readFile(join(profileFolder, file), "utf8"));
      await rm(join(profileFolder, file));
      return summarizeProfile(events.filter((event: { name?: string }) => !event.name?.startsWith(MARKER)));
    },

    async close() {
      await session.release();
      await ahead.close();
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

/** What `map` holds for `key`, made when it holds nothing. */
function remember<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const value = map.get(key) ?? make();
  map.set(key, value);
  return value;
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
