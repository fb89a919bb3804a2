import { add, concat, cos, log, mul, pad, reshape, sin, type Tensor, values } from "../graph/index.ts";
import { activation } from "./activation.ts";
import { type LayerInitial, linear } from "./layers.ts";
import { module, parameter } from "./module.ts";

/** How sinusoidal embeddings are laid out; the defaults are those of diffusers' networks. */
export interface SinusoidOptions {
  /** Cosines before sines. */
  readonly flipSinToCos?: boolean;
  /** 1 makes the last frequency exactly 1/maxPeriod; 0 ends one step above it. */
  readonly frequencyShift?: number;
  /** Factor on the angle. */
  readonly scale?: number;
  readonly maxPeriod?: number;
}

/**
 * Sines and cosines of t at frequencies maxPeriod^(−i/(half − shift)), i = 0 … half − 1 (Vaswani et al. 2017, section
 * 3.5): t [n] float32 → [n, channels]. An odd number of channels ends with a zero.
 */
export function sinusoids(
  t: Tensor,
  channels: number,
  { flipSinToCos = true, frequencyShift = 0, scale = 1, maxPeriod = 10_000 }: SinusoidOptions = {},
): Tensor {
  const half = Math.floor(channels / 2);
  const frequencies = Float32Array.from({ length: half }, (_, i) =>
    Math.exp((-Math.log(maxPeriod) * i) / (half - frequencyShift)),
  );
  const plain = mul(reshape(t, [t.shape[0]!, 1]), values([1, half], frequencies));
  const angle = scale === 1 ? plain : mul(plain, scale);
  const waves = concat(flipSinToCos ? [cos(angle), sin(angle)] : [sin(angle), cos(angle)], 1);
  return pad(waves, [
    [0, 0],
    [0, channels - 2 * half],
  ]);
}

/**
 * Two linear layers that turn a timestep's sinusoids [n, inputs] into the embedding [n, width] the blocks take. With
 * `conditionWidth` a second input [n, conditionWidth] is projected and added first (guidance-distilled networks).
 */
export function timestepEmbedding(
  inputs: number,
  width: number,
  {
    act = "silu",
    outputs = width,
    postAct,
    conditionWidth,
    bias = true,
    initial,
  }: {
    act?: string;
    outputs?: number;
    postAct?: string;
    conditionWidth?: number;
    bias?: boolean;
    initial?: LayerInitial;
  } = {},
) {
  const parts = {
    linear_1: linear(inputs, width, { bias, initial }),
    cond_proj: conditionWidth === undefined ? undefined : linear(conditionWidth, inputs, { bias: false }),
    linear_2: linear(width, outputs, { bias, initial }),
  };
  const activate = activation(act);
  const finish = postAct === undefined ? (x: Tensor) => x : activation(postAct);
  return module(parts, (x: Tensor, condition?: Tensor) => {
    const input = condition && parts.cond_proj ? add(x, parts.cond_proj(condition)) : x;
    return finish(parts.linear_2(activate(parts.linear_1(input))));
  });
}

/**
 * Sines and cosines of 2π·ln(σ)·w with fixed random frequencies w (Song et al. 2021, score-based models): σ [n] →
 * [n, 2·width]. The frequencies are stored with the weights but not trained. Without `logarithm`, of 2π·σ·w.
 */
export function gaussianFourierProjection(
  width: number,
  {
    scale = 16,
    logarithm = true,
    flipSinToCos = false,
  }: { scale?: number; logarithm?: boolean; flipSinToCos?: boolean } = {},
) {
  const weight = parameter([width], { kind: "normal", deviation: scale }, { trainable: false });
  return module({ weight }, (t: Tensor) => {
    const column = reshape(t, [t.shape[0]!, 1]);
    const angle = mul(mul(logarithm ? log(column) : column, reshape(weight.tensor, [1, width])), 2 * Math.PI);
    return concat(flipSinToCos ? [cos(angle), sin(angle)] : [sin(angle), cos(angle)], 1);
  });
}
