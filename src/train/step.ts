import { invariant } from "../core/errors.ts";
import { float32, type HostTensor, sizeOf } from "../core/host-tensor.ts";
import {
  add,
  type Binding,
  cast,
  gradients,
  input,
  mul,
  type OnnxModel,
  sub,
  type Target,
  type Tensor,
  toOnnx,
} from "../graph/index.ts";
import type { Bind } from "../models/index.ts";
import { namedParameters, type Parameter, type PartGroup } from "../nn/module.ts";
import {
  type AdamWOptions,
  adamw,
  clipByNorm,
  type FlatLayout,
  flatLayout,
  flatten,
  towards,
  unflatten,
} from "../optim/index.ts";
import type { StepLoss } from "./task.ts";

export interface StepOptions extends AdamWOptions {
  /** Largest norm of the gradient. */
  readonly clip: number;
  /** Gradients of so many runs are averaged before the optimizer moves; 1 moves at every run. */
  readonly accumulate?: number;
  readonly target?: Target;
  /** Where weights lie that the network does not hold and the loss uses; see `FixedWeights`. */
  readonly fixed?: (leaf: Tensor) => Binding | undefined;
  /** Another network of the same parameters, which has their moving average; see `TrainingTask`. */
  readonly averaged?: PartGroup;
}

/** A whole training step as one ONNX graph: (state, batch) → (state′, metrics). */
export interface TrainingStep {
  readonly model: OnnxModel;
  /** How the trainable parameters lie in each of the state's vectors. */
  readonly layout: FlatLayout;
  /** The same results as tensors, for what reads the graph instead of running it. */
  readonly outputs: Readonly<Record<string, Tensor>>;
  /** Names of the state's vectors and, for the session, which output is the next value of which. */
  readonly resident: Readonly<Record<string, string>>;
}

/** The vectors of the state: parameters, AdamW's moments, the moving average, and gradients summed up so far. */
export const STATE = ["parameters", "mean", "square", "average"] as const;
export type StateName = (typeof STATE)[number];

/** What a run of the step graph is fed besides the batch: scalars of shape []. See `adamwScalars` and `emaDecay`. */
export const SCALARS = ["rate", "correction", "correctedRate", "averaging"] as const;

/**
 * Scalars as feeds: those that the step's graph reads. Without weight decay it has no use for the bare learning rate.
 */
export function scalarFeeds(
  { model }: TrainingStep,
  numbers: Readonly<Record<string, number>>,
): Record<string, HostTensor<"float32">> {
  const read = Object.entries(numbers).filter(([name]) => Object.hasOwn(model.inputs, name));
  return Object.fromEntries(read.map(([name, value]) => [name, float32([], [value])]));
}

/** The name of the output that holds a measure of the loss. */
export const measureName = (name: string) => `measure.${name}`;

/**
 * A loss with its measures as a graph's outputs, the gradients of `trainable` as one vector with the lengths of the parts
 * that are clipped apart, and the loss's own bindings.
 */
export function lossOutputs(given: Tensor | StepLoss, trainable: readonly (readonly [string, Parameter])[]) {
  const { loss, measures = {}, gradients: own, networkOf, bind }: StepLoss = "loss" in given ? given : { loss: given };
  const leaves = new Map(trainable.map(([name, { tensor }]) => [name, tensor] as const));
  const each = own ? own(leaves) : gradients(loss, [...leaves.values()]);
  return {
    outputs: {
      loss,
      ...Object.fromEntries(Object.entries(measures).map(([name, tensor]) => [measureName(name), tensor])),
    } as Record<string, Tensor>,
    gradient: flatten(each),
    networks: networkOf ? networkSizes(trainable, networkOf) : [],
    bind,
  };
}

/** How many numbers the parameters of each network have. */
function networkSizes(
  parameters: readonly (readonly [string, Parameter])[],
  networkOf: (parameter: string) => string,
): number[] {
  const sizes = new Map<string, number>();
  let last: string | undefined;
  for (const [name, { shape }] of parameters) {
    const network = networkOf(name);
    invariant(network === last || !sizes.has(network), `the parameters of ${network} do not follow each other`);
    sizes.set(network, (sizes.get(network) ?? 0) + sizeOf(shape));
    last = network;
  }
  return [...sizes.values()];
}

/**
 * Builds the training step of `network` for a loss: forward pass, all gradients, clipping, AdamW and the moving average.
 * Outputs `loss`, `gradientNorm` and a `measure.…` for each of the loss's measures besides the state.
 *
 * With `accumulate` > 1 the gradient is summed up in the state, and the input `move` says whether this run is the last
 * of its batch (1: the optimizer moves and the sum starts again) or not (0).
 */
