import { invariant, UserError } from "../core/errors.ts";
import {
  type DType,
  describeShape,
  float32,
  type HostTensor,
  type Shape,
  sameShape,
  sizeOf,
} from "../core/host-tensor.ts";
import type { Random } from "../core/random.ts";
import { type Binding, parameterLeaf, type Tensor, transpose } from "../graph/index.ts";
import { namedParameters, type Parameter, type PartGroup } from "../nn/module.ts";

/** One weight of a checkpoint: where its bytes lie in a file, or its numbers. */
export type StoredWeight = {
  readonly dtype: DType;
  readonly shape: Shape;
  /** The bytes are those of the transposed matrix: of shape [columns, rows]. */
  readonly transposed?: boolean;
} & (
  | {
      /** The file's path as ONNX Runtime is to find it, relative to the session's folder of external data. */
      readonly file: string;
      /** In bytes from the start of the file. */
      readonly offset: number;
      readonly length: number;
    }
  | { readonly data: HostTensor["data"] }
);

/** A checkpoint: weights by name. A map is one. */
export interface WeightSource {
  keys(): Iterable<string>;
  get(name: string): StoredWeight | undefined;
}

/** Whatever is called with its weights' names: a network, or a part of one. */
export interface Weighted extends PartGroup {
  /**
   * What a name in checkpoints stands for where it is not a parameter's own: the parameter's name, or null for
   * something that the network does not need (a table of positions, a second copy of shared weights).
   */
  readonly storedName?: (name: string) => string | null | undefined;
}

/** Finds the value of a parameter for `toOnnx`. */
export type Bind = (leaf: Tensor) => Binding | undefined;

const FLOATS: readonly DType[] = ["float32", "float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2"];

/** How an error speaks of weights that do not fit. */
export interface MatchOptions {
  /** What to call the checkpoint. */
  readonly what?: string;
  readonly hint?: string;
}

/**
 * Matches a checkpoint with a network's parameters, in both directions.
 *
 * @returns the bindings for `toOnnx`: the weights stay in their file or array, and are converted to the graph's type
 *   inside the graph
 * @throws UserError that lists all weights that are missing, not expected, of another shape or not numbers
 */
export function bindWeights(network: Weighted, weights: WeightSource, options: MatchOptions = {}): Bind {
  const matched = matchWeights(network, weights, options);
  const byLeaf = new Map<Tensor, Binding>();
  for (const [name, { parameter, stored }] of matched) {
    if (stored.transposed) {
      // Turned in the graph, once: ONNX Runtime folds what depends on constants alone.
      const [rows, columns] = parameter.shape as [number, number];
      const leaf = parameterLeaf([columns, rows]);
      byLeaf.set(leaf, binding(name, leaf, stored));
      byLeaf.set(parameter.tensor, { kind: "tensor", tensor: transpose(leaf, [1, 0]) });
    } else byLeaf.set(parameter.tensor, binding(name, parameter, stored));
  }
  return (leaf) => byLeaf.get(leaf);
}

/** The weight of each parameter, by the parameter's name, in the order of definition. Throws as {@link bindWeights}. */
export function matchWeights(
  network: Weighted,
  weights: WeightSource,
  { what = "The checkpoint", hint = "Weights and config.json must be of the same network." }: MatchOptions = {},
): Map<string, { readonly parameter: Parameter; readonly stored: StoredWeight; readonly storedName: string }> {
  const parameters = namedParameters(network);
  const names = new Map<string, string>();
  const unexpected: string[] = [];
  for (const stored of weights.keys()) {
    const name = parameterName(stored, parameters, network.storedName);
    if (name === undefined) unexpected.push(stored);
    // The parameter's own name wins over an old one for it.
    else if (name !== null && (name === stored || !names.has(name))) names.set(name, stored);
  }
  const missing: string[] = [];
  const wrong: string[] = [];
  const found = new Map<string, { parameter: Parameter; stored: StoredWeight; storedName: string }>();
  for (const [name, parameter] of parameters) {
    const storedName = names.get(name);
    const stored = storedName === undefined ? undefined : weights.get(storedName);
    if (storedName === undefined || stored === undefined) missing.push(`${name} ${describeShape(parameter.shape)}`);
    else if (!sameShape(trimmed(stored.shape), trimmed(parameter.shape))) {
      wrong.push(`${storedName}: ${describeShape(stored.shape)} instead of ${describeShape(parameter.shape)}`);
    } else if (!FLOATS.includes(stored.dtype)) wrong.push(`${storedName}: ${stored.dtype} numbers instead of floats`);
    else found.set(name, { parameter, stored, storedName });
  }
  const problems = [
    ["missing", missing],
    ["not expected", unexpected],
    ["of another shape or type", wrong],
  ] as const;
  const present = problems.filter(([, list]) => list.length > 0);
  if (present.length === 0) return found;
  const lists = present.map(([title, list]) => `${list.length} ${title}:\n${list.map((n) => `  ${n}`).join("\n")}`);
  throw new UserError(`${what} does not fit the network.\n${lists.join("\n")}`, { hint });
}

/**
 * The numbers that a network starts training with, by parameter name: each layer's own distribution, drawn in the order
 * of definition.
 */
export function initialize(network: PartGroup, random: Random): Map<string, HostTensor<"float32">> {
  const values = new Map<string, HostTensor<"float32">>();
  for (const [name, { shape, initial }] of namedParameters(network)) {
    switch (initial.kind) {
      case "constant":
        values.set(name, float32(shape, new Float32Array(sizeOf(shape)).fill(initial.value)));
        break;
      case "uniform":
        values.set(name, random.uniform(shape, { low: -initial.bound, high: initial.bound }));
        break;
      case "normal":
        values.set(name, random.normal(shape, { std: initial.deviation }));
        break;
      case "values":
        values.set(name, float32(shape, initial.values()));
        break;
    }
  }
  return values;
}

/** Names that older versions of diffusers gave to the layers of attention over pixels. */
const LEGACY: Readonly<Record<string, string>> = {
  query: "to_q",
  key: "to_k",
  value: "to_v",
  proj_attn: "to_out.0",
};

function parameterName(
  stored: string,
  parameters: ReadonlyMap<string, Parameter>,
  translate: Weighted["storedName"],
): string | null | undefined {
  if (parameters.has(stored)) return stored;
  const translated = translate?.(stored);
  if (translated === null || (translated !== undefined && parameters.has(translated))) return translated;
  const current = stored.replace(
    /\.(query|key|value|proj_attn)\.(weight|bias)$/,
    (_, layer: string, kind: string) => `.${LEGACY[layer]}.${kind}`,
  );
  return parameters.has(current) ? current : undefined;
}

/** A shape without trailing ones: linear layers are sometimes stored as 1×1 convolutions, and the other way round. */
function trimmed(shape: Shape): Shape {
  return shape.slice(0, shape.findLastIndex((axis) => axis !== 1) + 1);
}

function binding(name: string, { shape }: { readonly shape: Shape }, stored: StoredWeight): Binding {
  if ("data" in stored) {
    return { kind: "data", name, tensor: { dtype: stored.dtype, shape, data: stored.data } };
  }
  const { file, offset, length, dtype } = stored;
  invariant(length > 0, `the weight ${name} is empty`);
  return { kind: "external", name, file, offset, length, dtype };
}
