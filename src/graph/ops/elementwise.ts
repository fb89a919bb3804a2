import { type DType, describeShape, type Shape } from "../../core/host-tensor.ts";
import { float } from "../onnx.ts";
import { ONNX_TYPES } from "../onnx-protobuf.ts";
import { defineOperator, type GradientRule, notDifferentiable } from "../operator.ts";
import { require, type Tensor, type TensorType } from "../tensor.ts";
import { scalar } from "./leaf.ts";
import { sumTo } from "./reduce.ts";

/** A tensor, or a number that becomes a constant of the other operand's type. */
export type Operand = Tensor | number;

type None = Record<string, never>;
const NONE: None = {};

/** The shape that two shapes broadcast to, as NumPy does. */
export function broadcastShape(a: Shape, b: Shape): Shape {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const x = a[i - rank + a.length] ?? 1;
    const y = b[i - rank + b.length] ?? 1;
    require(x === y || x === 1 || y === 1, `${describeShape(a)} and ${describeShape(b)} do not broadcast`);
    return x === 1 ? y : x;
  });
}

function sameTypes(inputs: readonly TensorType[]): DType {
  const [first] = inputs;
  for (const x of inputs) require(x.dtype === first!.dtype, `types differ: ${inputs.map((t) => t.dtype).join(", ")}`);
  return first!.dtype;
}

// ---- one operand ---------------------------------------------------------------------------------------------------

function unary(name: string, onnxName: string, derivative: ((x: Tensor, y: Tensor) => Tensor) | undefined) {
  const applyOperator = defineOperator<None>({
    name,
    infer: ([x]) => [{ dtype: x!.dtype, shape: x!.shape }],
    onnx: (emitter, [x]) => emitter.op(onnxName, [x!]),
    gradient: derivative
      ? ([dy], node) => [mul(dy!, derivative(node.inputs[0]!, node.outputs[0]!))]
      : notDifferentiable,
  });
  return (x: Tensor): Tensor => applyOperator([x], NONE);
}

/** −x */
export const neg = unary("neg", "Neg", () => scalar(-1));
/** eˣ */
export const exp = unary("exp", "Exp", (_, y) => y);
/** ln x */
export const log = unary("log", "Log", (x) => reciprocal(x));
/** √x */
export const sqrt = unary("sqrt", "Sqrt", (_, y) => div(0.5, y));
/** 1/x */
export const reciprocal = unary("reciprocal", "Reciprocal", (_, y) => neg(mul(y, y)));
/** |x|; the derivative at 0 is taken as 0 */
export const abs = unary("abs", "Abs", (x) => sign(x));
/** −1, 0 or 1 */
export const sign = unary("sign", "Sign", undefined);
/** sin x, x in radians */
export const sin = unary("sin", "Sin", (x) => cos(x));
/** cos x, x in radians */
export const cos = unary("cos", "Cos", (x) => neg(sin(x)));
/** tanh x */
export const tanh = unary("tanh", "Tanh", (_, y) => sub(1, mul(y, y)));
/** The error function */
export const erf = unary("erf", "Erf", (x) => mul(exp(neg(mul(x, x))), 2 / Math.sqrt(Math.PI)));
/** The largest integer not above x */
export const floor = unary("floor", "Floor", undefined);
/** The nearest integer, halves to even */
export const round = unary("round", "Round", undefined);
/** Logical not, of a bool tensor */
export const not = unary("not", "Not", undefined);

/** x unchanged, but no gradient flows through it. */
export const stopGradient = (() => {
  const applyOperator = defineOperator<None>({
    name: "stopGradient",
    infer: ([x]) => [{ dtype: x!.dtype, shape: x!.shape }],
    onnx: (_, [x]) => x!,
    gradient: () => [undefined],
  });
  return (x: Tensor): Tensor => applyOperator([x], NONE);
})();

// ---- two operands --------------------------------------------------------------------------------------------------

function operands(a: Operand, b: Operand): [Tensor, Tensor] {
  if (typeof a !== "number") return [a, typeof b === "number" ? scalar(b, a.dtype) : b];
  if (typeof b !== "number") return [scalar(a, b.dtype), b];
  throw new Error("allegory bug: an elementwise operator needs at least one tensor");
}

function binary(
  name: string,
  onnxName: string,
  gradient: GradientRule<None> | typeof notDifferentiable,
  result?: DType,
) {
  const applyOperator = defineOperator<None>({
    name,
    infer: (inputs) => {
      const dtype = sameTypes(inputs);
      return [{ dtype: result ?? dtype, shape: broadcastShape(inputs[0]!.shape, inputs[1]!.shape) }];
    },
    onnx: (emitter, [a, b]) => emitter.op(onnxName, [a!, b!]),
    gradient,
  });
  return (a: Operand, b: Operand): Tensor => applyOperator(operands(a, b), NONE);
}