export function trainingStep(
  network: PartGroup,
  loss: Tensor | StepLoss,
  { clip, accumulate = 1, target, fixed, averaged, ...optimizer }: StepOptions,
  frozenValues: ReadonlyMap<string, HostTensor> = new Map(),
): TrainingStep {
  const trainable = [...namedParameters(network)].filter(([, parameter]) => parameter.trainable);
  const layout = flatLayout(trainable);
  const vector = (name: string) => input(`state.${name}`, [layout.size]);
  const state = { parameters: vector("parameters"), mean: vector("mean"), square: vector("square") };
  const average = vector("average");
  const scalars = Object.fromEntries(SCALARS.map((name) => [name, input(name, [])])) as Record<
    (typeof SCALARS)[number],
    Tensor
  >;

  const { outputs, gradient: fresh, networks, bind } = lossOutputs(loss, trainable);
  let next: typeof state;
  let nextAverage: Tensor;
  if (accumulate === 1) {
    const { clipped, norm } = clipByNorm(fresh, clip, networks);
    outputs.gradientNorm = norm;
    next = adamw(state, clipped, scalars, optimizer);
    nextAverage = towards(average, next.parameters, scalars.averaging);
  } else {
    const sum = vector("gradient");
    const move = input("move", []);
    const total = add(sum, mul(fresh, 1 / accumulate));
    const { clipped, norm } = clipByNorm(total, clip, networks);
    outputs.gradientNorm = norm;
    const moved = adamw(state, clipped, scalars, optimizer);
    next = {
      parameters: towards(state.parameters, moved.parameters, move),
      mean: towards(state.mean, moved.mean, move),
      square: towards(state.square, moved.square, move),
    };
    nextAverage = towards(average, next.parameters, mul(scalars.averaging, move));
    outputs["next.gradient"] = mul(total, sub(1, move));
  }
  Object.assign(outputs, {
    "next.parameters": next.parameters,
    "next.mean": next.mean,
    "next.square": next.square,
    "next.average": nextAverage,
  });

  const others = averaged ? bindParameters(averaged, average, layout, new Map(), fixed) : fixed;
  return {
    model: toOnnx(outputs, {
      bind: firstOf(bindParameters(network, state.parameters, layout, frozenValues, others), bind),
      target,
    }),
    layout,
    outputs,
    resident: residentOf(outputs),
  };
}

/** Which `next.x` is the next value of which `state.x`. */
export function residentOf(outputs: Readonly<Record<string, Tensor>>): Record<string, string> {
  const next = Object.keys(outputs).filter((name) => name.startsWith("next."));
  return Object.fromEntries(next.map((name) => [name.replace("next.", "state."), name]));
}

/** Binds trainable parameters to views of one vector, the others to their values, and what is not the network's as `fixed` says. */
export function bindParameters(
  network: PartGroup,
  vector: Tensor,
  layout: FlatLayout,
  frozenValues: ReadonlyMap<string, HostTensor>,
  fixed?: Bind,
): Bind {
  const views = unflatten(vector, layout);
  const byName = new Map(layout.entries.map(({ name }, i) => [name, views[i]!]));
  const bindings = new Map<Tensor, Binding>();
  for (const [name, parameter] of namedParameters(network)) {
    const view = byName.get(name);
    const frozen = frozenValues.get(name);
    if (view) bindings.set(parameter.tensor, { kind: "tensor", tensor: view });
    else if (frozen) bindings.set(parameter.tensor, { kind: "data", tensor: frozen });
  }
  return (leaf) => bindings.get(leaf) ?? fixed?.(leaf);
}

/** The binding of a leaf by the first that knows one. */
export function firstOf(...binds: readonly (Bind | undefined)[]): Bind {
  return (leaf) => {
    for (const bind of binds) {
      const found = bind?.(leaf);
      if (found) return found;
    }
    return undefined;
  };
}

/**
 * The network's output with parameters read from a vector that the session keeps: for samples during training. A single
 * tensor is called `output` and becomes float32.
 */
export function evaluationGraph(
  network: PartGroup,
  output: Tensor | Readonly<Record<string, Tensor>>,
  layout: FlatLayout,
  target: Target | undefined,
  frozenValues: ReadonlyMap<string, HostTensor> = new Map(),
  fixed?: Bind,
): OnnxModel {
  const bind = bindParameters(network, input("parameters", [layout.size]), layout, frozenValues, fixed);
  const outputs = isTensor(output) ? { output: cast(output, "float32") } : output;
  return toOnnx(outputs, { bind, target });
}

function isTensor(output: Tensor | Readonly<Record<string, Tensor>>): output is Tensor {
  return "node" in output && "dtype" in output;
}
