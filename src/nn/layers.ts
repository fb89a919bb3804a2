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
/** Glorot & Bengio 2010, eq. 16. */
const xavier = (inputs: number, outputs: number) =>
  ({ kind: "uniform", bound: Math.sqrt(6 / (inputs + outputs)) }) as const;
const constant = (value: number) => ({ kind: "constant", value }) as const;

/**
 * How a layer's weights and biases start: torch's default; all zero for layers that are to do nothing at first; or zero
 * biases and weights that are uniform by Glorot & Bengio ("xavier") or, as a number, normal of that deviation.
 */
export type LayerInitial = "default" | "zero" | "xavier" | number;

/** The beginning of a weight and a bias. A convolution's kernel counts as inputs. */
function starts(initial: LayerInitial, inputs: number, outputs: number): [weight: Initializer, bias: Initializer] {
  switch (initial) {
    case "default":
      return [fanIn(inputs), fanIn(inputs)];
    case "zero":
      return [constant(0), constant(0)];
    case "xavier":
      return [xavier(inputs, outputs), constant(0)];
    default:
      return [{ kind: "normal", deviation: initial }, constant(0)];
  }
}

/** y = x·Wᵀ + b over the last axis: [..., inputs] → [..., outputs]. Weight [outputs, inputs] as in torch. */
export function linear(
  inputs: number,
  outputs: number,
  { bias = true, initial = "default" }: { bias?: boolean; initial?: LayerInitial } = {},
) {
  const [ofWeight, ofBias] = starts(initial, inputs, outputs);
  const weight = parameter([outputs, inputs], ofWeight);
  const shift = bias ? parameter([outputs], ofBias) : undefined;
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
  const [ofWeight, ofBias] = starts(initial, (inputs / groups) * kernel * kernel, outputs);
  const weight = parameter([outputs, inputs / groups, kernel, kernel], ofWeight);
  const shift = bias ? parameter([outputs], ofBias) : undefined;
  return module({ weight, bias: shift }, (image: Tensor) => {
    const { x, padding } = circularlyPadded(image, options);
    const walk = { ...options, padding };
    return lowRankOf(weight.tensor).reduce(
      (sum, { down, up, scale }) => add(sum, convolve(mul(convolve(x, down, undefined, walk), scale), up)),
      convolve(x, weight.tensor, shift?.tensor, { groups, ...walk }),
    );
  });
}

/** The most groups of group normalization, 32 at most as in Wu & He 2018, that divide all numbers of channels. */
export function groupsFor(channels: readonly number[]): number {
  for (let groups = 32; groups > 1; groups--) if (channels.every((count) => count % groups === 0)) return groups;
  return 1;
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
