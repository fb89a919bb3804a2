import { float32, sizeOf } from "../../core/host-tensor.ts";
import type { Samples } from "../../diffusion/index.ts";
import { effectOf, type PartOptions, partSessions, type WeightChange } from "../part-sessions.ts";
import type { TextToImageModel } from "./model.ts";
import { type PromptTable, promptTokens } from "./prompt-tokens.ts";
import type { TextEncoder } from "./text-encoder.ts";
import type { PromptReading, TokenChunk } from "./token-chunks.ts";

/** A text as a text encoder gives it, or as the denoising network sees it. */
export interface EncodedText {
  /** [1, tokens, width] */
  readonly states: Samples;
  /** [1, width], where there is one. */
  readonly pooled?: Samples;
  /** Which tokens count, [1, tokens] of 1 and 0; without it all of them. */
  readonly mask?: Samples;
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

/** A text for each encoder, by its number: the second is that of `text_encoder_2`. */
export type TextForEach = readonly string[];

/** The text encoders of a model. */
export interface TextEncoders {
  /** Encodes a text, as the denoising network sees it. */
  encode(texts: TextForEach, options?: TextOptions): Promise<EncodedText>;
  /** Ids of a text for each encoder, cut and padded. */
  tokens(texts: TextForEach): (readonly number[])[];
  /** In how many parts a text is encoded. */
  parts(texts: TextForEach, reading?: PromptReading): number;
  /** The tokens of a text for each encoder, with those that fall off the end. */
  table(texts: TextForEach, reading?: PromptReading): PromptTable[];
  /** What the encoders do not see of a text. */
  dropped(texts: TextForEach, reading?: PromptReading): DroppedText[];
  close(): Promise<void>;
}

/** Encodings that are kept for the next picture. */
const KEPT = 32;

/** Opens the text encoders of a model. */
export function textEncoders(
  { textEncoders: encoders, family }: Pick<TextToImageModel, "textEncoders" | "family">,
  { quantize, ...compute }: PartOptions,
): TextEncoders {
  const sessions = encoders.map(({ part, quantizable }) =>
    partSessions(part, { ...compute, quantize: quantizable ? quantize : undefined }),
  );
  const known = new Map<string, Promise<EncodedText>>();
  const textFor = (texts: TextForEach, i: number) => texts[numberOf(encoders[i]!) - 1]!;

  const encodeChunk = async (i: number, chunk: TokenChunk, options: TextOptions): Promise<EncodedText> => {
    const { part, job, change: words } = encoders[i]!;
    const change = together(words, options.change?.(part.name));
    const { states, ...others } = await sessions[i]!.run(job(chunk, options), { signal: options.signal, change });
    const { weights, mask } = chunk;
    const seen = mask && { mask: float32([1, mask.length], mask) };
    return { ...others, ...seen, states: weights ? weighted(states as Samples, weights) : (states as Samples) };
  };
  const encodeWith = async (i: number, text: string, options: TextOptions): Promise<EncodedText> => {
    const { chunks, empty } = encoders[i]!.read(text, options);
    while (chunks.length < (options.parts ?? 1)) chunks.push(empty);
    const encoded: EncodedText[] = [];
    for (const chunk of chunks) encoded.push(await encodeChunk(i, chunk, options));
    return { ...encoded[0]!, states: oneAfterAnother(encoded.map(({ states }) => states)) };
  };

  return {
    async encode(texts, options = {}) {
      const changes = encoders.map(({ part }) => effectOf(options.change?.(part.name)));
      const key = JSON.stringify([
        encoders.map((_, i) => textFor(texts, i)),
        ...[options.clipSkip ?? 0, options.weights, options.chunks, options.textLength, options.parts ?? 1, changes],
      ]);
      const encoded =
        known.get(key) ??
        (async () => {
          const each: EncodedText[] = [];
          for (const i of encoders.keys()) each.push(await encodeWith(i, textFor(texts, i), options));
          return family.encoded(each);
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
    tokens: (texts) => encoders.map((encoder, i) => encoder.read(textFor(texts, i)).chunks[0]!.ids),
    parts: (texts, reading) =>
      Math.max(...encoders.map((encoder, i) => encoder.read(textFor(texts, i), reading).chunks.length)),
    table: (texts, reading) =>
      encoders.map(({ part, tokenizer, read }, i) => {
        const prompt = textFor(texts, i);
        const seen = read(prompt, reading);
        const tokens = promptTokens(tokenizer, seen);
        const room = tokens.filter(({ chunk, kind }) => chunk === 0 && (kind === "text" || kind === "padding")).length;
        return { encoder: part.name, prompt, room, tokens, dropped: seen.dropped };
      }),
    dropped: (texts, reading) => {
      const all = encoders.map((encoder, i) => {
        const text = textFor(texts, i);
        return { text, dropped: encoder.read(text, reading).dropped };
      });
      const cut = all.filter(({ dropped }) => dropped !== "");
      return cut.filter(({ text }, i) => cut.findIndex((other) => other.text === text) === i);
    },
    async close() {
      await Promise.all(sessions.map((one) => one.close()));
    },
  };
}

/** Both changes, the second made first; only one of them has switches. */
function together(one: WeightChange | undefined, other: WeightChange | undefined): WeightChange | undefined {
  if (!one || !other) return one ?? other;
  const switches = one.switches ?? other.switches;
  return {
    key: `${one.key}; ${other.key}`,
    apply: (bind) => one.apply(other.apply(bind)),
    ...(switches ? { switches } : {}),
  };
}

/** 1 for `text_encoder`, 2 for `text_encoder_2`: a single encoder may be the second, as of SDXL's refiner. */
function numberOf({ part }: TextEncoder): number {
  return Number(/_(\d+)$/.exec(part.name)?.[1] ?? 1);
}

/** Tensors [1, tokens, widthₖ] as one [1, tokens, Σ widthₖ]. */
export function sideBySide(states: readonly Samples[]): Samples {
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
export function oneAfterAnother(states: readonly Samples[]): Samples {
  if (states.length === 1) return states[0]!;
  const width = states[0]!.shape[2]!;
  const data = new Float32Array(states.reduce((sum, { data: own }) => sum + own.length, 0));
  let at = 0;
  for (const { data: own } of states) {
    data.set(own, at);
    at += own.length;
  }
  return float32([1, data.length / width, width], data);
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

/** Tensors [m, …] one below the other: [all m, …]. */
export function stacked(parts: readonly Samples[]): Samples {
  const shape = [parts.reduce((sum, part) => sum + part.shape[0]!, 0), ...parts[0]!.shape.slice(1)];
  const data = new Float32Array(sizeOf(shape));
  let at = 0;
  for (const part of parts) {
    data.set(part.data, at);
    at += part.data.length;
  }
  return float32(shape, data);
}
