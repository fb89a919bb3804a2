import type { InferenceSession, Tensor } from "onnxruntime-node";
import { arrayFor, type HostTensor, hostTensor, sizeOf } from "../core/host-tensor.ts";
import type { AheadModel } from "../graph/index.ts";
import { endedInPlace, MARKER } from "./in-place.ts";
import { fromOrt, toOrt } from "./ort-tensor.ts";
import { isShared } from "./session.ts";

/** Runs of one model of ONNX Runtime. */
export interface Loaded {
  readonly session: InferenceSession;
  /** Whether it carries the mark of `in-place.ts`. */
  readonly inPlace: boolean;
}

/** The values that a session computes ahead of its runs. */
export interface AheadValues {
  /** By the name of the main model's input; those of steady inputs after the first `update`. */
  readonly values: ReadonlyMap<string, HostTensor>;
  /** Computes anew what depends on steady inputs, if one of them has changed. */
  update(feeds: Readonly<Record<string, HostTensor>>): Promise<void>;
  close(): Promise<void>;
}

/**
 * Runs the models that need no feeds, one after the other so that each one's sources are freed before the next is loaded,
 * and keeps the one that does.
 *
 * @param load loads a model; `once` when it is run a single time
 */
export async function computeAhead(
  models: readonly AheadModel[],
  load: (bytes: Uint8Array, once: boolean) => Promise<Loaded>,
): Promise<AheadValues> {
  const values = new Map<string, HostTensor>();
  const steady: { readonly model: AheadModel; readonly loaded: Loaded }[] = [];
  const given = new Map<string, HostTensor>();

  const run = async ({ session, inPlace }: Loaded, { outputs }: AheadModel) => {
    const feeds = Object.fromEntries(
      session.inputNames.map((name) => [name, toOrt((values.get(name) ?? given.get(name))!)]),
    );
    if (!inPlace) {
      for (const [name, tensor] of Object.entries(await session.run(feeds))) {
        values.set(name, copyOf(fromOrt(tensor as Tensor)));
        tensor.dispose();
      }
      return;
    }
    const targets = Object.entries(outputs).map(([name, { dtype, shape }]) => {
      return [name, values.get(name) ?? hostTensor(dtype, shape, arrayFor(dtype, sizeOf(shape)))] as const;
    });
    await runInPlace(session, feeds, Object.fromEntries(targets));
    for (const [name, tensor] of targets) values.set(name, tensor);
  };

  for (const model of models) {
    const once = Object.keys(model.inputs).length === 0;
    const loaded = await load(model.bytes, once);
    if (!once) {
      steady.push({ model, loaded });
      continue;
    }
    try {
      await run(loaded, model);
    } finally {
      await loaded.session.release();
    }
  }

  return {
    values,
    async update(feeds) {
      for (const { model, loaded } of steady) {
        const names = Object.keys(model.inputs);
        if (names.every((name) => equal(given.get(name), feeds[name]!))) continue;
        for (const name of names) given.set(name, isShared(feeds[name]!) ? copyOf(feeds[name]!) : feeds[name]!);
        await run(loaded, model);
      }
    },
    async close() {
      for (const { loaded } of steady) await loaded.session.release();
    },
  };
}

/** Runs a marked model into `targets`: nothing is copied. */
export async function runInPlace(
  session: InferenceSession,
  feeds: Record<string, Tensor>,
  targets: Readonly<Record<string, HostTensor>>,
): Promise<void> {
  const fetches: Record<string, Tensor | null> = { [MARKER]: null };
  for (const [output, tensor] of Object.entries(targets)) fetches[output] = toOrt(tensor);
  try {
    const unused = await session.run(feeds, fetches as InferenceSession.FetchesType);
    for (const tensor of Object.values(unused)) tensor.dispose();
  } catch (error) {
    if (!endedInPlace(error)) throw error;
  }
}

/** A copy of a tensor in memory of its own. */
export function copyOf(tensor: HostTensor): HostTensor {
  return { ...tensor, data: tensor.data.slice() };
}

function equal(a: HostTensor | undefined, b: HostTensor): boolean {
  if (a === undefined || a.data.byteLength !== b.data.byteLength) return false;
  const bytes = ({ data }: HostTensor) => Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return bytes(a).equals(bytes(b));
}
