import { UserError } from "../../core/errors.ts";
import { float32, int64 } from "../../core/host-tensor.ts";
import type { Tensor } from "../../graph/index.ts";
import { type EncodedPrompt, type TextTokenizer, withNewWords } from "../../io/index.ts";
import {
  type ClipText,
  clipText,
  clipTextWithProjection,
  t5Encoder,
  textEmbeddingBinding,
} from "../../models/index.ts";
import type { Part, PartJob, WeightChange } from "../part-sessions.ts";
import type { StoredTextEncoder } from "./model.ts";
import { newWordIds } from "./new-words.ts";
import { type PromptReading, type ReadPrompt, type TokenChunk, tokenChunks } from "./token-chunks.ts";

/** A text encoder with the tokenizer that belongs to it. */
export interface TextEncoder {
  readonly part: Part;
  /** Whether it is large and bears rounded weights: CLIP is neither. */
  readonly quantizable: boolean;
  readonly tokenizer: TextTokenizer;
  /** Gives its network words that it was not trained with. */
  readonly change?: WeightChange;
  /** How wide its results are. */
  readonly width: { readonly states: number; readonly pooled?: number };
  /** A text as the encoder takes it. */
  read(text: string, reading?: PromptReading): ReadPrompt;
  /** Asks for the `states` [1, tokens, width] of a chunk and, where the encoder has one, its `pooled` form [1, width]. */
  job(chunk: TokenChunk, options: { readonly clipSkip?: number }): PartJob;
}

/**
 * CLIP's text encoder. Stable Diffusion 1.x and 2.x take its last state, normalized; later models take a state before the
 * last layer as it is (Podell et al. 2023, section 2.1).
 */
export function clipEncoder(
  { name, part: stored, tokenizer: own, embeddings = [] }: StoredTextEncoder,
  { penultimate }: { readonly penultimate: boolean },
): TextEncoder {
  const projected = stored.className === "CLIPTextModelWithProjection";
  // Older configurations have the end of a text be where its highest id is, which is a new word's.
  const end = embeddings.length > 0 ? { eos_token_id: own.end } : {};
  const network = (projected ? clipTextWithProjection : clipText)({ ...stored.config, ...end });
  const tokenizer = withNewWords(own, newWordIds(embeddings, own, network.config.vocab_size));
  const apply = textEmbeddingBinding(network, name, embeddings);
  const { max_position_embeddings: positions, hidden_size: states, projection_dim: projection } = network.config;
  // Tokens that the encoder has positions for, or fewer where its tokenizer says so.
  const length = Math.min(tokenizer.maxLength ?? positions, positions);
  return {
    part: { name, network, weights: stored.weights },
    quantizable: false,
    tokenizer,
    ...(embeddings.length > 0 ? { change: { key: "new words", apply } } : {}),
    width: { states, pooled: projected ? projection : states },
    read: (text, reading) => tokenChunks({ tokenizer, length }, text, reading),
    job: ({ ids }, { clipSkip = 0 }) => {
      const layer = layerOf(network, clipSkip, penultimate);
      return {
        name: `layer ${layer}`,
        feeds: { ids: int64([1, ids.length], ids) },
        graph: (inputs: Readonly<Record<string, Tensor>>) => {
          const { last, hidden, pooled } = network(inputs.ids!);
          const normalize = network.parts.text_model.parts.final_layer_norm;
          const chosen = hidden[layer]!;
          const states = penultimate ? chosen : layer === hidden.length - 1 ? last : normalize(chosen);
          return { states, pooled };
        },
      };
    },
  };
}

export interface T5Options {
  /** Tokens of a text, where a request does not say. */
  readonly length: number;
  /** Padding is not seen: neither by the encoder nor by who reads its states. */
  readonly masked?: boolean;
  /** What is done to a text first. */
  readonly prepare?: (text: string) => string;
}

/** T5's encoder (Raffel et al. 2020): a text is cut and padded to one length. */
export function t5TextEncoder(
  { name, part: stored, tokenizer, embeddings = [] }: StoredTextEncoder,
  { length, masked = false, prepare = (text) => text }: T5Options,
): TextEncoder {
  if (embeddings.length > 0) {
    throw new UserError(`The ${name} is T5's, for which embeddings of words are not made.`, {
      hint: "They are for models that read prompts with CLIP alone: Stable Diffusion 1.x, 2.x and XL.",
      field: "embeddings",
    });
  }
  const network = t5Encoder(stored.config);
  return {
    part: { name, network, weights: stored.weights },
    quantizable: true,
    tokenizer,
    width: { states: network.config.d_model },
    read(text, { textLength = length } = {}) {
      const chunkOf = ({ ids, used }: EncodedPrompt): TokenChunk => ({
        ids,
        end: used - 1,
        mask: masked ? ids.map((_, i) => (i < used ? 1 : 0)) : undefined,
      });
      const encoded = tokenizer.encodePadded(prepare(text), textLength);
      const empty = chunkOf(tokenizer.encodePadded("", textLength));
      const lost = encoded.dropped === "" ? [] : tokenizer.encode(prepare(text)).slice(textLength - 1, -1);
      const unseen = lost.map((id) => ({ id, weight: 1 }));
      return { chunks: [chunkOf(encoded)], empty, dropped: encoded.dropped, unseen };
    },
    job: ({ ids, mask }) => ({
      name: "states",
      feeds: {
        ids: int64([1, ids.length], ids),
        ...(mask ? { mask: float32([1, mask.length], mask) } : {}),
      },
      graph: (inputs: Readonly<Record<string, Tensor>>) => ({ states: network(inputs.ids!, inputs.mask).last }),
    }),
  };
}

/** Which hidden state is taken: 0 is the embeddings. */
function layerOf(network: ClipText, clipSkip: number, penultimate: boolean): number {
  const layers = network.config.num_hidden_layers;
  const layer = layers - clipSkip - (penultimate ? 1 : 0);
  if (layer >= 0) return layer;
  throw new UserError(`clipSkip ${clipSkip} leaves nothing of a text encoder with ${layers} layers.`, {
    hint: `Give at most ${layers - (penultimate ? 1 : 0)}.`,
    field: "clipSkip",
  });
}
