import { float32, type Shape } from "../../core/host-tensor.ts";
import { type Emitter, float } from "../onnx.ts";
import { defineOperators } from "../operator.ts";
import { require, type Tensor } from "../tensor.ts";
import { add, mul, reciprocal, sqrt, sub } from "./elementwise.ts";
import { filled } from "./leaf.ts";
import { matmul } from "./matmul.ts";
import { mean, sum, sumTo } from "./reduce.ts";
import { scaleAndShift, scaleAndShiftOnnx } from "./scale-and-shift.ts";
import { expand, reshape } from "./shape.ts";

interface Groups {
  readonly groups: number;
  readonly epsilon: number;
}

const applyGroupNorm = defineOperators<Groups>({
  name: "groupNorm",
  infer: ([x, scale, shift], { groups }) => {
    const [n, channels] = x!.shape as [number, number];
    require(x!.shape.length >= 3, "needs [n, c, …]");
    require(channels % groups === 0, `${channels} channels cannot be cut into ${groups} groups`);
    require(scale!.shape[0] === channels &&
      shift!.shape[0] === channels, `scale and shift must have shape [${channels}]`);
    const statistics = { dtype: x!.dtype, shape: [n, groups, 1] };
    return [{ dtype: x!.dtype, shape: x!.shape }, statistics, statistics];
  },
  onnx: (emitter, [x, scale, shift], { inputs: [type], outputs: [, mu, r], attributes }) =>
    // Measured, ONNX Runtime's InstanceNormalization, which uses one thread, takes longer on one thread, too.
    emitter.target.contrib || emitter.isUsed(mu!) || emitter.isUsed(r!)
      ? groupNormWithStatistics(emitter, x!, scale!, shift!, type!.shape, attributes)
      : [groupNormAlone(emitter, x!, scale!, shift!, type!.shape, attributes), "", ""],
  /*
   * With x̂ = (x − μ)·r, r = 1/√(var + ε), over a group of K = (c/groups)·area elements, and γ the channel's scale:
   *   dx = r·(γ·dy − mean(γ·dy) − x̂·mean(γ·dy·x̂)),  the means over the group;  dγ = Σ dy·x̂,  dβ = Σ dy.
   * Written per channel with s₁ = Σ dy and s₂ = Σ dy·x̂ = r·(Σ dy·x − μ·s₁) this needs no stored x̂:
   *   dx = a·dy + b·x + c  with  a = r·γ,  b = −r²·mean(γ·dy·x̂),  c = −r·mean(γ·dy) − b·μ.
   */
  gradient: ([dy, dMu, dR], { inputs: [x, scale], outputs: [, mu, r], attributes: { groups } }) => {
    const [n, channels] = x!.shape as [number, number];
    const perGroup = channels / groups;
    const area = x!.shape.slice(2).reduce((a, b) => a * b, 1);
    const byGroup = throughStatistics(reshape(x!, [n, groups, perGroup * area]), mu!, r!, dMu, dR);
    const throughOutputs = byGroup && reshape(byGroup, x!.shape);
    if (!dy) return [throughOutputs, undefined, undefined];
    const grouped = [n, groups, perGroup];
    const s1 = reshape(sum(reshape(dy, [n, channels, area]), 2), grouped);
    const row = [n, channels, 1, area];
    const products = reshape(matmul(reshape(dy, row), reshape(x!, row), { transB: true }), grouped); // Σ dy·x
    const s2 = mul(sub(products, mul(mu!, s1)), r!);
    const gamma = reshape(scale!, [1, groups, perGroup]);
    const size = perGroup * area;
    const meanDy = mul(sum(mul(gamma, s1), 2, { keepDims: true }), 1 / size); // [n, groups, 1]
    const meanDyX = mul(sum(mul(gamma, s2), 2, { keepDims: true }), 1 / size);
    const a = reshape(mul(r!, gamma), [n, channels]);
    const b = mul(mul(mul(r!, r!), meanDyX), -1);
    const c = sub(mul(mul(r!, meanDy), -1), mul(b, mu!));
    const perChannel = (t: Tensor) => reshape(expand(t, grouped), [n, channels]);
    const dx = scaleAndShift(dy, a, undefined, scaleAndShift(x!, perChannel(b), perChannel(c)));
    const all = throughOutputs ? add(dx, throughOutputs) : dx;
    return [all, reshape(sum(s2, 0), [channels]), reshape(sum(s1, 0), [channels])];
  },
});

