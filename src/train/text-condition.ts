import { UserError } from "../core/errors.ts";
import { type HostTensor, int64 } from "../core/host-tensor.ts";
import { input } from "../graph/index.ts";
import { type ClipVocabulary, clipTokenizerOf, type TextTokenizer, writeClipTokenizer } from "../io/index.ts";
import { type Config, clipText } from "../models/index.ts";
import type { Condition } from "./condition.ts";

/** A text encoder to be trained from nothing. */
export interface TextEncoderShape {
  /** Tokens of the vocabulary; the last is the one that ends a text. */
  readonly vocabulary: number;
  /** The tokens it has positions for, start and end included. */
  readonly maxLength: number;
  readonly width?: number;
  readonly layers?: number;
  readonly heads?: number;
}

/**
 * The `CLIPTextModel` configuration of a shape. Start, end and padding are the last two tokens of the vocabulary, as
 * `learnVocabulary` has them.
 *
 * @throws UserError where the heads do not divide the width
 */
export function textEncoderConfig({
  vocabulary,
  maxLength,
  width = 192,
  layers = 4,
  heads = Math.max(1, Math.round(width / 48)),
}: TextEncoderShape): Config {
  if (width % heads !== 0) {
    throw new UserError(`A text encoder of width ${width} cannot have ${heads} heads.`, {
      hint: "The number of heads must divide the width.",
      field: "textHeads",
    });
  }
  return {
    architectures: ["CLIPTextModel"],
    model_type: "clip_text_model",
    vocab_size: vocabulary,
    hidden_size: width,
    intermediate_size: 4 * width,
    projection_dim: width,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    max_position_embeddings: maxLength,
    hidden_act: "quick_gelu",
    bos_token_id: vocabulary - 2,
    eos_token_id: vocabulary - 1,
    pad_token_id: vocabulary - 1,
  };
}

/** Options of {@link trainedText}. */
export interface TrainedTextOptions extends Omit<TextEncoderShape, "vocabulary"> {
  readonly vocabulary: ClipVocabulary;
}

/**
 * Captions through a text encoder that is trained together with the denoiser, as in the first latent diffusion models
 * (Rombach et al. 2022, section 3.3): a `CLIPTextModel` from nothing, over a vocabulary of the captions' own. The denoiser
 * sees all tokens, padding included, as Stable Diffusion does; the pooled text is the state at its end.
 */
export function trainedText({ vocabulary, ...shape }: TrainedTextOptions): Condition {
  const config = textEncoderConfig({ ...shape, vocabulary: vocabulary.tokens.length });
  const { maxLength } = shape;
  const encoder = clipText(config);
  const width = encoder.config.hidden_size;
  const tokenizer = clipTokenizerOf(vocabulary, { maxLength });
  const known = new Map<string, readonly number[]>();
  const idsOf = (caption: string): readonly number[] => {
    const ids = known.get(caption) ?? tokenizer.encodePadded(caption).ids;
    known.set(caption, ids);
    return ids;
  };
  return {
    shape: { text: { tokens: maxLength, width, pooledWidth: width, masked: false } },
    parts: { text_encoder: encoder },
    none: "",
    states(count) {
      const { last, pooled } = encoder(input("captions", [count, maxLength], "int64"));
      return { sequence: last, pooled };
    },
    feeds: (captions) => ({ captions: int64([captions.length, maxLength], captions.flatMap(idsOf)) }),
    warnings: (captions) => cutCaptions(tokenizer, maxLength, captions),
    components: (weights) => ({
      text_encoder: {
        className: "CLIPTextModel",
        library: "transformers",
        config: encoder.config,
        tensors: weightsOf("text_encoder", weights),
      },
      tokenizer: {
        className: "CLIPTokenizer",
        library: "transformers",
        write: (folder) => writeClipTokenizer(folder, vocabulary, { maxLength }),
      },
    }),
  };
}

/** The weights of one of several networks that are trained together: those whose names begin with its own, without it. */
export function weightsOf(part: string, weights: ReadonlyMap<string, HostTensor>): Map<string, HostTensor> {
  const prefix = `${part}.`;
  return new Map(
    [...weights].flatMap(([name, tensor]) => (name.startsWith(prefix) ? [[name.slice(prefix.length), tensor]] : [])),
  );
}

/** The most tokens that one of the captions has, start and end included. */
export function longestCaption(tokenizer: TextTokenizer, captions: Iterable<string>): number {
  let most = 0;
  for (const caption of captions) most = Math.max(most, tokenizer.encode(caption).length);
  return most;
}

/** Says which captions are longer than a text encoder can read. */
export function cutCaptions(tokenizer: TextTokenizer, maxLength: number, captions: Iterable<string>): string[] {
  let first: string | undefined;
  let count = 0;
  for (const caption of new Set(captions)) {
    const { dropped } = tokenizer.encodePadded(caption, maxLength);
    if (dropped === "") continue;
    first ??= `“${caption}” ends before “${dropped}”`;
    count++;
  }
  if (!first) return [];
  const number = count === 1 ? "One caption has" : `${count} captions have`;
  return [`${number} more than the ${maxLength} tokens that the text encoder reads: ${first}.`];
}
