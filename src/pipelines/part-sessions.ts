import { float32, type HostTensor } from "../core/host-tensor.ts";
import { input, type Tensor } from "../graph/index.ts";
import { type ModelWeights, placedWeights } from "../io/index.ts";
import {
  type Bind,
  bindRounded,
  bindWeights,
  isLarge,
  linearWeights,
  type Weighted,
  type WeightSource,
} from "../models/index.ts";
import { forInference } from "../nn/index.ts";
import type { Device, DeviceName, Feeds, Session } from "../runtime/index.ts";
import { openNetwork, turn } from "./open-network.ts";

export interface ComputeOptions {
  /** Default `"cpu"`. */
  readonly device?: DeviceName | "auto";
  /** Default: one for each core. */
  readonly threads?: number;
}

/** What is asked of a large network beside that. */
export interface PartOptions extends ComputeOptions {
  /** Bits to which the weights of its linear layers are rounded when it is loaded; default: not at all. CPU only. */
  readonly quantize?: 4 | 8;
}

/** A network of a pipeline and where its weights are, not read yet. */
export interface Part<N extends Weighted = Weighted> {
  /** What model_index.json calls it, for example `unet`. */
  readonly name: string;
  readonly network: N;
  readonly weights: PartWeights;
}

/** Weights of files of their own, or those that were found in a checkpoint of several networks. */
export type PartWeights =
  | ModelWeights
  | { readonly source: string; readonly bound: WeightSource; readonly externalData: string };

/** What is asked of a network. */
export interface PartJob {
  /** Names the graph: jobs of one name and inputs of the same shapes share a session. */
  readonly name: string;
  /** What the graph has no use for is left out: a control network without attention sees no text. */
  readonly feeds: Feeds;
  /** Feeds that stay the same over several runs: what depends on them alone is computed when they change. */
  readonly steady?: readonly string[];
  /** Builds the graph of inputs that look like the feeds. */
  readonly graph: (inputs: Readonly<Record<string, Tensor>>) => Readonly<Record<string, Tensor>>;
}

/** Changes the weights of a network, as an adapter does. */
export interface WeightChange {
  /** Tells such changes apart: another key is another session. */
  readonly key: string;
  apply(bind: Bind): Bind;
  /** Changes that are made while the network runs, and can be more or less from run to run in one session. */
  readonly switches?: {
    /** Numbers that are told to the network at every run, by the names of its inputs. */
    readonly scales: Readonly<Record<string, number>>;
    /** Builds the network's graph with these inputs. */
    around<T>(build: () => T): T;
  };
}

/** What tells apart what networks compute, not only which they are: the key of a change with its scales. */
export function effectOf(change: WeightChange | undefined): string {
  return change ? `${change.key} ${JSON.stringify(change.switches?.scales ?? {})}` : "";
}

/** A network on disk that runs at any shape. */
export interface PartSessions {
  /** Runs a job, after loading the network where no session fits. */
  run(
    job: PartJob,
    options?: {
      readonly signal?: AbortSignal;
      readonly change?: WeightChange;
      /** Sessions that stay open afterwards; default 2: one shape in use and the one before. */
      readonly keep?: number;
    },
  ): Promise<Record<string, HostTensor>>;
  /** What it runs on, known after the first run. */
  device(): Device | undefined;
  /** Frees all sessions; a later run loads the network again. */
  close(): Promise<void>;
}

/** Sessions of one network, opened when a shape is first needed; idle ones beyond a few are closed again. */
export function partSessions(
  part: Part,
  { device: wanted = "cpu", threads, quantize }: PartOptions = {},
): PartSessions {
  const open = new Map<string, { readonly session: Promise<Session>; users: number }>();
  const large = isLarge(part.network);
  let chosen: Device | undefined;

  const load = async ({ feeds, graph, steady }: PartJob, change: WeightChange | undefined): Promise<Session> => {
    const { weights, externalData } = await placed(part.weights);
    const stored = bindWeights(part.network, weights, { what: part.weights.source });
    await turn();
    const changed = change ? change.apply(stored) : stored;
    const inputs = Object.entries(feeds).map(([name, { shape, dtype }]) => [name, input(name, shape, dtype)] as const);
    const outputs = forInference(() => graph(Object.fromEntries(inputs)), { rounded: quantize !== undefined });
    await turn();
    const bind = quantize
      ? bindRounded(part.network, changed, linearWeights(part.network, Object.values(outputs)), { bits: quantize })
      : changed;
    const start = (device: DeviceName | "auto", known: DeviceName | "auto") =>
      openNetwork(outputs, { name: part.name, bind, known, large, steady, device, threads, externalData });
    if (chosen) return start(chosen.name, chosen.name);
    let session = await start(wanted, wanted);
    chosen = session.device;
    if (wanted !== "cpu" && chosen.name === "cpu") {
      // `auto` found no GPU: written again with the operators that only the CPU provider has.
      await session.close();
      session = await start("cpu", "cpu");
    }
    return session;
  };

  const closeIdle = (keep: number) => {
    for (const [key, { session, users }] of open) {
      if (open.size <= keep) return;
      if (users > 0) continue;
      open.delete(key);
      void session.then((idle) => idle.close());
    }
  };

  return {
    device: () => chosen,

    async run(asked, { signal, change, keep = 2 } = {}) {
      signal?.throwIfAborted();
      const job = switched(asked, change?.switches);
      const shapes = Object.entries(job.feeds).map(([name, { shape }]) => `${name} ${shape}`);
      const key = [change?.key ?? "", job.name, ...shapes].join("; ");
      const entry = open.get(key) ?? { session: load(job, change), users: 0 };
      // Last in the map is last used.
      open.delete(key);
      open.set(key, entry);
      entry.users++;
      try {
        const session = await entry.session;
        // A graph of few layers may have no use for some of what is fed.
        const feeds = session.inputs.flatMap(({ name }) => (job.feeds[name] ? [[name, job.feeds[name]] as const] : []));
        return await session.run(Object.fromEntries(feeds), { signal });
      } catch (error) {
        // A network that could not be loaded is tried anew next time.
        entry.session.catch(() => open.delete(key));
        throw error;
      } finally {
        entry.users--;
        closeIdle(keep);
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

/** A job whose network is told the scales of its switches as well; they stay the same from step to step. */
function switched(job: PartJob, switches: WeightChange["switches"]): PartJob {
  if (!switches) return job;
  const scales = Object.fromEntries(
    Object.entries(switches.scales).map(([name, scale]) => [name, float32([], [scale])]),
  );
  return {
    ...job,
    feeds: { ...job.feeds, ...scales },
    ...(job.steady ? { steady: [...job.steady, ...Object.keys(scales)] } : {}),
    graph: (inputs) => switches.around(() => job.graph(inputs)),
  };
}

async function placed(part: PartWeights): Promise<{ weights: WeightSource; externalData: string | undefined }> {
  return "bound" in part ? { weights: part.bound, externalData: part.externalData } : placedWeights(part);
}
