import { add, cast, exp, greater, log, mean, mul, neg, oneHot, sum, type Tensor } from "../graph/index.ts";

/** How much of a codebook is used. */
export interface CodebookUse<Number> {
  /** Share of its entries that occur, 0 … 1. */
  readonly usage: Number;
  /** exp(−Σ p ln p) over the entries' frequencies p: as many equally frequent entries would have this entropy. */
  readonly perplexity: Number;
}

/** The use of a codebook in a batch, from the entries that were chosen: int64 of shape [count]. */
export function codebookUse(indices: Tensor, entries: number): CodebookUse<Tensor> {
  const frequency = mean(oneHot(indices, entries), 0); // [entries]
  // An entry that does not occur adds nothing: 0 · ln(tiny).
  const entropy = neg(sum(mul(frequency, log(add(frequency, 1e-20)))));
  return { usage: mean(cast(greater(frequency, 0), "float32")), perplexity: exp(entropy) };
}

/** The same from how often each entry was chosen. */
export function codebookUseOf(counts: ArrayLike<number>): CodebookUse<number> {
  const occurring = Array.from(counts).filter((count) => count > 0);
  const total = occurring.reduce((sum, count) => sum + count, 0);
  const entropy = occurring.reduce((sum, count) => sum - (count / total) * Math.log(count / total), 0);
  return { usage: occurring.length / counts.length, perplexity: Math.exp(entropy) };
}