/**
 * What the gradients of μ and r [..., 1], which only second-order gradients have, add to that of x [..., K]: ∂μ/∂x = 1/K
 * and ∂r/∂x = −r³·(x − μ)/K.
 */
function throughStatistics(x: Tensor, mu: Tensor, r: Tensor, dMu?: Tensor, dR?: Tensor): Tensor | undefined {
  const size = x.shape.at(-1)!;
  const even = dMu && mul(dMu, 1 / size);
  if (!dR) return even && expand(even, x.shape);
  const sloped = mul(sub(x, mu), mul(mul(mul(mul(r, r), r), dR), -1 / size));
  return even ? add(sloped, even) : sloped;
}

/** ONNX's InstanceNormalization sees each group as a channel; then scale and shift by channel. */
function groupNormAlone(
  emitter: Emitter,
  x: string,
  scale: string,
  shift: string,
  shape: Shape,
  { groups, epsilon }: Groups,
): string {
  const perChannel = emitter.ints([shape[1]!, ...shape.slice(2).map(() => 1)]);
  const vector = (value: number) => emitter.constant(float32([groups], new Float32Array(groups).fill(value)));
  const grouped = emitter.op("Reshape", [x, emitter.ints([shape[0]!, groups, -1])]);
  const inputs = [grouped, vector(1), vector(0)];
  const normal = emitter.op("InstanceNormalization", inputs, { epsilon: float(epsilon) });
  const back = emitter.op("Reshape", [normal, emitter.ints(shape)]);
  const scaled = emitter.op("Mul", [back, emitter.op("Reshape", [scale, perChannel])]);
  return emitter.op("Add", [scaled, emitter.op("Reshape", [shift, perChannel])]);
}

/**
 * The same with μ and r, which the gradient needs and InstanceNormalization does not give away. Two passes, because the
 * one-pass variance E[x²] − μ² loses its digits where the mean is large: d = x − μ, var = mean(d²), y = γ·r·d + β.
 */
function groupNormWithStatistics(
  emitter: Emitter,
  x: string,
  scale: string,
  shift: string,
  shape: Shape,
  { groups, epsilon }: Groups,
): readonly string[] {
  const [n, channels] = shape as [number, number];
  const perGroup = channels / groups;
  const area = shape.slice(2).reduce((a, b) => a * b, 1);
  const value = (number: number) => emitter.constant(float32([], [number]));
  const grouped = emitter.op("Reshape", [x, emitter.ints([n, groups, perGroup * area])]);
  const mu = emitter.op("ReduceMean", [grouped, emitter.ints([2])], { keepdims: 1 }); // [n, groups, 1]
  const minusMu = emitter.op("Expand", [emitter.op("Neg", [mu]), emitter.ints([n, groups, perGroup])]);
  const ones = emitter.constant(float32([n, channels], new Float32Array(n * channels).fill(1)));
  const centred = scaleAndShiftOnnx(emitter, x, ones, minusMu, undefined, shape);
  // By channel first: short rows keep the dot products in cache.
  const rows = emitter.op("Reshape", [centred, emitter.ints([n, channels, 1, area])]);
  const squares = emitter.target.contrib
    ? emitter.op("FusedMatMul", [rows, rows], { transB: 1 }, "com.microsoft")
    : emitter.op("ReduceSumSquare", [rows, emitter.ints([3])]);
  const byGroup = emitter.op("Reshape", [squares, emitter.ints([n, groups, perGroup])]);
  const total = emitter.op("ReduceSum", [byGroup, emitter.ints([2])], { keepdims: 1 });
  const variance = emitter.op("Mul", [total, value(1 / (perGroup * area))]);
  const r = emitter.op("Reciprocal", [emitter.op("Sqrt", [emitter.op("Add", [variance, value(epsilon)])])]);
  const gamma = emitter.op("Mul", [r, emitter.op("Reshape", [scale, emitter.ints([1, groups, perGroup])])]);
  const beta = emitter.op("Expand", [
    emitter.op("Reshape", [shift, emitter.ints([1, groups, perGroup])]),
    emitter.ints([n, groups, perGroup]),
  ]);
  return [scaleAndShiftOnnx(emitter, centred, gamma, beta, undefined, shape), mu, r];
}

