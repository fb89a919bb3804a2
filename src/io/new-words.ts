import { invariant } from "../core/errors.ts";
import { cutAndPadded, type TextTokenizer } from "./tokenizer.ts";

/**
 * A tokenizer that also knows words which its vocabulary has not: each stands for some ids of its own, wherever it is in a
 * text and as it is written there, of several at one place the longest. What is around it is read as a text of its own.
 *
 * @param tokenizer one that puts a token before a text and one behind it, as CLIP's does
 * @param ids of each word; none of them is an id of the vocabulary
 */
export function withNewWords(tokenizer: TextTokenizer, ids: ReadonlyMap<string, readonly number[]>): TextTokenizer {
  if (ids.size === 0) return tokenizer;
  const longestFirst = [...ids.keys()].sort((a, b) => b.length - a.length);
  const pattern = new RegExp(
    `(${longestFirst.map((word) => word.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&")).join("|")})`,
  );
  const places = new Map([...ids].flatMap(([word, own]) => own.map((id, place) => [id, { word, place }] as const)));

  const encode = (text: string): number[] => {
    // Split at a pattern in parentheses, every second piece is what it found.
    const inner = text.split(pattern).flatMap((piece, i) => {
      if (i % 2 === 1) return ids.get(piece)!;
      const read = tokenizer.encode(piece);
      invariant(read[0] === tokenizer.start && read.at(-1) === tokenizer.end, "a text without its start or end token");
      return read.slice(1, -1);
    });
    return [tokenizer.start!, ...inner, tokenizer.end];
  };
  const decode = (all: readonly number[]): string => {
    const said: string[] = [];
    let run: number[] = [];
    const endRun = () => {
      const text = tokenizer.decode(run);
      if (text !== "") said.push(text);
      run = [];
    };
    for (const [i, id] of all.entries()) {
      const own = places.get(id);
      if (!own) run.push(id);
      // A word of several ids is said once, at the first of them that is there.
      else if (own.place === 0 || ids.get(own.word)![own.place - 1] !== all[i - 1]) {
        endRun();
        said.push(own.word);
      }
    }
    endRun();
    return said.join(" ");
  };
  return {
    ...tokenizer,
    ...{ encode, decode },
    encodePadded: (text, length = tokenizer.maxLength!) => cutAndPadded(encode(text), length, { ...tokenizer, decode }),
    words: (text) => text.split(pattern).flatMap((piece, i) => (i % 2 === 1 ? [] : tokenizer.words(piece))),
    tokenOf: (id) => places.get(id)?.word ?? tokenizer.tokenOf(id),
  };
}
