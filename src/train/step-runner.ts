import { batchParts } from "../core/batch-parts.ts";
import { float32, type HostTensor } from "../core/host-tensor.ts";
import type { Tensor } from "../graph/index.ts";
import type { PartGroup } from "../nn/module.ts";
import type { AdamWOptions, FlatLayout } from "../optim/index.ts";
import { openSession, type Session, type SessionOptions, trainingTarget } from "../runtime/index.ts";
import { gradientName, replicatedStep, STAND_STILL } from "./replicated-step.ts";
import { measureName, type SCALARS, type StateName, scalarFeeds, type TrainingStep, trainingStep } from "./step.ts";
import type { FixedWeights, StepLoss } from "./task.ts";

type Feeds = Readonly<Record<string, HostTensor>>;
/** The scalars of one optimizer step, see `adamwScalars` and `emaDecay`. */
export type StepScalars = Readonly<Record<(typeof SCALARS)[number], number>>;

/** What is trained, and with what. */
export interface StepRunnerOptions extends AdamWOptions {
  readonly network: PartGroup;
  /** The loss of so many samples, a mean over them, reading inputs by name. */
  readonly lossOf: (samples: number) => Tensor | StepLoss;
  readonly batch: number;
  readonly accumulate?: number;
  readonly clip: number;
  readonly frozen?: ReadonlyMap<string, HostTensor>;
  readonly fixed?: FixedWeights;
  /** See `TrainingTask`. */
  readonly averaged?: PartGroup;
  readonly device?: SessionOptions["device"];
  readonly threads: number;
  readonly profile?: boolean;
}

/** What a step says of its batch. */
export interface StepResult {
  readonly loss: number;
  /** Before clipping. */
  readonly gradientNorm: number;
  /** The loss's measures by name; none for a loss without. */
  readonly measures: Readonly<Record<string, number>>;
}

/** Sessions that take training steps, and the state they share. */
export interface StepRunner {
  readonly layout: FlatLayout;
  /** How many equal parts a batch is to be cut into. */
  readonly parts: number;
  /** One optimizer step; `feeds[i]` is part i of the batch. */
  step(feeds: readonly Feeds[], scalars: StepScalars): Promise<StepResult>;
  read(name: StateName): Promise<Float32Array>;
  write(name: StateName, vector: Float32Array): Promise<void>;
  /** The sessions, for profiles. */
  readonly sessions: readonly Session[];
  close(): Promise<void>;
}

/**
 * How many sessions share a batch: on the CPU one for each thread, since many of ONNX Runtime's operators use only one;
 * fewer where the batch cannot be cut so or has fewer than `LEAST` images for each.
 */
export function replicasFor({
  batch,
  accumulate = 1,
  device = "cpu",
  threads,
}: Omit<StepRunnerOptions, "network" | "lossOf" | "clip">): number {
  if (device !== "cpu" || accumulate > 1) return 1;
  return batchParts(batch, threads);
}

/** Opens the sessions of a training step. Every vector of the state is to be written before the first step. */
export async function openStepRunner(options: StepRunnerOptions): Promise<StepRunner> {
  const replicas = replicasFor(options);
  return replicas > 1 ? openReplicas(options, replicas) : openSingle(options);
}

function sessionOptions(
  { device, profile, fixed }: StepRunnerOptions,
  threads: number,
  resident: Record<string, string>,
) {
  // Planned memory would come on top of what the first run took: a third more at the peak, and no faster.
  return { device, profile, threads, resident, memoryPattern: false, externalData: fixed?.externalData };
}

async function openSingle(options: StepRunnerOptions): Promise<StepRunner> {
  const { network, lossOf, batch, accumulate = 1, device, threads, frozen } = options;
  const target = await trainingTarget(device);
  const graph = trainingStep(
    network,
    lossOf(batch / accumulate),
    { ...options, target, fixed: options.fixed?.bind },
    frozen,
  );
  const { layout } = graph;
  const session = await openSession(graph.model.bytes, {
    ...sessionOptions(options, threads, { ...graph.resident }),
    name: "training step",
  });
  if (accumulate > 1) await session.write("state.gradient", float32([layout.size], new Float32Array(layout.size)));
  return {
    layout,
    parts: accumulate,
    sessions: [session],
    async step(feeds, scalars) {
      const results = await Promise.all(
        feeds.map((part, i) =>
          session.run({ ...part, ...scalarFeeds(graph, { ...scalars, move: i === accumulate - 1 ? 1 : 0 }) }),
        ),
      );
      return { ...meansOf(results, graph), gradientNorm: Number(results.at(-1)!.gradientNorm!.data[0]) };
    },
    read: async (name) => (await session.read(`state.${name}`)).data as Float32Array,
    write: (name, vector) => session.write(`state.${name}`, float32([layout.size], vector)),
    close: () => session.close(),
  };
}

