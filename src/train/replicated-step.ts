import type { HostTensor } from "../core/host-tensor.ts";
import { add, input, mul, type Tensor, toOnnx } from "../graph/index.ts";
import { namedParameters, type PartGroup } from "../nn/module.ts";
import { adamw, clipByNorm, flatLayout, towards } from "../optim/index.ts";
import {
  bindParameters,
  firstOf,
  lossOutputs,
  residentOf,
  SCALARS,
  type StepOptions,
  type TrainingStep,
} from "./step.ts";
import type { StepLoss } from "./task.ts";

/** What a replicated step reads besides `SCALARS`: AdamW's decays, so that a run can also leave the state as it is. */
export const DECAYS = ["beta1", "beta2"] as const;

/** Scalars with which a run changes nothing of the state: m·1 + g·0, θ − 0. */
export const STAND_STILL = { rate: 0, correction: 1, correctedRate: 0, averaging: 0, beta1: 1, beta2: 1 } as const;

/** The name of the gradient that replica `i` handed out. */
export function gradientName(i: number): string {
  return `gradient.${i}`;
}

/**
 * The training step for data parallelism: each of `replicas` sessions computes the gradient of its share of the batch, and
 * all of them move the same state by the mean of all gradients, so that the states stay equal without being sent around.
 *
 * One run does the second half of a step and the first half of the next: it moves the state by the gradients it is fed
 * (`gradient.0`, `gradient.1`, …, of the step before), then computes `loss` and `gradient` at the moved parameters.
 */
export function replicatedStep(
  network: PartGroup,
  loss: Tensor | StepLoss,
  replicas: number,
  { clip, target, epsilon, weightDecay, fixed, averaged }: StepOptions,
  frozenValues: ReadonlyMap<string, HostTensor> = new Map(),
): TrainingStep {
  const trainable = [...namedParameters(network)].filter(([, parameter]) => parameter.trainable);
  const layout = flatLayout(trainable);
  const vector = (name: string) => input(name, [layout.size]);
  const scalars = Object.fromEntries([...SCALARS, ...DECAYS].map((name) => [name, input(name, [])])) as Record<
    (typeof SCALARS)[number] | (typeof DECAYS)[number],
    Tensor
  >;
  const handedOut = Array.from({ length: replicas }, (_, i) => vector(gradientName(i)));
  const { outputs: ofLoss, gradient, networks, bind } = lossOutputs(loss, trainable);
  const { clipped, norm } = clipByNorm(mul(handedOut.reduce(add), 1 / replicas), clip, networks);
  const state = { parameters: vector("state.parameters"), mean: vector("state.mean"), square: vector("state.square") };
  const { beta1, beta2 } = scalars;
  const next = adamw(state, clipped, scalars, { beta1, beta2, epsilon, weightDecay });
  const outputs = {
    ...ofLoss,
    gradient,
    /** Of the gradients that the run was fed. */
    gradientNorm: norm,
    "next.parameters": next.parameters,
    "next.mean": next.mean,
    "next.square": next.square,
    "next.average": towards(vector("state.average"), next.parameters, scalars.averaging),
  };
  const others = averaged ? bindParameters(averaged, outputs["next.average"], layout, new Map(), fixed) : fixed;
  return {
    model: toOnnx(outputs, {
      bind: firstOf(bindParameters(network, next.parameters, layout, frozenValues, others), bind),
      target,
    }),
    layout,
    outputs,
    resident: residentOf(outputs),
  };
}
