import { sizeOf } from "../../core/host-tensor.ts";
import { float } from "../onnx.ts";
import { defineOperator } from "../operator.ts";
import { require, type Tensor } from "../tensor.ts";
import { broadcastShape } from "./elementwise.ts";
import { sumTo } from "./reduce.ts";
import { reshape } from "./shape.ts";

interface Product {
  readonly transA: boolean;
  readonly transB: boolean;
  readonly alpha: number;
}

const applyMatmul = defineOperator<Product>({
  name: "matmul",
  infer: ([a, b], { transA, transB }) => {
    require(a!.shape.length >= 2 && b!.shape.length >= 2, "needs matrices");
    require(a!.dtype === b!.dtype, "types differ");
    const [m, k] = transA ? [a!.shape.at(-1)!, a!.shape.at(-2)!] : [a!.shape.at(-2)!, a!.shape.at(-1)!];
    const [k2, n] = transB ? [b!.shape.at(-1)!, b!.shape.at(-2)!] : [b!.shape.at(-2)!, b!.shape.at(-1)!];
    require(k === k2, `inner sizes ${k} and ${k2} differ${transA || transB ? " (after transposing)" : ""}`);
    return [{ dtype: a!.dtype, shape: [...broadcastShape(a!.shape.slice(0, -2), b!.shape.slice(0, -2)), m, n] }];
  },
  onnx: (emitter, [a, b], { inputs, attributes: { transA, transB, alpha } }) => {
    const packed = emitter.target.contrib && transB && !transA && alpha === 1 ? emitter.packed(b!) : undefined;
    if (packed) {
      const [n, k] = inputs[1]!.shape as [number, number];
      const attributes = { K: k, N: n, bits: packed.bits, block_size: packed.blockSize };
      return emitter.op("MatMulNBits", [a!, packed.codes, packed.scales], attributes, "com.microsoft");
    }
    if (emitter.target.contrib && (transA || transB || alpha !== 1)) {
      const attributes = { transA: transA ? 1 : 0, transB: transB ? 1 : 0, alpha: float(alpha) };
      return emitter.op("FusedMatMul", [a!, b!], attributes, "com.microsoft");
    }
    const swapped = (name: string, rank: number) =>
      emitter.op("Transpose", [name], {
        perm: Array.from({ length: rank }, (_, i) => (i < rank - 2 ? i : 2 * rank - 3 - i)),
      });
    const product = emitter.op("MatMul", [
      transA ? swapped(a!, inputs[0]!.shape.length) : a!,
      transB ? swapped(b!, inputs[1]!.shape.length) : b!,
    ]);
    if (alpha === 1) return product;
    return emitter.op("Mul", [
      product,
      emitter.constant({ dtype: "float32", shape: [], data: Float32Array.of(alpha) }),
    ]);
  },
  // With Y = αAB: dA = α dY Bᵀ and dB = α Aᵀ dY, transposed where an operand was.
  gradient: ([dy], { inputs: [a, b], attributes: { transA, transB, alpha } }) => {
    const da = transA
      ? matmul(b!, dy!, { transA: transB, transB: true, alpha })
      : matmul(dy!, b!, { transB: !transB, alpha });
    return [sumTo(da, a!.shape), gradientOfSecond(dy!, a!, b!, { transA, transB, alpha })];
  },
});

function gradientOfSecond(dy: Tensor, a: Tensor, b: Tensor, { transA, transB, alpha }: Product): Tensor {
  // A shared matrix (a linear layer's weight): fold the batch into the rows and make it one product.
  if (b.shape.length === 2 && a.shape.length > 2 && !transA) {
    const rows = sizeOf(a.shape.slice(0, -1));
    const flatA = reshape(a, [rows, a.shape.at(-1)!]);
    const flatDy = reshape(dy, [rows, dy.shape.at(-1)!]);
    return transB ? matmul(flatDy, flatA, { transA: true, alpha }) : matmul(flatA, flatDy, { transA: true, alpha });
  }
  const db = transB
    ? matmul(dy, a, { transA: true, transB: transA, alpha })
    : matmul(a, dy, { transA: !transA, alpha });
  return sumTo(db, b.shape);
}

/**
 * α·A·B over the last two axes, leading axes broadcast: [..., m, k] × [..., k, n] → [..., m, n]. `transA`/`transB` read
 * an operand transposed.
 */
export function matmul(
  a: Tensor,
  b: Tensor,
  { transA = false, transB = false, alpha = 1 }: Partial<Product> = {},
): Tensor {
  return applyMatmul([a, b], { transA, transB, alpha });
}