async function openReplicas(options: StepRunnerOptions, replicas: number): Promise<StepRunner> {
  const { network, lossOf, batch, device, threads, frozen, beta1 = 0.9, beta2 = 0.999 } = options;
  const target = await trainingTarget(device);
  const graph = replicatedStep(
    network,
    lossOf(batch / replicas),
    replicas,
    { ...options, target, fixed: options.fixed?.bind },
    frozen,
  );
  const { layout } = graph;
  const sessions = await Promise.all(
    Array.from({ length: replicas }, (_, i) =>
      openSession(graph.model.bytes, {
        ...sessionOptions(options, Math.max(1, Math.floor(threads / replicas)), { ...graph.resident }),
        name: `training step, replica ${i + 1} of ${replicas}`,
      }),
    ),
  );
  // Two sets: while a run writes its gradient into one, a replica that starts later still reads the other.
  const sets = [0, 1].map(() => Array.from({ length: replicas }, () => sharedVector(layout.size)));
  let turn = 0;
  /** The scalars by which the state is still to be moved, once it has been asked for a gradient. */
  let pending: StepScalars | undefined;
  let lastFeeds: readonly Feeds[] = [];

  const run = async (feeds: readonly Feeds[]) => {
    const scalars = pending ? { ...pending, beta1, beta2 } : STAND_STILL;
    const [from, to] = [sets[turn]!, sets[1 - turn]!];
    turn = 1 - turn;
    const gradients = Object.fromEntries(from.map((gradient, i) => [gradientName(i), gradient]));
    const results = await Promise.all(
      sessions.map((session, i) =>
        session.run(
          { ...feeds[i], ...gradients, ...scalarFeeds(graph, scalars) },
          { fetch: ["loss", "gradient", ...measuresOf(graph).map(measureName)], into: { gradient: to[i]! } },
        ),
      ),
    );
    lastFeeds = feeds;
    return results;
  };

  return {
    layout,
    parts: replicas,
    sessions,
    async step(feeds, scalars) {
      const results = await run(feeds);
      pending = scalars;
      return { ...meansOf(results, graph), gradientNorm: meanNorm(sets[turn]!) };
    },
    async read(name) {
      if (pending) {
        // Moves the state; the gradient that is computed besides is not used.
        await run(lastFeeds);
        pending = undefined;
      }
      return (await sessions[0]!.read(`state.${name}`)).data as Float32Array;
    },
    async write(name, vector) {
      await Promise.all(sessions.map((session) => session.write(`state.${name}`, float32([layout.size], vector))));
    },
    async close() {
      await Promise.all(sessions.map((session) => session.close()));
    },
  };
}

function sharedVector(size: number): HostTensor<"float32"> {
  return float32([size], new Float32Array(new SharedArrayBuffer(4 * size)));
}

/** The names of a step's measures. */
function measuresOf({ outputs }: TrainingStep): string[] {
  const prefix = measureName("");
  return Object.keys(outputs).flatMap((name) => (name.startsWith(prefix) ? [name.slice(prefix.length)] : []));
}

/** Loss and measures, each the mean over the parts of a batch. */
function meansOf(results: readonly Feeds[], graph: TrainingStep): Omit<StepResult, "gradientNorm"> {
  const mean = (name: string) => results.reduce((sum, feeds) => sum + Number(feeds[name]!.data[0]), 0) / results.length;
  const measures = measuresOf(graph).map((name) => [name, mean(measureName(name))] as const);
  return { loss: mean("loss"), measures: Object.fromEntries(measures) };
}

/** The norm of the mean of gradients. */
function meanNorm(gradients: readonly HostTensor<"float32">[]): number {
  const [first, ...others] = gradients.map(({ data }) => data) as [Float32Array, ...Float32Array[]];
  let squares = 0;
  for (let i = 0; i < first.length; i++) {
    let sum = first[i]!;
    for (const other of others) sum += other[i]!;
    squares += sum * sum;
  }
  return Math.sqrt(squares) / gradients.length;
}
