import { invariant } from "../../core/errors.ts";
import type { TextTokenizer } from "../../io/index.ts";
import { parsePromptWeights } from "./prompt-weights.ts";

/** How a prompt is read. */
export interface PromptReading {
  /** Reads (word:1.3) as weights. */
  readonly weights?: boolean;
  /** Encodes longer texts in several parts, where otherwise their end is cut off. */
  readonly chunks?: boolean;
  /** Tokens that T5 sees; default: those of the model. */
  readonly textLength?: number;
}

/** As many tokens as a text encoder takes: text, end, padding; CLIP's have a start. */
export interface TokenChunk {
  readonly ids: readonly number[];
  /** Of each token; undefined where all are 1. */
  readonly weights?: readonly number[];
  /** 1 for each token and 0 for padding, where that is not to be seen. */
  readonly mask?: readonly number[];
  /** The place of the end token: before it stands the text, behind it padding. */
  readonly end: number;
}

/** A token of a text, and how much it counts. */
export interface WeightedToken {
  readonly id: number;
  readonly weight: number;
}

/** A text as its encoder takes it. */
export interface ReadPrompt {
  readonly chunks: TokenChunk[];
  /** A chunk without a text. */
  readonly empty: TokenChunk;
  /** What is not seen of the text, and its tokens. */
  readonly dropped: string;
  readonly unseen: readonly WeightedToken[];
}

/** A text for CLIP, in chunks of `length` tokens. */
export function tokenChunks(
  { tokenizer, length }: { readonly tokenizer: TextTokenizer; readonly length: number },
  text: string,
  { weights = false, chunks: long = false }: PromptReading = {},
): ReadPrompt {
  const pieces = weights ? parsePromptWeights(text) : [{ text, weight: 1 }];
  const tokens = pieces.flatMap((piece) => {
    const ids = tokenizer.encode(piece.text);
    invariant(ids[0] === tokenizer.start && ids.at(-1) === tokenizer.end, "a text without its start or end token");
    return ids.slice(1, -1).map((id) => ({ id, weight: piece.weight }));
  });
  const chunkOf = (part: readonly WeightedToken[]): TokenChunk => {
    const padding = length - part.length - 2;
    const filled = <T>(before: T, middle: readonly T[], after: T, rest: T) => [
      ...[before, ...middle, after],
      ...Array<T>(padding).fill(rest),
    ];
    const ids = part.map(({ id }) => id);
    return {
      end: part.length + 1,
      ids: filled(tokenizer.start!, ids, tokenizer.end, tokenizer.padding),
      weights: part.every(({ weight }) => weight === 1)
        ? undefined
        : filled(
            1,
            part.map(({ weight }) => weight),
            1,
            1,
          ),
    };
  };
  const room = length - 2;
  const count = long ? Math.max(1, Math.ceil(tokens.length / room)) : 1;
  const unseen = tokens.slice(count * room);
  return {
    chunks: Array.from({ length: count }, (_, i) => chunkOf(tokens.slice(i * room, (i + 1) * room))),
    empty: chunkOf([]),
    dropped: tokenizer.decode(unseen.map(({ id }) => id)),
    unseen,
  };
}
