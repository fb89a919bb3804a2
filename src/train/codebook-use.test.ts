import { expect, test } from "vitest";
import { int64 } from "../core/host-tensor.ts";
import { input, toOnnx } from "../graph/index.ts";
import { openSession } from "../runtime/index.ts";
import { codebookUse, codebookUseOf } from "./codebook-use.ts";

test("entries that are equally frequent give their number as perplexity, others fewer", () => {
  expect(codebookUseOf([3, 3, 0, 3, 3, 0, 0, 0])).toEqual({ usage: 0.5, perplexity: expect.closeTo(4, 10) });
  expect(codebookUseOf([7, 0, 0, 0])).toEqual({ usage: 0.25, perplexity: 1 });
  // 2^H with H = ½·1 + ¼·2 + ¼·2 = 1.5 bits.
  expect(codebookUseOf([2, 1, 1])).toEqual({ usage: 1, perplexity: expect.closeTo(2 ** 1.5, 10) });
});

test("the graph says the same of the entries that were chosen", async () => {
  const chosen = [4, 4, 0, 2, 4, 2, 2, 2, 5, 4];
  const counts = Array.from({ length: 9 }, (_, entry) => chosen.filter((index) => index === entry).length);
  const graph = toOnnx({ ...codebookUse(input("indices", [chosen.length], "int64"), counts.length) });
  const session = await openSession(graph.bytes, { threads: 1 });
  try {
    const { usage, perplexity } = await session.run({ indices: int64([chosen.length], chosen) });
    const expected = codebookUseOf(counts);
    expect(usage!.data[0]).toBeCloseTo(expected.usage, 6);
    expect(perplexity!.data[0]).toBeCloseTo(expected.perplexity, 5);
  } finally {
    await session.close();
  }
});
