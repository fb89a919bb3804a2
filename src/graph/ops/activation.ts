import { float } from "../onnx.ts";
import { defineOperator } from "../operator.ts";
import type { Tensor, TensorType } from "../tensor.ts";
import { add, erf, exp, mul, sub, tanh } from "./elementwise.ts";
import { filled } from "./leaf.ts";
import { sum } from "./reduce.ts";
import { scaleAndShift } from "./scale-and-shift.ts";

const sameType = ([x]: readonly TensorType[]): TensorType[] => [{ dtype: x!.dtype, shape: x!.shape }];

const applySigmoid = defineOperator({
  name: "sigmoid",
  infer: sameType,
  onnx: (emitter, [x]) => emitter.op("Sigmoid", [x!]),
  gradient: ([dy], { outputs: [y] }) => [mul(dy!, mul(y!, sub(1, y!)))],
});

/** 1 / (1 + e⁻ˣ) */
export function sigmoid(x: Tensor): Tensor {
  return applySigmoid([x], {});
}

const applySwish = defineOperator<{ alpha: number }>({
  name: "swish",
  infer: sameType,
  onnx: (emitter, [x], { attributes: { alpha } }) => {
    // QuickGelu is x·σ(αx) in one pass.
    if (emitter.target.contrib) return emitter.op("QuickGelu", [x!], { alpha: float(alpha) }, "com.microsoft");
    const factor = emitter.constant({ dtype: "float32", shape: [], data: Float32Array.of(alpha) });
    const scaled = alpha === 1 ? x! : emitter.op("Mul", [x!, factor]);
    return emitter.op("Mul", [x!, emitter.op("Sigmoid", [scaled])]);
  },
  // With s = σ(αx) and y = x·s: y' = s + α·x·s·(1 − s) = s·(1 + α·(x − y)).
  gradient: ([dy], { inputs: [x], outputs: [y], attributes: { alpha } }) => {
    const s = sigmoid(alpha === 1 ? x! : mul(x!, alpha));
    return [mul(dy!, mul(s, onePlusDifference(x!, y!, alpha)))];
  },
});

/** 1 + α(x − y), for images in one pass over each. */
function onePlusDifference(x: Tensor, y: Tensor, alpha: number): Tensor {
  if (alpha !== 1 || x.shape.length !== 4) return add(mul(sub(x, y), alpha), 1);
  const perChannel = x.shape.slice(0, 2);
  return scaleAndShift(y, filled(perChannel, -1), filled(perChannel, 1), x);
}

/** x·σ(x): SiLU, also called swish (Ramachandran et al. 2017). */
export function silu(x: Tensor): Tensor {
  return applySwish([x], { alpha: 1 });
}

/** x·σ(1.702x): the approximation of GELU that OpenAI's CLIP uses. */
export function quickGelu(x: Tensor): Tensor {
  return applySwish([x], { alpha: 1.702 });
}

const applyGelu = defineOperator<{ approximate: "none" | "tanh" }>({
  name: "gelu",
  infer: sameType,
  onnx: (emitter, [x], { attributes: { approximate } }) => emitter.op("Gelu", [x!], { approximate }),
  gradient: ([dy], { inputs: [x], attributes: { approximate } }) => {
    const square = mul(x!, x!);
    if (approximate === "none") {
      // d/dx x·Φ(x) = Φ(x) + x·φ(x), with the normal distribution Φ and density φ.
      const distribution = mul(add(erf(mul(x!, Math.SQRT1_2)), 1), 0.5);
      const density = mul(exp(mul(square, -0.5)), 1 / Math.sqrt(2 * Math.PI));
      return [mul(dy!, add(distribution, mul(x!, density)))];
    }
    // y = x/2·(1 + tanh u), u = √(2/π)(x + 0.044715x³): y' = (1 + t)/2 + x/2·(1 − t²)·u'.
    const k = Math.sqrt(2 / Math.PI);
    const t = tanh(mul(mul(x!, add(mul(square, 0.044715), 1)), k));
    const inner = mul(add(mul(square, 3 * 0.044715), 1), k);
    const slope = mul(mul(sub(1, mul(t, t)), inner), x!);
    return [mul(dy!, mul(add(add(t, 1), slope), 0.5))];
  },
});

/** x·Φ(x) (Hendrycks & Gimpel 2016), exactly or by the tanh approximation. */
export function gelu(x: Tensor, approximate: "none" | "tanh" = "none"): Tensor {
  return applyGelu([x], { approximate });
}

const applySoftplus = defineOperator({
  name: "softplus",
  infer: sameType,
  onnx: (emitter, [x]) => emitter.op("Softplus", [x!]),
  gradient: ([dy], { inputs: [x] }) => [mul(dy!, sigmoid(x!))],
});

/** ln(1 + eˣ) */
export function softplus(x: Tensor): Tensor {
  return applySoftplus([x], {});
}

const applySoftmax = defineOperator({
  name: "softmax",
  infer: sameType,
  onnx: (emitter, [x]) => emitter.op("Softmax", [x!], { axis: -1 }),
  // y = softmax(x): dx = y·(dy − Σ dy·y).
  gradient: ([dy], { outputs: [y] }) => {
    const weighted = mul(dy!, y!);
    return [sub(weighted, mul(y!, sum(weighted, -1, { keepDims: true })))];
  },
});

/** eˣ / Σ eˣ over the last axis. */
export function softmax(x: Tensor): Tensor {
  return applySoftmax([x], {});
}

const applyLogSoftmax = defineOperator({
  name: "logSoftmax",
  infer: sameType,
  onnx: (emitter, [x]) => emitter.op("LogSoftmax", [x!], { axis: -1 }),
  gradient: ([dy], { outputs: [y] }) => [sub(dy!, mul(exp(y!), sum(dy!, -1, { keepDims: true })))],
});

/** x − ln Σ eˣ over the last axis. */
export function logSoftmax(x: Tensor): Tensor {
  return applyLogSoftmax([x], {});
}
