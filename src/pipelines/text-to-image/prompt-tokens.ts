import type { TextTokenizer } from "../../io/index.ts";
import type { ReadPrompt } from "./token-chunks.ts";

/** A token of a prompt as a text encoder sees it, or would if it had the room. */
export interface PromptToken {
  /** Its place among all that the denoising network sees of the text; undefined for one that fell off the end. */
  readonly position: number | undefined;
  readonly id: number;
  /** What stands for it: a piece of the text, or the name of a special token. */
  readonly text: string;
  readonly kind: "start" | "text" | "end" | "padding";
  /** How much it counts: 1 unless weights are read. */
  readonly weight: number;
  /** The part of a long text that it is encoded in; undefined as the position is. */
  readonly chunk: number | undefined;
}

/** What a text encoder sees of a prompt. */
export interface PromptTable {
  /** `text_encoder`, `text_encoder_2` … */
  readonly encoder: string;
  readonly prompt: string;
  /** Tokens of text that a part has room for. */
  readonly room: number;
  readonly tokens: readonly PromptToken[];
  /** The text that falls off the end; empty where all is seen. */
  readonly dropped: string;
}

/** Tokens of a text, those of its parts one after the other, then those that are not seen. */
export function promptTokens(tokenizer: TextTokenizer, { chunks, unseen }: ReadPrompt): PromptToken[] {
  const textOf = (id: number) => tokenizer.decode([id]) || (tokenizer.tokenOf(id) ?? `#${id}`);
  let position = 0;
  const seen = chunks.flatMap(({ ids, weights, end }, chunk) =>
    ids.map((id, i): PromptToken => {
      const kind = i === 0 && id === tokenizer.start ? "start" : i < end ? "text" : i === end ? "end" : "padding";
      return { position: position++, id, text: textOf(id), kind, weight: weights?.[i] ?? 1, chunk };
    }),
  );
  const lost = unseen.map(
    ({ id, weight }): PromptToken => ({
      ...{ position: undefined, chunk: undefined, id, weight },
      ...{ text: textOf(id), kind: "text" },
    }),
  );
  return [...seen, ...lost];
}
