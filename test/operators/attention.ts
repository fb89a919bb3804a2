import { attentionInPieces } from "../../src/graph/index.ts";
import { type Array64, element, tabulate } from "./array64.ts";
import { inputs, type Samples, sample } from "./sample.ts";

const { uniform } = inputs(23);

/** softmax(scale·QKᵀ)·V for each head: q [n, heads, queries, d], k [n, heads, keys, d], v [n, heads, keys, width]. */
const attention64 =
  (scale: number) =>
  (q: Array64, k: Array64, v: Array64): Array64 => {
    const [n, heads, queries, d] = q.shape as [number, number, number, number];
    const [, , keys, width] = v.shape as [number, number, number, number];
    return tabulate([n, heads, queries, width], ([b, h, i, c]) => {
      const scores = Array.from({ length: keys }, (_, j) => {
        let dot = 0;
        for (let x = 0; x < d; x++) dot += element(q, [b!, h!, i!, x]) * element(k, [b!, h!, j, x]);
        return scale * dot;
      });
      const most = Math.max(...scores);
      const weights = scores.map((score) => Math.exp(score - most));
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      return weights.reduce((sum, weight, j) => sum + (weight / total) * element(v, [b!, h!, j, c!]), 0);
    });
  };

const of = (queries: number, keys: number, width = 4) => [
  uniform([2, 3, queries, 4]),
  uniform([2, 3, keys, 4]),
  uniform([2, 3, keys, width]),
];
const whole = Number.POSITIVE_INFINITY;

export const attention: Samples = {
  attention: [
    sample("self", of(6, 6), (q, k, v) => attentionInPieces(q!, k!, v!, 0.5, whole), attention64(0.5)),
    sample("to other tokens", of(5, 7), (q, k, v) => attentionInPieces(q!, k!, v!, 0.7, whole), attention64(0.7)),
    sample(
      "values of another width",
      of(5, 7, 3),
      (q, k, v) => attentionInPieces(q!, k!, v!, 0.5, whole),
      attention64(0.5),
    ),
    // Scores of one head and query take 28 bytes.
    sample(
      "in pieces that leave a rest",
      of(5, 7, 3),
      (q, k, v) => attentionInPieces(q!, k!, v!, 0.5, 350),
      attention64(0.5),
    ),
  ],
};
