import { invariant, UserError } from "../core/errors.ts";
import { comparableRows, type Features } from "./features.ts";

/**
 * The rank of each picture's right caption among all captions by their similarity, the scalar product: 1 is the most
 * similar. A wrong caption that is as similar as the right one stands before it, so a model that tells nothing apart puts
 * it last.
 *
 * @param pictures [pictures, width]
 * @param captions [captions, width]
 * @param right the row of each picture's caption
 * @throws UserError for embeddings that cannot be compared, or a caption that there is not
 */
export function captionRanks(pictures: Features, captions: Features, right: ArrayLike<number>): Uint32Array {
  const [x, y] = comparableRows([pictures, captions], 1);
  if (right.length !== x.count) {
    throw new UserError(`${right.length} captions were asked for by ${x.count} pictures; one each is needed.`);
  }
  const similarity = (i: number, j: number) => {
    let dot = 0;
    for (let n = 0, p = i * x.width, q = j * x.width; n < x.width; n++) dot += x.data[p + n]! * y.data[q + n]!;
    return dot;
  };
  return Uint32Array.from({ length: x.count }, (_, i) => {
    const own = right[i]!;
    if (!(Number.isInteger(own) && own >= 0 && own < y.count)) {
      throw new UserError(`Picture ${i} asks for caption ${own}; there are captions 0 to ${y.count - 1}.`);
    }
    const best = similarity(i, own);
    let rank = 1;
    for (let j = 0; j < y.count; j++) if (j !== own && similarity(i, j) >= best) rank++;
    return rank;
  });
}

/** The share of ranks that are at most `top`. */
export function shareWithin(ranks: ArrayLike<number>, top: number): number {
  let within = 0;
  for (let i = 0; i < ranks.length; i++) if (ranks[i]! <= top) within++;
  return within / ranks.length;
}

/**
 * The share of ranks at most `top` that is expected when each right caption stands among `among` − 1 others, drawn without
 * replacement from all others: what retrieval among 100 captions gives on average over every way to choose them.
 *
 * Of the N − 1 other captions k = rank − 1 stand before the right one; how many of those are drawn is hypergeometric.
 *
 * @param ranks the ranks among all `of` captions
 * @throws UserError where there are fewer captions than the right one is to stand among
 */
export function expectedShareWithin(
  ranks: ArrayLike<number>,
  top: number,
  { of, among }: { readonly of: number; readonly among: number },
): number {
  if (!(among >= 1 && among <= of)) {
    throw new UserError(`Ranks among ${among} of ${of} captions were asked for; 1 to ${of} are accepted.`);
  }
  const logFactorial = new Float64Array(of + 1);
  for (let n = 1; n <= of; n++) logFactorial[n] = logFactorial[n - 1]! + Math.log(n);
  const logChoose = (n: number, k: number) => logFactorial[n]! - logFactorial[k]! - logFactorial[n - k]!;
  const drawn = among - 1;
  const others = of - 1;
  let sum = 0;
  for (let i = 0; i < ranks.length; i++) {
    const before = ranks[i]! - 1;
    invariant(before >= 0 && before <= others, `rank ${ranks[i]} of ${of}`);
    const most = Math.min(top - 1, before, drawn);
    for (let j = Math.max(0, drawn - (others - before)); j <= most; j++) {
      sum += Math.exp(logChoose(before, j) + logChoose(others - before, drawn - j) - logChoose(others, drawn));
    }
  }
  return sum / ranks.length;
}
