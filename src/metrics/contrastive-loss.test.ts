import { describe, expect, test } from "vitest";
import { float32, type HostTensor } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { gradients, input, toOnnx } from "../graph/index.ts";
import { openSession } from "../runtime/index.ts";
import { contrastiveLoss, unitLength } from "./contrastive-loss.ts";

/** The losses of vectors brought to unit length at some scales, and their gradients to the logarithm of the scale. */
async function lossesOf(a: HostTensor<"float32">, b: HostTensor<"float32">, logScales: readonly number[]) {
  const s = input("s", []);
  const loss = contrastiveLoss(unitLength(input("a", a.shape)), unitLength(input("b", b.shape)), s);
  const [slope] = gradients(loss, [s]);
  const session = await openSession(toOnnx({ loss, slope: slope! }).bytes, { name: "loss", threads: 1 });
  const losses: { readonly loss: number; readonly slope: number }[] = [];
  for (const logScale of logScales) {
    const found = await session.run({ a, b, s: float32([], [logScale]) });
    losses.push({ loss: Number(found.loss!.data[0]), slope: Number(found.slope!.data[0]) });
  }
  await session.close();
  return losses;
}

/** The same in float64, by the definition. */
function expected(a: HostTensor<"float32">, b: HostTensor<"float32">, scale: number): number {
  const rows = ({ shape: [n, width], data }: HostTensor<"float32">) =>
    Array.from({ length: n! }, (_, i) => {
      const row = Array.from(data.slice(i * width!, (i + 1) * width!));
      const length = Math.hypot(...row);
      return row.map((x) => x / length);
    });
  const [x, y] = [rows(a), rows(b)];
  const s = x.map((row) => y.map((other) => scale * row.reduce((sum, value, k) => sum + value * other[k]!, 0)));
  const logSum = (values: number[]) => Math.log(values.reduce((sum, value) => sum + Math.exp(value), 0));
  const terms = s.map((row, i) => logSum(row) + logSum(s.map((other) => other[i]!)) - 2 * row[i]!);
  return terms.reduce((sum, term) => sum + term, 0) / (2 * terms.length);
}

const identity = (n: number) =>
  float32(
    [n, n],
    Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 3 : 0)),
  );

describe("the contrastive loss", () => {
  test("of pairs at right angles is ln(1 + (n − 1)e⁻ˢ), and falls with the scale", async () => {
    const [n, scale] = [5, 4];
    const [found] = await lossesOf(identity(n), identity(n), [Math.log(scale)]);
    const others = (n - 1) * Math.exp(-scale);
    expect(found!.loss).toBeCloseTo(Math.log(1 + others), 6);
    expect(found!.slope).toBeCloseTo((-scale * others) / (1 + others), 5);
  });

  test("of vectors that are all the same is ln n, whatever the scale", async () => {
    const same = float32([6, 2], Array(12).fill(0.3));
    for (const { loss } of await lossesOf(same, same, [0, 3])) expect(loss).toBeCloseTo(Math.log(6), 5);
  });

  test("is the mean of both directions' cross-entropies, which differ", async () => {
    const [a, b] = [seeded(1).normal([7, 3]), seeded(2).normal([7, 3])];
    const [sharp, flat] = await lossesOf(a, b, [Math.log(5), -20]);
    expect(sharp!.loss).toBeCloseTo(expected(a, b, 5), 5);
    expect(flat!.loss).toBeCloseTo(Math.log(7), 5);
  });

  test("holds the scale at 100, and no gradient drives it further", async () => {
    const [a, b] = [seeded(3).normal([4, 8]), seeded(4).normal([4, 8])];
    const [held] = await lossesOf(a, b, [6]); // e⁶ = 403
    expect(held!.loss / expected(a, b, 100)).toBeCloseTo(1, 4);
    expect(held!.slope).toBe(0);
  });
});
