import type { NodeProto, TensorProto } from "onnx-buf";
import { bytesPerElement, sizeOf } from "../core/host-tensor.ts";
import { modelBytes } from "./onnx-protobuf.ts";
import type { TensorType } from "./tensor.ts";

/** A model of values that need not be computed at every run of the one that takes them. */
export interface AheadModel {
  readonly bytes: Uint8Array;
  /** The inputs that are fed, by the names that the whole graph knows them by; without any it is run once. */
  readonly inputs: Readonly<Record<string, TensorType>>;
  /** What it computes, for inputs of the same names in the models after it. */
  readonly outputs: Readonly<Record<string, TensorType>>;
}

/** A graph as it is written into a model; nodes stand after those whose results they take. */
export interface WrittenGraph {
  readonly nodes: readonly NodeProto[];
  readonly initializers: readonly TensorProto[];
  readonly inputs: ReadonlyMap<string, TensorType>;
  readonly outputs: ReadonlyMap<string, TensorType>;
}

/** When a value is known: with the weights, with the steady inputs, at each run. */
const ONCE = 0;
const STEADY = 1;
const EVERY_RUN = 2;

/** A model that is run once holds about so many bytes of results: while it runs, the weights it converts are there twice. */
const CHUNK_BYTES = 256e6;

/**
 * Cuts a graph by how often its values change: models that are run once, one that is run when a steady input changes, and
 * the rest.
 *
 * @param options.types types of values, where they are known; others cannot be handed from model to model
 * @param options.weights initializers that hold weights: what depends on other constants alone stays where it is
 * @param options.steady inputs that often stay the same
 * @param options.once whether values of weights get models of their own
 */
export function stages(
  graph: WrittenGraph,
  options: {
    readonly types: ReadonlyMap<string, TensorType>;
    readonly weights: ReadonlySet<string>;
    readonly steady: ReadonlySet<string>;
    readonly once: boolean;
  },
): { readonly main: WrittenGraph; readonly ahead: readonly AheadModel[] } {
  const { types, steady, once } = options;
  if (!once && steady.size === 0) return { main: graph, ahead: [] };
  const initializers = new Map(graph.initializers.map((initializer) => [initializer.name, initializer]));
  const producers = new Map(graph.nodes.flatMap((node) => node.output.map((value) => [value, node])));
  const known = new Map<string, number>();
  const ofWeights = new Set(options.weights);
  for (const name of initializers.keys()) known.set(name, ONCE);
  for (const name of graph.inputs.keys()) known.set(name, steady.has(name) ? STEADY : EVERY_RUN);
  for (const node of graph.nodes) {
    const inputs = node.input.filter((value) => value !== "");
    const latest = inputs.reduce((last, value) => Math.max(last, known.get(value)!), ONCE);
    for (const value of node.output) {
      known.set(value, latest);
      if (latest === ONCE && inputs.some((input) => ofWeights.has(input))) ofWeights.add(value);
    }
  }
  const cuts = [new Set<string>(), new Set<string>()] as const;

  const isCut = (value: string, stage: number) => {
    const when = known.get(value)!;
    const type = types.get(value);
    // The runtime hands no bfloat16 from model to model.
    if (when >= stage || !type || type.dtype === "bfloat16") return false;
    return when === STEADY || (once && ofWeights.has(value));
  };

  /** The part of the graph that computes `roots`, with values of earlier stages as inputs. */
  const part = (roots: Iterable<string>, stage: number) => {
    const nodes = new Set<NodeProto>();
    const taken = new Map<string, TensorProto>();
    const inputs = new Map<string, TensorType>();
    const pending = [...roots].map((value) => producers.get(value)!);
    for (let node = pending.pop(); node; node = pending.pop()) {
      if (nodes.has(node)) continue;
      nodes.add(node);
      for (const value of node.input) {
        if (value === "") continue;
        const initializer = initializers.get(value);
        const given = graph.inputs.get(value);
        if (initializer) taken.set(value, initializer);
        else if (given) inputs.set(value, given);
        else if (isCut(value, stage)) {
          cuts[known.get(value) as 0 | 1].add(value);
          inputs.set(value, types.get(value)!);
        } else pending.push(producers.get(value)!);
      }
    }
    return {
      nodes: graph.nodes.filter((node) => nodes.has(node)),
      initializers: graph.initializers.filter(({ name }) => taken.has(name)),
      inputs,
    };
  };
  const aheadModel = (values: readonly string[], stage: number): AheadModel => {
    const outputs = new Map(values.map((value) => [value, types.get(value)!]));
    const computed = part(values, stage);
    // Types alone: a graph's inputs are tensors, which hold on to everything they were made of.
    const fed = [...computed.inputs]
      .filter(([name]) => graph.inputs.has(name))
      .map(([name, { dtype, shape }]) => [name, { dtype, shape }] as const);
    return {
      bytes: modelBytes({ ...computed, outputs }),
      inputs: Object.fromEntries(fed),
      outputs: Object.fromEntries(outputs),
    };
  };

  const main = { ...part(graph.outputs.keys(), EVERY_RUN), outputs: graph.outputs };
  const whenSteady = cuts[STEADY].size > 0 ? [aheadModel([...cuts[STEADY]], STEADY)] : [];
  const ofChunks = chunks([...cuts[ONCE]], types).map((values) => aheadModel(values, ONCE));
  return { main, ahead: [...ofChunks, ...whenSteady] };
}

function chunks(values: readonly string[], types: ReadonlyMap<string, TensorType>): string[][] {
  const result: string[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const value of values) {
    const { dtype, shape } = types.get(value)!;
    const size = sizeOf(shape) * bytesPerElement(dtype);
    if (bytes + size > CHUNK_BYTES) {
      result.push([]);
      bytes = 0;
    }
    result.at(-1)!.push(value);
    bytes += size;
  }
  return result;
}
