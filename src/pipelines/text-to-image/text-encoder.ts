import { UserError } from "../../core/errors.ts";
import { int64 } from "../../core/host-tensor.ts";
import type { Tensor } from "../../graph/index.ts";
import type { TextTokenizer } from "../../io/index.ts";
import { type ClipText, clipText, clipTextWithProjection } from "../../models/index.ts";
import type { Part, PartJob } from "../part-sessions.ts";
import type { StoredTextEncoder } from "./model.ts";
import { type PromptReading, type ReadPrompt, type TokenChunk, tokenChunks } from "./token-chunks.ts";

/** A text encoder with the tokenizer that belongs to it. */
export interface TextEncoder {
  readonly part: Part;
  readonly tokenizer: TextTokenizer;
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
  { name, part: stored, tokenizer }: StoredTextEncoder,
  { penultimate }: { readonly penultimate: boolean },
): TextEncoder {
  const build = stored.className === "CLIPTextModelWithProjection" ? clipTextWithProjection : clipText;
  const network = build(stored.config);
  const { max_position_embeddings: positions } = network.config;
  // Tokens that the encoder has positions for, or fewer where its tokenizer says so.
  const length = Math.min(tokenizer.maxLength ?? positions, positions);
  return {
    part: { name, network, weights: stored.weights },
    tokenizer,
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
