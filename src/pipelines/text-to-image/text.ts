import { UserError } from "../../core/errors.ts";
import { float32, int64, sizeOf } from "../../core/host-tensor.ts";
import type { Samples } from "../../diffusion/index.ts";
import type { Tensor } from "../../graph/index.ts";
import { type ComputeOptions, partSessions, type WeightChange } from "../part-sessions.ts";
import type { TextEncoder, TextToImageModel } from "./folder.ts";
import { type PromptReading, type TokenChunk, tokenChunks } from "./token-chunks.ts";

/** A text as the U-Net sees it. */
export interface EncodedText {
  /** [1, tokens, width]: of several encoders side by side. */
  readonly states: Samples;
  /** [1, width]: the last encoder's, where it has a projection. */
  readonly pooled: Samples;
}

/** What was cut off a prompt because a text encoder has no positions for it. */
export interface DroppedText {
  readonly text: string;
  readonly dropped: string;
}

export interface TextOptions extends PromptReading {
  /** Parts that the text is filled up to with empty ones. */
  readonly parts?: number;
  /** Last layers that are left out. */
  readonly clipSkip?: number;
  readonly signal?: AbortSignal;
  /** Adapters, by the name of the encoder. */
  readonly change?: (part: string) => WeightChange | undefined;
}

/** The text encoders of a model. */
export interface TextEncoders {
  /** Encodes a text; with two encoders, the second's own text. */
  encode(texts: readonly [string, string], options?: TextOptions): Promise<EncodedText>;
  /** Ids of a text for each encoder, cut and padded. */
  tokens(texts: readonly [string, string]): (readonly number[])[];
  /** In how many parts a text is encoded. */
  parts(texts: readonly [string, string], reading?: PromptReading): number;
  /** What the encoders do not see of a text. */
  dropped(texts: readonly [string, string], reading?: PromptReading): DroppedText[];
  close(): Promise<void>;
}

/** Encodings that are kept for the next picture. */
const KEPT = 32;

/**
 * Opens the text encoders of a model. Stable Diffusion takes the last state, normalized; SDXL the state before the last
 * layer as it is, of both encoders, and the pooled text of the last one (Podell et al. 2023, section 2.1).
 */
export function textEncoders(folder: TextToImageModel, compute: ComputeOptions): TextEncoders {
  const encoders = folder.textEncoders;
  const sessions = encoders.map(({ part }) => partSessions(part, compute));
  const penultimate = folder.sizeConditions;
  const known = new Map<string, Promise<EncodedText>>();
  // A single encoder that is the second one (SDXL's refiner) sees the second text.
  const textFor = (texts: readonly [string, string], i: number) =>
    encoders[i]!.part.name === "text_encoder_2" ? texts[1] : texts[0];

  const encodeChunk = async (i: number, { ids, weights }: TokenChunk, options: TextOptions): Promise<EncodedText> => {
    const encoder = encoders[i]!;
    const { part } = encoder;
    const layer = layerOf(encoder, options.clipSkip ?? 0, penultimate);
    const job = {
      name: `layer ${layer}`,
      feeds: { ids: int64([1, ids.length], ids) },
      graph: (inputs: Readonly<Record<string, Tensor>>) => {
        const { last, hidden, pooled } = part.network(inputs.ids!);
        const normalize = part.network.parts.text_model.parts.final_layer_norm;
        const chosen = hidden[layer]!;
        const states = penultimate ? chosen : layer === hidden.length - 1 ? last : normalize(chosen);
        return { states, pooled };
      },
    };
    const { states, pooled } = await sessions[i]!.run(job, { ...options, change: options.change?.(part.name) });
    return { states: weights ? weighted(states as Samples, weights) : (states as Samples), pooled: pooled as Samples };
  };
  const encodeWith = async (i: number, text: string, options: TextOptions): Promise<EncodedText> => {
    const { chunks, empty } = tokenChunks(encoders[i]!, text, options);
    while (chunks.length < (options.parts ?? 1)) chunks.push(empty);
    const encoded: EncodedText[] = [];
    for (const chunk of chunks) encoded.push(await encodeChunk(i, chunk, options));
    return { states: oneAfterAnother(encoded.map(({ states }) => states)), pooled: encoded[0]!.pooled };
  };

  return {
    async encode(texts, options = {}) {
      const changes = encoders.map(({ part }) => options.change?.(part.name)?.key ?? "");
      const key = JSON.stringify([
        encoders.map((_, i) => textFor(texts, i)),
        ...[options.clipSkip ?? 0, options.weights, options.chunks, options.parts ?? 1, changes],
      ]);
      const encoded =
        known.get(key) ??
        (async () => {
          const each: EncodedText[] = [];
          for (const i of encoders.keys()) each.push(await encodeWith(i, textFor(texts, i), options));
          return { states: sideBySide(each.map(({ states }) => states)), pooled: each.at(-1)!.pooled };
        })();
      known.delete(key);
      known.set(key, encoded);
      encoded.catch(() => known.delete(key));
      for (const oldest of known.keys()) {
        if (known.size <= KEPT) break;
        known.delete(oldest);
      }
      return encoded;
    },
    tokens: (texts) => encoders.map((encoder, i) => tokenChunks(encoder, textFor(texts, i)).chunks[0]!.ids),
    parts: (texts, reading) =>
      Math.max(...encoders.map((encoder, i) => tokenChunks(encoder, textFor(texts, i), reading).chunks.length)),
    dropped: (texts, reading) => {
      const all = encoders.map((encoder, i) => {
        const text = textFor(texts, i);
        return { text, dropped: tokenChunks(encoder, text, reading).dropped };
      });
      const cut = all.filter(({ dropped }) => dropped !== "");
      return cut.filter(({ text }, i) => cut.findIndex((other) => other.text === text) === i);
    },
    async close() {
      await Promise.all(sessions.map((one) => one.close()));
    },
  };
}

