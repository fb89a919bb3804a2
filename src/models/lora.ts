import { invariant, UserError } from "../core/errors.ts";
import { describeShape, sizeOf } from "../core/host-tensor.ts";
import {
  add,
  cast,
  constant,
  input,
  matmul,
  mul,
  parameterLeaf,
  reshape,
  scalar,
  type Tensor,
} from "../graph/index.ts";
import { type LowRank, withLowRank } from "../nn/low-rank.ts";
import { namedParameters, type Parameter } from "../nn/module.ts";
import { type Adapter, type AdapterLayer, indented } from "./adapter.ts";
import { originalUNetNames } from "./original-names.ts";
import type { Bind, Weighted } from "./weights.ts";

/** An adapter and how strongly it acts: 1 as trained, 0 not at all. */
export interface AdapterUse {
  readonly adapter: Adapter;
  readonly scale: number;
}

/** Adapters matched with a pipeline's networks. Networks may be built again with the same configuration. */
export interface Lora {
  /** How many layers of a component (`unet`, `text_encoder` …) are changed. */
  count(part: string): number;
  /**
   * Fused: bindings that give each weight as W + scale·alpha/rank·up·down. ONNX Runtime computes these sums once, while it
   * loads; runs cost nothing more. Other scales need the session to be loaded again.
   */
  fuse(part: string, network: Weighted, bind: Bind): Bind;
  /**
   * Switchable: in the graph that `build` makes of the network, the layers compute W·x + scale·alpha/rank·up·(down·x), with
   * W left as it is in its file. The scales are inputs, `lora.<adapter's name>` with shape [], to be fed at every run
   * (see {@link Lora.scales}); 0 switches an adapter off.
   * @param options.partly `build` may leave layers out, and with them inputs whose adapter changes no other
   */
  branch<T>(part: string, network: Weighted, build: () => T, options?: { readonly partly?: boolean }): T;
  /** The names of the scale inputs that a switchable network of a component has, with the scales given. */
  scales(part: string): Readonly<Record<string, number>>;
}

interface Update {
  readonly use: AdapterUse;
  readonly layer: AdapterLayer;
}

/**
 * Matches LoRA adapters with networks.
 *
 * @param networks by the names that pipelines give them: `unet`, `transformer`, `text_encoder`, `text_encoder_2` …
 * @throws UserError that lists the layers that are in none of the networks, and those of another shape
 */
export function lora(networks: Readonly<Record<string, Weighted>>, uses: readonly AdapterUse[]): Lora {
  const names = uses.map(({ adapter }) => adapter.name);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new UserError(`Two adapters are called ${twice}.`, { field: "lora" });
  const updates = new Map<string, Map<string, Update[]>>();
  const places = Object.entries(networks).map(([part, network]) => layersOf(part, network));
  for (const use of uses) place(use, places, updates);
  const of = (part: string) => updates.get(part) ?? new Map<string, Update[]>();

  return {
    count: (part) => of(part).size,

    fuse(part, network, bind) {
      const sums = new Map<Tensor, Tensor>();
      // The leaves that stand for the weights as they are stored, and the parameters they are of.
      const bases = new Map<Tensor, Tensor>();
      for (const [name, parameter] of parametersFor(of(part), network)) {
        const base = parameterLeaf(parameter.shape);
        const binding = bind(parameter.tensor);
        invariant(binding, `the weight ${name} has no binding`);
        const sum = of(part)
          .get(name)!
          .reduce<Tensor>((total, update) => {
            const { down, up } = matrices(update.layer);
            const product = mul(matmul(rows(up), rows(down)), mul(factor(update.layer), update.use.scale));
            return add(total, reshape(product, parameter.shape));
          }, base);
        sums.set(parameter.tensor, sum);
        bases.set(base, parameter.tensor);
      }
      return (leaf) => {
        const own = bases.get(leaf);
        if (own) return bind(own);
        const sum = sums.get(leaf);
        return sum ? { kind: "tensor", tensor: sum } : bind(leaf);
      };
    },

    branch(part, network, build, options) {
      const branches = new Map<Tensor, LowRank[]>();
      for (const [name, parameter] of parametersFor(of(part), network)) {
        const added = of(part)
          .get(name)!
          .map(({ use, layer }): LowRank => {
            const { down, up } = matrices(layer);
            const scale = mul(input(scaleInput(use.adapter), []), factor(layer));
            if (parameter.shape.length === 2) return { down: rows(down), up: rows(up), scale };
            const rank = layer.down.shape[0]!;
            const kernel = parameter.shape.slice(1);
            return {
              down: reshape(down, [rank, ...kernel]),
              up: reshape(up, [parameter.shape[0]!, rank, 1, 1]),
              scale,
            };
          });
        branches.set(parameter.tensor, added);
      }
      return withLowRank(branches, build, options);
    },

    scales(part) {
      const used = new Set([...of(part).values()].flat().map(({ use }) => use));
      return Object.fromEntries([...used].map(({ adapter, scale }) => [scaleInput(adapter), scale]));
    },
  };
}

