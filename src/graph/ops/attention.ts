import type { Emitter } from "../onnx.ts";
import { float } from "../onnx.ts";
import { defineOperator, notDifferentiable } from "../operator.ts";
import { require, type Tensor } from "../tensor.ts";

const applyAttention = defineOperator<{ scale: number; pieces: number }>({
  name: "attention",
  infer: ([q, k, v]) => {
    for (const x of [q, k, v]) require(x!.shape.length === 4, "needs [n, heads, tokens, d]");
    const [n, heads, queries, d] = q!.shape as [number, number, number, number];
    const [, , keys, width] = v!.shape as [number, number, number, number];
    require(`${k!.shape}` === `${[n, heads, keys, d]}`, "queries and keys differ in more than their number");
    require(`${v!.shape}` === `${[n, heads, keys, width]}`, "keys and values differ in more than their width");
    return [{ dtype: q!.dtype, shape: [n, heads, queries, width] }];
  },
  onnx: (emitter, [q, k, v], { inputs, attributes: { scale, pieces } }) => {
    const [query, , value] = inputs as [Tensor, Tensor, Tensor];
    const [, heads, queries] = query.shape as [number, number, number];
    if (emitter.target.contrib && query.shape[3] === value.shape[3]) {
      // The operator wants tokens with their heads side by side, which is what heads were mostly just split from.
      const joined = ([name, tensor]: readonly [string, Tensor]) => {
        const [n, , tokens, d] = tensor.shape as [number, number, number, number];
        const turned = emitter.op("Transpose", [name], { perm: [0, 2, 1, 3] });
        return emitter.op("Reshape", [turned, emitter.ints([n, tokens, heads * d])]);
      };
      const given = ([q, k, v] as [string, string, string]).map((name, i) => joined([name, inputs[i]!]));
      const attributes = { num_heads: heads, scale: float(scale) };
      const result = emitter.op("MultiHeadAttention", given, attributes, "com.microsoft");
      const split = emitter.op("Reshape", [result, emitter.ints([query.shape[0]!, queries, heads, value.shape[3]!])]);
      return emitter.op("Transpose", [split], { perm: [0, 2, 1, 3] });
    }
    const size = Math.ceil(queries / pieces);
    const ranges = Array.from({ length: Math.ceil(queries / size) }, (_, i) => [i * size, (i + 1) * size] as const);
    const axis = emitter.ints([2]);
    const results = ranges.map(([start, end]) => {
      const bounds = [start, Math.min(end, queries)].map((at) => emitter.ints([at]));
      const rows = ranges.length === 1 ? q! : emitter.op("Slice", [q!, ...bounds, axis]);
      return some(emitter, rows, k!, v!, scale);
    });
    return results.length === 1 ? results[0]! : emitter.op("Concat", results, { axis: 2 });
  },
  gradient: notDifferentiable,
});

function some(emitter: Emitter, q: string, k: string, v: string, scale: number): string {
  const turned = emitter.op("Transpose", [k], { perm: [0, 1, 3, 2] });
  const factor = emitter.constant({ dtype: "float32", shape: [], data: Float32Array.of(scale) });
  const scores = emitter.op("MatMul", [emitter.op("Mul", [q, factor]), turned]);
  return emitter.op("MatMul", [emitter.op("Softmax", [scores], { axis: -1 }), v]);
}

/**
 * softmax(scale·QKᵀ)·V for each head without all scores in memory at once (Dao et al. 2022): q [n, heads, queries, d], k
 * [n, heads, keys, d], v [n, heads, keys, width] → [n, heads, queries, width]. For inference: it has no gradient.
 *
 * On targets without an operator for it, queries are taken in as many pieces as hold scores of at most `scoreBytes`.
 */
export function attentionInPieces(q: Tensor, k: Tensor, v: Tensor, scale: number, scoreBytes: number): Tensor {
  const [n, heads, queries] = q.shape as [number, number, number];
  const bytes = n * heads * queries * k.shape[2]! * 4;
  return applyAttention([q, k, v], { scale, pieces: Math.max(1, Math.min(queries, Math.ceil(bytes / scoreBytes))) });
}