/** Which hidden state is taken: 0 is the embeddings. */
function layerOf({ part }: TextEncoder, clipSkip: number, penultimate: boolean): number {
  const layers = part.network.config.num_hidden_layers;
  const layer = layers - clipSkip - (penultimate ? 1 : 0);
  if (layer >= 0) return layer;
  throw new UserError(`clipSkip ${clipSkip} leaves nothing of a text encoder with ${layers} layers.`, {
    hint: `Give at most ${layers - (penultimate ? 1 : 0)}.`,
    field: "clipSkip",
  });
}

/** Tensors [1, tokens, widthₖ] as one [1, tokens, Σ widthₖ]. */
function sideBySide(states: readonly Samples[]): Samples {
  if (states.length === 1) return states[0]!;
  const tokens = states[0]!.shape[1]!;
  const widths = states.map(({ shape }) => shape[2]!);
  const width = widths.reduce((sum, one) => sum + one, 0);
  const data = new Float32Array(tokens * width);
  let at = 0;
  states.forEach(({ data: own }, i) => {
    const w = widths[i]!;
    for (let t = 0; t < tokens; t++) data.set(own.subarray(t * w, (t + 1) * w), t * width + at);
    at += w;
  });
  return float32([1, tokens, width], data);
}

/** Tensors [1, tokensₖ, width] as one [1, Σ tokensₖ, width]. */
function oneAfterAnother(states: readonly Samples[]): Samples {
  if (states.length === 1) return states[0]!;
  const { data, shape } = stacked(states);
  return float32([1, states.length * shape[1]!, shape[2]!], data);
}

/**
 * States of tokens times their weights, with the mean of all as it was: the emphasis of AUTOMATIC1111's web UI.
 *
 * @param states [1, tokens, width]
 */
function weighted({ shape, data }: Samples, weights: readonly number[]): Samples {
  const width = shape[2]!;
  const changed = data.map((value, i) => value * weights[Math.floor(i / width)]!);
  const mean = (values: Float32Array) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const factor = mean(data) / mean(changed);
  return float32(
    shape,
    changed.map((value) => value * factor),
  );
}

/** Tensors [1, …] one below the other: [n, …]. */
export function stacked(rows: readonly Samples[]): Samples {
  const shape = [rows.length, ...rows[0]!.shape.slice(1)];
  const data = new Float32Array(sizeOf(shape));
  rows.forEach((row, i) => {
    data.set(row.data, i * row.data.length);
  });
  return float32(shape, data);
}
