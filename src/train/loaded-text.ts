import { type HostTensor, int64 } from "../core/host-tensor.ts";
import { add, cast, concat, equal, filled, gather, input, mul, reshape, type Tensor } from "../graph/index.ts";
import { type TextTokenizer, withNewWords } from "../io/index.ts";
import type { ClipText } from "../models/index.ts";
import type { Condition } from "./condition.ts";
import { cutCaptions } from "./text-condition.ts";

/** A word with embeddings of its own, beside those of an encoder's table. */
export interface OwnWord {
  readonly word: string;
  /** [vectors, width]: the word becomes so many tokens. */
  readonly rows: Tensor;
}

/**
 * Captions through the text encoder of a model, as a part of the graph: so its weights, or embeddings for a word, can learn.
 * What it computes is what Stable Diffusion is shown: all tokens after the last normalization, padding included.
 */
export function loadedText(
  encoder: ClipText,
  tokenizer: TextTokenizer,
  { maxLength, own }: { readonly maxLength: number; readonly own?: OwnWord },
): Condition {
  const width = encoder.config.hidden_size;
  // Its tokens have ids that the vocabulary does not have: −1, −2, … −vectors.
  const ids = Array.from({ length: own?.rows.shape[0] ?? 0 }, (_, i) => -1 - i);
  const read = own ? withNewWords(tokenizer, new Map([[own.word, ids]])) : tokenizer;
  const known = new Map<string, readonly number[]>();
  const idsOf = (caption: string): readonly number[] => {
    const ids = known.get(caption) ?? read.encodePadded(caption, maxLength).ids;
    known.set(caption, ids);
    return ids;
  };
  return {
    shape: { text: { tokens: maxLength, width, pooledWidth: width, masked: false } },
    parts: {},
    none: "",
    states(count) {
      const ids = input("captions", [count, maxLength], "int64");
      if (!own) return { sequence: encoder(ids).last };
      const ofWord = input("captions.word", [count, maxLength], "int64");
      return { sequence: encoder(ids, undefined, embedded(encoder, ids, ofWord, own.rows)).last };
    },
    feeds(captions): Record<string, HostTensor> {
      const ids = captions.flatMap(idsOf);
      const shape = [captions.length, maxLength];
      if (!own) return { captions: int64(shape, ids) };
      // The word's tokens are negative: -1 is its first vector.
      return {
        captions: int64(
          shape,
          ids.map((id) => Math.max(id, 0)),
        ),
        "captions.word": int64(
          shape,
          ids.map((id) => Math.max(-id, 0)),
        ),
      };
    },
    warnings: (captions) => cutCaptions(read, maxLength, captions),
    components: () => ({}),
  };
}

/** Embeddings [n, tokens, width]: of `ids` in the encoder's table, or where `ofWord` is k > 0, the word's row k − 1. */
function embedded(encoder: ClipText, ids: Tensor, ofWord: Tensor, rows: Tensor): Tensor {
  const [n, tokens] = ids.shape as [number, number];
  const { token_embedding } = encoder.parts.text_model.parts.embeddings.parts;
  const others = reshape(cast(equal(ofWord, 0), "float32"), [n, tokens, 1]);
  // A row of zeros for tokens that are not the word's, so that the table is not copied in every step.
  const own = gather(concat([filled([1, rows.shape[1]!], 0), rows], 0), ofWord);
  return add(mul(token_embedding(ids), others), own);
}
