import type { HostTensor } from "../../core/host-tensor.ts";
import { float } from "../onnx.ts";
import { defineOperator, defineOperators } from "../operator.ts";
import { require, type Tensor } from "../tensor.ts";
import { add, mul, reciprocal, sqrt, sub } from "./elementwise.ts";
import { filled } from "./leaf.ts";
import { mean, sum, sumTo } from "./reduce.ts";
import { expand, reshape } from "./shape.ts";

const applyGroupNorm = defineOperator<{ groups: number; epsilon: number }>({
  name: "groupNorm",
  infer: ([x, scale, shift], { groups }) => {
    const channels = x!.shape[1]!;
    require(x!.shape.length >= 3, "needs [n, c, …]");
    require(channels % groups === 0, `${channels} channels cannot be cut into ${groups} groups`);
    require(scale!.shape[0] === channels &&
      shift!.shape[0] === channels, `scale and shift must have shape [${channels}]`);
    return [{ dtype: x!.dtype, shape: x!.shape }];
  },
  onnx: (emitter, [x, scale, shift], { inputs: [type], attributes: { groups, epsilon } }) => {
    const { shape } = type!;
    const perChannel = emitter.ints([shape[1]!, ...shape.slice(2).map(() => 1)]);
    const grouped = emitter.op("Reshape", [x!, emitter.ints([shape[0]!, groups, -1])]);
    const vector = (value: number): HostTensor => ({
      dtype: "float32",
      shape: [groups],
      data: new Float32Array(groups).fill(value),
    });
    const normal = emitter.op(
      "InstanceNormalization",
      [grouped, emitter.constant(vector(1)), emitter.constant(vector(0))],
      { epsilon: float(epsilon) },
    );
    const back = emitter.op("Reshape", [normal, emitter.ints(shape)]);
    const scaled = emitter.op("Mul", [back, emitter.op("Reshape", [scale!, perChannel])]);
    return emitter.op("Add", [scaled, emitter.op("Reshape", [shift!, perChannel])]);
  },
  /*
   * With x̂ = (x − μ)·r, r = 1/√(var + ε), over a group of K = (c/groups)·area elements, and γ the channel's scale:
   *   dx = r·(γ·dy − mean(γ·dy) − x̂·mean(γ·dy·x̂)),  the means over the group.
   * Written per channel with s₁ = Σ dy and s₂ = Σ dy·x̂ = r·(Σ dy·x − μ·s₁) this needs no stored x̂:
   *   dx = a·dy + b·x + c  with  a = r·γ,  b = −r²·mean(γ·dy·x̂),  c = −r·mean(γ·dy) − b·μ.
   */
  gradient: ([dy], { inputs: [x, scale], attributes: { groups, epsilon } }) => {
    const [n, channels] = x!.shape as [number, number];
    const perGroup = channels / groups;
    const area = x!.shape.slice(2).reduce((a, b) => a * b, 1);
    const flat = [n, groups, perGroup * area];
    const mu = mean(reshape(x!, flat), 2, { keepDims: true }); // [n, groups, 1]
    const centred = sub(reshape(x!, flat), mu);
    const variance = mean(mul(centred, centred), 2, { keepDims: true });
    const r = reciprocal(sqrt(add(variance, epsilon)));
    const s1 = reshape(sum(reshape(dy!, [n, channels, area]), 2), [n, groups, perGroup]);
    const products = mul(reshape(dy!, [n, channels, area]), reshape(centred, [n, channels, area]));
    const s2 = mul(reshape(sum(products, 2), [n, groups, perGroup]), r);
    const gamma = reshape(scale!, [1, groups, perGroup]);
    const size = perGroup * area;
    const meanDy = mul(sum(mul(gamma, s1), 2, { keepDims: true }), 1 / size); // [n, groups, 1]
    const meanDyX = mul(sum(mul(gamma, s2), 2, { keepDims: true }), 1 / size);
    const a = reshape(mul(r, gamma), [n, channels, 1]);
    const b = mul(mul(mul(r, r), meanDyX), -1);
    const c = mul(mul(r, meanDy), -1);
    const fromDy = reshape(mul(reshape(dy!, [n, channels, area]), a), flat);
    const dx = add(add(fromDy, mul(centred, b)), c);
    return [reshape(dx, x!.shape), reshape(sum(s2, 0), [channels]), reshape(sum(s1, 0), [channels])];
  },
});

/**
 * Group normalization (Wu & He 2018): x [n, c, …] with mean 0 and variance 1 over each group of channels, then scaled and
 * shifted by channel [c].
 */
export function groupNorm(x: Tensor, scale: Tensor, shift: Tensor, groups: number, epsilon = 1e-5): Tensor {
  return applyGroupNorm([x, scale, shift], { groups, epsilon });
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
  // With x̂ = (x − μ)·r and g = γ·dy: dx = r·(g − mean(g) − x̂·mean(g·x̂)), dγ = Σ dy·x̂, dβ = Σ dy. Second-order
  // gradients also reach the statistics: ∂μ/∂x = 1/width and ∂r/∂x = −r²·x̂/width.
  gradient: ([dy, dMu, dR], { inputs: [x, scale, shift], outputs: [, mu, r] }) => {
    const width = x!.shape.at(-1)!;
    const normal = mul(sub(x!, mu!), r!);
    const parts: Tensor[] = [];
    if (dy) {
      const g = mul(dy, scale!);
      const along = mean(mul(g, normal), -1, { keepDims: true });
      parts.push(mul(sub(sub(g, mean(g, -1, { keepDims: true })), mul(normal, along)), r!));
    }
    if (dMu) parts.push(expand(mul(dMu, 1 / width), x!.shape));
    if (dR) parts.push(mul(normal, mul(mul(dR, mul(r!, r!)), -1 / width)));
    const dx = parts.reduce((a, b) => add(a, b));
    return [dx, dy && sumTo(mul(dy, normal), scale!.shape), dy && shift && sumTo(dy, shift.shape)];
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