const scaleInput = ({ name }: Adapter) => `lora.${name}`;

/** A component's layers that a LoRA can change, by every name they go by. */
interface Place {
  readonly part: string;
  readonly parameters: ReadonlyMap<string, Parameter>;
  find(layer: AdapterLayer): string | undefined;
}

function layersOf(part: string, network: Weighted): Place {
  const parameters = namedParameters(network);
  const joined = new Map<string, string>();
  // For XL, kohya's trainer takes the names of the original checkpoints.
  const originals = originalUNetNames(parameters.keys());
  for (const [name, { shape }] of parameters) {
    if (!name.endsWith(".weight") || shape.length < 2) continue;
    for (const known of [originals.get(name), name]) {
      if (known) joined.set(known.slice(0, -".weight".length).replaceAll(".", "_"), name);
    }
  }
  return {
    part,
    parameters,
    find({ path, joined: underscored }) {
      if (underscored) return joined.get(path);
      // An attention processor's name for the text encoder's own layer.
      const renamed = path
        .replace(/\.self_attn\.to_([qkv])$/, ".self_attn.$1_proj")
        .replace(/\.self_attn\.to_out\.0$/, ".self_attn.out_proj");
      return [path, renamed]
        .flatMap((name) => [`${name}.weight`, network.storedName?.(`${name}.weight`)])
        .find((name): name is string => typeof name === "string" && (parameters.get(name)?.shape.length ?? 0) >= 2);
    },
  };
}

/** Finds the weight of each of an adapter's layers. */
function place(use: AdapterUse, places: readonly Place[], updates: Map<string, Map<string, Update[]>>): void {
  const { adapter } = use;
  const nowhere: string[] = [];
  const wrong: string[] = [];
  const taken = new Set<string>();
  for (const layer of adapter.layers) {
    const candidates = places.filter(({ part }) => layer.part === undefined || layer.part === part);
    const found = candidates.flatMap(({ part, parameters, find }) => {
      const name = find(layer);
      return name === undefined ? [] : [{ part, name, shape: parameters.get(name)!.shape }];
    })[0];
    if (!found) {
      nowhere.push(layer.key);
      continue;
    }
    const { part, name, shape } = found;
    const rank = layer.down.shape[0] ?? 0;
    const outputs = shape[0]!;
    const inputs = sizeOf(shape) / outputs;
    if (rank === 0 || sizeOf(layer.down.shape) !== rank * inputs || sizeOf(layer.up.shape) !== outputs * rank) {
      wrong.push(
        `${layer.key}: ${describeShape(layer.up.shape)} · ${describeShape(layer.down.shape)} for a weight ${describeShape(shape)}`,
      );
      continue;
    }
    const id = `${part}/${name}`;
    if (taken.has(id)) throw new UserError(`${adapter.name} changes ${part}.${name} twice.`, { field: "lora" });
    taken.add(id);
    const ofPart = updates.get(part) ?? new Map<string, Update[]>();
    updates.set(part, ofPart.set(name, [...(ofPart.get(name) ?? []), { use, layer }]));
  }
  if (nowhere.length + wrong.length === 0) return;
  const parts = places.map(({ part }) => part).join(", ");
  const problems = [
    ...(nowhere.length > 0 ? [`${nowhere.length} of its layers are in none of ${parts}:\n${indented(nowhere)}`] : []),
    ...(wrong.length > 0 ? [`${wrong.length} of its layers are of another shape:\n${indented(wrong)}`] : []),
  ];
  throw new UserError(`The adapter ${adapter.name} does not fit this model.\n${problems.join("\n")}`, {
    hint: "It was made for another model: Stable Diffusion 1.x, 2.x and XL each need their own.",
    field: "lora",
  });
}

function* parametersFor(
  updates: ReadonlyMap<string, readonly Update[]>,
  network: Weighted,
): Generator<readonly [string, Parameter]> {
  if (updates.size === 0) return;
  const parameters = namedParameters(network);
  for (const name of updates.keys()) {
    const parameter = parameters.get(name);
    invariant(parameter, `the network has no weight ${name}`);
    yield [name, parameter];
  }
}

function matrices({ down, up }: AdapterLayer): { readonly down: Tensor; readonly up: Tensor } {
  return { down: cast(constant(down), "float32"), up: cast(constant(up), "float32") };
}

/** A convolution's weights as a matrix: one row per output. */
function rows(weights: Tensor): Tensor {
  const [outputs, ...rest] = weights.shape as [number, ...number[]];
  return reshape(weights, [outputs, sizeOf(rest)]);
}

/** alpha / rank as a scalar. */
function factor({ alpha, down }: AdapterLayer): Tensor {
  const rank = down.shape[0]!;
  if (alpha === undefined) return scalar(1);
  if (typeof alpha === "number") return scalar(alpha / rank);
  return mul(reshape(cast(constant(alpha), "float32"), []), 1 / rank);
}