/**
 * Group normalization (Wu & He 2018): x [n, c, …] with mean 0 and variance 1 over each group of channels, then scaled and
 * shifted by channel [c].
 */
export function groupNorm(x: Tensor, scale: Tensor, shift: Tensor, groups: number, epsilon = 1e-5): Tensor {
  return applyGroupNorm([x, scale, shift], { groups, epsilon })[0]!;
}

const applyLayerNorm = defineOperators<{ epsilon: number }>({
  name: "layerNorm",
  infer: ([x, scale, shift]) => {
    const width = x!.shape.at(-1)!;
    require(scale!.shape.length === 1 && scale!.shape[0] === width, `the scale must have shape [${width}]`);
    require(!shift || (shift.shape.length === 1 && shift.shape[0] === width), `the shift must have shape [${width}]`);
    const statistics = { dtype: x!.dtype, shape: [...x!.shape.slice(0, -1), 1] };
    return [{ dtype: x!.dtype, shape: x!.shape }, statistics, statistics];
  },
  onnx: (emitter, inputs, { attributes: { epsilon } }) =>
    emitter.ops("LayerNormalization", inputs, 3, { axis: -1, epsilon: float(epsilon) }),
  // With x̂ = (x − μ)·r and g = γ·dy: dx = r·(g − mean(g) − x̂·mean(g·x̂)), dγ = Σ dy·x̂, dβ = Σ dy.
  gradient: ([dy, dMu, dR], { inputs: [x, scale, shift], outputs: [, mu, r] }) => {
    const throughOutputs = throughStatistics(x!, mu!, r!, dMu, dR);
    if (!dy) return [throughOutputs, undefined, undefined];
    const normal = mul(sub(x!, mu!), r!);
    const g = mul(dy, scale!);
    const along = mean(mul(g, normal), -1, { keepDims: true });
    const dx = mul(sub(sub(g, mean(g, -1, { keepDims: true })), mul(normal, along)), r!);
    const all = throughOutputs ? add(dx, throughOutputs) : dx;
    return [all, sumTo(mul(dy, normal), scale!.shape), shift && sumTo(dy, shift.shape)];
  },
});

/** Layer normalization (Ba et al. 2016) over the last axis, then scaled and shifted where given: scale and shift [width]. */
export function layerNorm(x: Tensor, scale?: Tensor, shift?: Tensor, epsilon = 1e-5): Tensor {
  const factor = scale ?? filled([x.shape.at(-1)!], 1);
  return applyLayerNorm(shift ? [x, factor, shift] : [x, factor], { epsilon })[0]!;
}

/** Root-mean-square normalization (Zhang & Sennrich 2019) over the last axis: x / √(mean(x²) + ε), scaled by [width]. */
export function rmsNorm(x: Tensor, scale: Tensor | undefined, epsilon = 1e-6): Tensor {
  const normal = mul(x, reciprocal(sqrt(add(mean(mul(x, x), -1, { keepDims: true }), epsilon))));
  return scale ? mul(normal, scale) : normal;
}
