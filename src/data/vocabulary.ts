import { UserError } from "../core/errors.ts";
import { type ClipVocabulary, clipTokenizerOf, clipVocabulary, UNMERGED, WORD_END } from "../io/index.ts";

/** A word of the captions as the tokens it is made of so far. */
interface Word {
  tokens: number[];
  /** How often the captions have it. */
  readonly count: number;
}

/**
 * Learns a byte-pair vocabulary from captions (Sennrich et al. 2016, "Neural machine translation of rare words with
 * subword units", algorithm 1) over the words that CLIP's tokenizer cuts them into: the most frequent pair of neighbouring
 * tokens becomes a token, again and again. Of equally frequent pairs the one whose tokens are older wins, so that the same
 * captions give the same vocabulary whatever their order.
 *
 * @param options.size tokens at most; there are fewer where no pair is left that is frequent enough
 * @param options.minimum how often a pair must stand in the captions to become a token
 * @throws UserError for a size below the 514 that the bytes and start and end take, and without captions
 */
export function learnVocabulary(
  captions: Iterable<string>,
  { size = 4096, minimum = 2 }: { readonly size?: number; readonly minimum?: number } = {},
): ClipVocabulary {
  if (!Number.isInteger(size) || size < UNMERGED) {
    throw new UserError(`A vocabulary of ${size} tokens is not possible.`, {
      hint: `Give a whole number of ${UNMERGED} or more: the bytes, the bytes at the end of a word, start and end.`,
      field: "vocabulary",
    });
  }
  const counts = wordCounts(captions);
  if (counts.size === 0) {
    throw new UserError("There are no words to learn a vocabulary from.", { field: "vocabulary" });
  }
  // Ids while learning: the vocabulary's own, whose last two tokens move on by one with each merge.
  const names = clipVocabulary().tokens.slice(0, -2);
  const idOf = new Map(names.map((name, id) => [name, id]));
  const words = Array.from(counts, ([word, count]): Word => {
    const symbols = [...word];
    const last = symbols.pop()! + WORD_END;
    return { tokens: [...symbols, last].map((symbol) => idOf.get(symbol)!), count };
  });
  const pairs = new PairCounts(words);
  const merges: [string, string][] = [];
  for (let room = size - UNMERGED; room > 0; room--) {
    const best = pairs.mostFrequent();
    if (!best || best.count < Math.max(minimum, 1)) break;
    const [left, right] = best.pair;
    // Never a name that there is: a token's text is made by the same merges wherever it stands in a word, and "</w>" is
    // no part of a word, its letter and its signs being words of their own.
    merges.push([names[left]!, names[right]!]);
    pairs.merge(best.pair, names.push(names[left]! + names[right]!) - 1);
  }
  return clipVocabulary(merges);
}

/** How often each word stands in the captions. */
function wordCounts(captions: Iterable<string>): Map<string, number> {
  const { words } = clipTokenizerOf(clipVocabulary());
  const counts = new Map<string, number>();
  for (const caption of captions) {
    for (const word of words(caption)) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return counts;
}

type Pair = readonly [left: number, right: number];

/** One number for a pair of ids; smaller for older tokens. */
const SPAN = 2 ** 24;
const keyOf = (left: number, right: number) => left * SPAN + right;
const pairOf = (key: number): Pair => [Math.floor(key / SPAN), key % SPAN];

/** How often each pair of neighbours stands in the words, kept up to date while pairs are merged. */
class PairCounts {
  private readonly counts = new Map<number, number>();
  /** Words that have the pair, or once had it. */
  private readonly places = new Map<number, Set<Word>>();
  private readonly queue = new Queue();

  constructor(words: Iterable<Word>) {
    for (const word of words) this.count(word, 1);
    for (const [key, count] of this.counts) this.queue.push(count, key);
  }

  mostFrequent(): { readonly pair: Pair; readonly count: number } | undefined {
    for (let top = this.queue.pop(); top; top = this.queue.pop()) {
      const count = this.counts.get(top.key) ?? 0;
      if (count === top.count) return { pair: pairOf(top.key), count };
      // Counts that fell since are put back in their place; those that rose stand in the queue already.
      if (count > 0 && count < top.count) this.queue.push(count, top.key);
    }
    return undefined;
  }

  /** Makes one token of every occurrence of a pair, from the left. */
  merge([left, right]: Pair, merged: number): void {
    const key = keyOf(left, right);
    const touched = new Set<number>();
    for (const word of this.places.get(key) ?? []) {
      this.count(word, -1);
      const { tokens } = word;
      const next: number[] = [];
      for (let i = 0; i < tokens.length; i++) {
        const found = tokens[i] === left && tokens[i + 1] === right;
        next.push(found ? merged : tokens[i]!);
        if (found) i++;
      }
      word.tokens = next;
      this.count(word, 1, touched);
    }
    this.counts.delete(key);
    this.places.delete(key);
    for (const each of touched) {
      const count = this.counts.get(each) ?? 0;
      if (count > 0) this.queue.push(count, each);
    }
  }

  private count(word: Word, sign: 1 | -1, touched?: Set<number>): void {
    for (let i = 1; i < word.tokens.length; i++) {
      const key = keyOf(word.tokens[i - 1]!, word.tokens[i]!);
      this.counts.set(key, (this.counts.get(key) ?? 0) + sign * word.count);
      if (sign < 0) continue;
      touched?.add(key);
      const places = this.places.get(key);
      if (places) places.add(word);
      else this.places.set(key, new Set([word]));
    }
  }
}

/** Pairs with their counts, the largest count first; of equal ones the smallest key. A binary heap. */
class Queue {
  private readonly items: { readonly count: number; readonly key: number }[] = [];

  push(count: number, key: number): void {
    const { items } = this;
    let place = items.push({ count, key }) - 1;
    while (place > 0 && this.before(place, (place - 1) >> 1)) place = this.swap(place, (place - 1) >> 1);
  }

  pop(): { readonly count: number; readonly key: number } | undefined {
    const { items } = this;
    if (items.length === 0) return undefined;
    this.swap(0, items.length - 1);
    const first = items.pop();
    let place = 0;
    for (;;) {
      const [left, right] = [2 * place + 1, 2 * place + 2];
      const child = right < items.length && this.before(right, left) ? right : left;
      if (child >= items.length || !this.before(child, place)) return first;
      place = this.swap(place, child);
    }
  }

  private before(a: number, b: number): boolean {
    const [one, other] = [this.items[a]!, this.items[b]!];
    return one.count > other.count || (one.count === other.count && one.key < other.key);
  }

  /** Changes places; gives the second. */
  private swap(a: number, b: number): number {
    const { items } = this;
    [items[a], items[b]] = [items[b]!, items[a]!];
    return b;
  }
}
