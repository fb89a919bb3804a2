import type { Shape } from "../../src/core/host-tensor.ts";
import { matmul as product } from "../../src/graph/index.ts";
import { type Array64, broadcast, element, tabulate } from "./array64.ts";
import { inputs, type Sample, type Samples, sample } from "./sample.ts";

const { uniform } = inputs(4);

/** α·A·B over the last two axes, an operand read transposed where told. */
export function matmul64(a: Array64, b: Array64, { transA = false, transB = false, alpha = 1 } = {}): Array64 {
  const inner = transA ? a.shape.at(-2)! : a.shape.at(-1)!;
  const m = transA ? a.shape.at(-1)! : a.shape.at(-2)!;
  const n = transB ? b.shape.at(-2)! : b.shape.at(-1)!;
  const lead = broadcast(a.shape.slice(0, -2), b.shape.slice(0, -2));
  return tabulate([...lead, m, n], (index) => {
    const batch = index.slice(0, -2);
    const [i, j] = index.slice(-2) as [number, number];
    let total = 0;
    for (let k = 0; k < inner; k++) {
      // A leading axis of size 1 is repeated; the last two are never, also when they are of size 1.
      total +=
        element(a, [...batch, ...(transA ? [k, i] : [i, k])]) * element(b, [...batch, ...(transB ? [j, k] : [k, j])]);
    }
    return alpha * total;
  });
}

function products(name: string, a: Shape, b: Shape): Sample[] {
  const swap = (shape: Shape) => [...shape.slice(0, -2), shape.at(-1)!, shape.at(-2)!];
  return [false, true].flatMap((transA) =>
    [false, true].flatMap((transB) =>
      [1, -0.5].map((alpha) => {
        const options = { transA, transB, alpha };
        const how = `${transA ? "Aᵀ" : "A"}·${transB ? "Bᵀ" : "B"}${alpha === 1 ? "" : ` by ${alpha}`}`;
        return sample(
          `${name}, ${how}`,
          [uniform(transA ? swap(a) : a), uniform(transB ? swap(b) : b)],
          (x, y) => product(x, y, options),
          (x, y) => matmul64(x, y, options),
        );
      }),
    ),
  );
}

export const matmul: Samples = {
  matmul: [
    ...products("matrices", [3, 4], [4, 5]),
    ...products("a batch", [2, 3, 4], [2, 4, 2]),
    ...products("a batch by one matrix", [2, 3, 4], [4, 5]),
    ...products("one matrix by a batch", [3, 4], [2, 4, 2]),
    ...products("two leading axes, both repeated", [2, 1, 3, 2], [3, 2, 4]),
    ...products("heads", [2, 2, 3, 4], [2, 2, 4, 3]),
    ...products("a row by a column", [1, 3], [3, 1]),
    ...products("four axes by one matrix", [2, 2, 1, 3], [3, 4]),
  ],
};