/** a + b, broadcast */
export const add = binary("add", "Add", ([dy], { inputs: [a, b] }) => [sumTo(dy!, a!.shape), sumTo(dy!, b!.shape)]);
/** a − b, broadcast */
export const sub = binary("sub", "Sub", ([dy], { inputs: [a, b] }) => [
  sumTo(dy!, a!.shape),
  neg(sumTo(dy!, b!.shape)),
]);
/** a · b element by element, broadcast */
export const mul = binary("mul", "Mul", ([dy], { inputs: [a, b] }) => [
  sumTo(mul(dy!, b!), a!.shape),
  sumTo(mul(dy!, a!), b!.shape),
]);
/** a / b element by element, broadcast */
export const div = binary("div", "Div", ([dy], { inputs: [a, b], outputs: [y] }) => {
  const da = div(dy!, b!);
  return [sumTo(da, a!.shape), neg(sumTo(mul(da, y!), b!.shape))];
});
/** aᵇ element by element, broadcast; a negative a only to whole powers */
export const pow = binary("pow", "Pow", ([dy], { inputs: [a, b], outputs: [y] }) => {
  // To the exponent: aᵇ·ln a, which goes to 0 where aᵇ does.
  const toExponent = where(equal(y!, 0), 0, mul(y!, log(a!)));
  return [sumTo(mul(dy!, mul(b!, pow(a!, sub(b!, 1)))), a!.shape), sumTo(mul(dy!, toExponent), b!.shape)];
});
/** The smaller of a and b; where they are equal the gradient goes to a */
export const minimum = binary("minimum", "Min", ([dy], { inputs: [a, b] }) => {
  const first = cast(lessOrEqual(a!, b!), dy!.dtype);
  return [sumTo(mul(dy!, first), a!.shape), sumTo(mul(dy!, sub(1, first)), b!.shape)];
});
/** The larger of a and b; where they are equal the gradient goes to a */
export const maximum = binary("maximum", "Max", ([dy], { inputs: [a, b] }) => {
  const first = cast(greaterOrEqual(a!, b!), dy!.dtype);
  return [sumTo(mul(dy!, first), a!.shape), sumTo(mul(dy!, sub(1, first)), b!.shape)];
});
/** a < b, as bool */
export const less = binary("less", "Less", notDifferentiable, "bool");
/** a ≤ b, as bool */
export const lessOrEqual = binary("lessOrEqual", "LessOrEqual", notDifferentiable, "bool");
/** a > b, as bool */
export const greater = binary("greater", "Greater", notDifferentiable, "bool");
/** a ≥ b, as bool */
export const greaterOrEqual = binary("greaterOrEqual", "GreaterOrEqual", notDifferentiable, "bool");
/** a = b, as bool */
export const equal = binary("equal", "Equal", notDifferentiable, "bool");

// ---- choice, conversion, limits ------------------------------------------------------------------------------------

const applyWhere = defineOperator<None>({
  name: "where",
  infer: ([condition, a, b]) => {
    require(condition!.dtype === "bool", "the condition must be bool");
    const shape = broadcastShape(condition!.shape, broadcastShape(a!.shape, b!.shape));
    return [{ dtype: sameTypes([a!, b!]), shape }];
  },
  onnx: (emitter, inputs) => emitter.op("Where", inputs),
  gradient: ([dy], { inputs: [condition, a, b] }) => [
    undefined,
    sumTo(where(condition!, dy!, 0), a!.shape),
    sumTo(where(condition!, 0, dy!), b!.shape),
  ],
});

/** a where the bool `condition` holds, else b; broadcast. */
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  return applyWhere([condition, ...operands(a, b)], NONE);
}

const FLOATS: readonly DType[] = ["float32", "float64", "float16", "bfloat16"];

const applyCast = defineOperator<{ to: DType }>({
  name: "cast",
  infer: ([x], { to }) => [{ dtype: to, shape: x!.shape }],
  onnx: (emitter, [x], node) => emitter.op("Cast", [x!], { to: ONNX_TYPES[node.attributes.to] }),
  gradient: ([dy], { inputs: [x] }) => [FLOATS.includes(x!.dtype) ? cast(dy!, x!.dtype) : undefined],
});

/** x with elements of another type. */
export function cast(x: Tensor, to: DType): Tensor {
  return x.dtype === to ? x : applyCast([x], { to });
}

const applyClip = defineOperator<{ low: number; high: number }>({
  name: "clip",
  infer: ([x]) => [{ dtype: x!.dtype, shape: x!.shape }],
  onnx: (emitter, [x], { attributes: { low, high } }) => {
    const limit = (value: number) => emitter.constant({ dtype: "float32", shape: [], data: Float32Array.of(value) });
    return emitter.op("Clip", [x!, limit(low), limit(high)]);
  },
  gradient: ([dy], { inputs: [x], outputs: [y] }) => [where(equal(x!, y!), dy!, 0)],
});

/** x limited to [low, high]; no gradient where it was cut. float32. */
export function clip(x: Tensor, low: number, high: number): Tensor {
  return applyClip([x], { low, high });
}

const applyLeakyRelu = defineOperator<{ slope: number }>({
  name: "leakyRelu",
  infer: ([x]) => [{ dtype: x!.dtype, shape: x!.shape }],
  onnx: (emitter, [x], { attributes: { slope } }) =>
    slope === 0 ? emitter.op("Relu", [x!]) : emitter.op("LeakyRelu", [x!], { alpha: float(slope) }),
  gradient: ([dy], { inputs: [x], attributes: { slope } }) => [where(greater(x!, 0), dy!, mul(dy!, slope))],
});

/** max(0, x) + slope·min(0, x); slope 0 is the rectifier ReLU. */
export function leakyRelu(x: Tensor, slope = 0): Tensor {
  return applyLeakyRelu([x], { slope });
}

/** max(0, x) */
export function relu(x: Tensor): Tensor {
  return leakyRelu(x, 0);
}
