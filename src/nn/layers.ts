import {
  add,
  type ConvOptions,
  conv2d as convolve,
  gather,
  matmul,
  mul,
  groupNorm as normalizeGroups,
  layerNorm as normalizeLayer,
  rmsNorm as normalizeRms,
  type Tensor,
} from "../graph/index.ts";
import { circularlyPadded } from "./circular-padding.ts";
import { lowRankOf } from "./low-rank.ts";
import { type Initializer, module, parameter } from "./module.ts";

/** torch's default for linear and convolution weights and biases: uniform within ±1/√fan_in. */
const fanIn = (n: number) => ({ kind: "uniform", bound: 1 / Math.sqrt(n) }) as const;
const constant = (value: number) => ({ kind: "constant", value }) as const;

/**
 * How a layer's weights and biases start: torch's default; all zero for layers that are to do nothing at first; or, as a
 * number, normal weights of that deviation and zero biases.
 */
export type LayerInitial = "default" | "zero" | number;

function start(initial: LayerInitial, fan: number, { bias = false } = {}): Initializer {
  if (initial === "default") return fanIn(fan);
  return initial === "zero" || bias ? constant(0) : { kind: "normal", deviation: initial };
}

/** y = x·Wᵀ + b over the last axis: [..., inputs] → [..., outputs]. Weight [outputs, inputs] as in torch. */
export function linear(
  inputs: number,
  outputs: number,
  { bias = true, initial = "default" }: { bias?: boolean; initial?: LayerInitial } = {},
) {
  const weight = parameter([outputs, inputs], start(initial, inputs));
  const shift = bias ? parameter([outputs], start(initial, inputs, { bias: true })) : undefined;
  return module({ weight, bias: shift }, (x: Tensor) => {
    const y = matmul(x, weight.tensor, { transB: true });
    return lowRankOf(weight.tensor).reduce(
      (sum, { down, up, scale }) =>
        add(sum, matmul(mul(matmul(x, down, { transB: true }), scale), up, { transB: true })),
      shift ? add(y, shift.tensor) : y,
    );
  });
}

/** Convolution of [n, inputs, h, w]; weight [outputs, inputs/groups, kernel, kernel]. */
export function conv2d(
  inputs: number,
  outputs: number,
  {
    kernel = 3,
    bias = true,
    groups = 1,
    initial = "default",
    ...options
  }: ConvOptions & { kernel?: number; bias?: boolean; initial?: LayerInitial } = {},
) {
  const fan = (inputs / groups) * kernel * kernel;
  const weight = parameter([outputs, inputs / groups, kernel, kernel], start(initial, fan));
  const shift = bias ? parameter([outputs], start(initial, fan, { bias: true })) : undefined;
  return module({ weight, bias: shift }, (image: Tensor) => {
    const { x, padding } = circularlyPadded(image, options);
    const walk = { ...options, padding };
    return lowRankOf(weight.tensor).reduce(
      (sum, { down, up, scale }) => add(sum, convolve(mul(convolve(x, down, undefined, walk), scale), up)),
      convolve(x, weight.tensor, shift?.tensor, { groups, ...walk }),
    );
  });
}

/** Group normalization with a scale and a shift for each channel of [n, channels, …]. */
export function groupNorm(groups: number, channels: number, { epsilon = 1e-5 } = {}) {
  const weight = parameter([channels], constant(1));
  const bias = parameter([channels], constant(0));
  return module({ weight, bias }, (x: Tensor) => normalizeGroups(x, weight.tensor, bias.tensor, groups, epsilon));
}

/** Root-mean-square normalization over the last axis with a scale. */
export function rmsNorm(width: number, { epsilon = 1e-6 } = {}) {
  const weight = parameter([width], constant(1));
  return module({ weight }, (x: Tensor) => normalizeRms(x, weight.tensor, epsilon));
}

/** Layer normalization over the last axis; without `affine` it has no parameters. */
export function layerNorm(width: number, { epsilon = 1e-5, affine = true, bias = true } = {}) {
  const weight = affine ? parameter([width], constant(1)) : undefined;
  const shift = affine && bias ? parameter([width], constant(0)) : undefined;
  return module({ weight, bias: shift }, (x: Tensor) => normalizeLayer(x, weight?.tensor, shift?.tensor, epsilon));
}

/** A table of `count` rows of `width` numbers, looked up by int64 indices of any shape: [..., width]. */
export function embedding(count: number, width: number, { deviation = 1 } = {}) {
  const weight = parameter([count, width], { kind: "normal", deviation });
  return module({ weight }, (indices: Tensor) => gather(weight.tensor, indices));
}
