import { existsSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer as TokenizerPipeline } from "@huggingface/tokenizers";
import { UserError } from "../core/errors.ts";
import { type ClipVocabulary, clipTokenizerFiles } from "./clip-vocabulary.ts";
import type { JsonObject } from "./json-file.ts";
import { readTokenizerFiles, type SpecialToken, type TokenizerFiles } from "./tokenizer-files.ts";

/** A prompt as a text encoder takes it. */
export interface EncodedPrompt {
  /** Start token, text, end token, padding: as many ids as asked for. */
  readonly ids: number[];
  /** How many of them are not padding, start and end included. */
  readonly used: number;
  /** How many ids the whole text has, start and end included. */
  readonly tokens: number;
  /** The text that fell off the end; empty where all fits. */
  readonly dropped: string;
}

/** Turns text into the ids that a text encoder knows, and back. */
export interface TextTokenizer {
  /** The ids of a text with its start and end, neither padded nor cut. */
  encode(text: string): number[];
  /** The same, cut and padded to a length (default: `maxLength`). */
  encodePadded(text: string, length?: number): EncodedPrompt;
  /** The words that a text is cut into before each becomes tokens; special tokens in the text are left out. */
  words(text: string): string[];
  /** The text of ids, special tokens left out. */
  decode(ids: readonly number[]): string;
  /** What an id stands for in the vocabulary, for example `cat</w>`; undefined for an id that there is not. */
  tokenOf(id: number): string | undefined;
  readonly vocabularySize: number;
  /** Ids of start, end and padding. */
  readonly start: number | undefined;
  readonly end: number;
  readonly padding: number;
  /** The tokens that its text encoder has positions for, 77 for CLIP. */
  readonly maxLength: number | undefined;
}

/**
 * Opens a tokenizer folder of transformers: `tokenizer.json`, or CLIP's `vocab.json` and `merges.txt`; with
 * `tokenizer_config.json` and `special_tokens_map.json` where these lie beside it.
 *
 * @param options.padding another padding token than the folder's
 * @throws UserError for a folder without them, and for kinds of tokenizers that are not known
 */
export async function openTokenizer(
  folder: string,
  { padding }: { readonly padding?: string } = {},
): Promise<TextTokenizer> {
  if (!existsSync(folder)) throw new UserError(`There is no folder ${folder}.`);
  const files = await readTokenizerFiles(folder, { padding });
  try {
    return tokenizerOf(files);
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`The tokenizer ${join(folder, "tokenizer.json")} cannot be used.`, {
      hint: "It is damaged, or of a kind that is not known.",
      cause: error,
    });
  }
}

/**
 * A tokenizer of a vocabulary that is at hand: the one that `openTokenizer` opens where `writeClipTokenizer` wrote it.
 *
 * @param options.maxLength the tokens that its text encoder has positions for, start and end included
 */
export function clipTokenizerOf(
  vocabulary: ClipVocabulary,
  { maxLength = 77 }: { readonly maxLength?: number } = {},
): TextTokenizer {
  return tokenizerOf(clipTokenizerFiles(vocabulary, { maxLength }));
}

function tokenizerOf({ folder, json, specials, config }: TokenizerFiles): TextTokenizer {
  const pipeline = new TokenizerPipeline(json, config);
  const { normalizer, pre_tokenizer, model, post_processor } = pipeline;
  if (!model) throw new UserError(`The tokenizer ${folder} has no model.`);
  const added = [...pipeline.get_added_tokens_decoder().values()];
  const normalized = (text: string) => (normalizer ? normalizer(lowerSigma(text, json)) : text);
  const idOfAdded = new Map(added.map(({ content, id }) => [content, id]));
  const special = new Set(added.filter((token) => token.special).map(({ id }) => id));
  // Tokens that stand in the text are found in two passes: as they are written, then in the normalized text.
  const asWritten = splitterOf(added.filter((token) => !token.normalized || !normalizer).map(own));
  const afterNormalizing = splitterOf(
    added
      .filter((token) => token.normalized && normalizer)
      .map((token) => ({ ...own(token), written: normalized(token.content) })),
  );
  const unknown = model.unk_token_id;

  const idOf = (token: string): number => {
    const id = idOfAdded.get(token) ?? model.tokens_to_ids.get(token) ?? unknown;
    if (id === undefined) throw new UserError(`The tokenizer ${folder} has no token for "${token}".`);
    return id;
  };
  /** Words by runs, and the special tokens between them. */
  const piecesOf = (text: string): (readonly string[] | Added)[] =>
    asWritten(text).flatMap((part) => {
      if (typeof part !== "string") return [part];
      return afterNormalizing(normalized(part)).map((piece) => {
        if (typeof piece !== "string") return piece;
        return pre_tokenizer ? pre_tokenizer(piece) : [piece];
      });
    });
  const idsOfText = (text: string): number[] =>
    piecesOf(text).flatMap((piece) => ("id" in piece ? [piece.id] : model([...piece]).map(idOf)));
  const nameOf = (id: number) => pipeline.id_to_token(id);
  const encode = (text: string): number[] => {
    const ids = idsOfText(text);
    if (!post_processor) return ids;
    // The post-processor places its own tokens around a text; one stand-in keeps ours as they are.
    const around: readonly string[] = post_processor([STAND_IN], null, true).tokens;
    return around.flatMap((token) => (token === STAND_IN ? ids : [idOf(token)]));
  };

  const idOfSpecial = (name: keyof typeof specials): number | undefined => {
    const token = specials[name]?.content;
    if (token === undefined) return undefined;
    const id = pipeline.token_to_id(token);
    if (id === undefined) throw new UserError(`The ${name} token "${token}" of ${folder} is not in its vocabulary.`);
    return id;
  };
  const end = idOfSpecial("end");
  if (end === undefined) throw new UserError(`The tokenizer ${folder} names no end token (eos_token).`);
  const padding = idOfSpecial("padding") ?? end;
  const maxLength = maximum(config);
  const decode = (ids: readonly number[]) => {
    const kept = ids.filter((id) => !special.has(id));
    return kept.length === 0 ? "" : pipeline.decode(kept, { clean_up_tokenization_spaces: false }).replace(/ +$/, "");
  };

  return {
    encode,
    encodePadded(text, length = maxLength) {
      if (length === undefined) throw new UserError(`The tokenizer ${folder} says no length; give one.`);
      return cutAndPadded(encode(text), length, { end, padding, decode });
    },
    words: (text) => piecesOf(text).flatMap((piece) => ("id" in piece ? [] : piece)),
    decode,
    tokenOf: nameOf,
    vocabularySize: model.vocab.length,
    start: idOfSpecial("start"),
    end,
    padding,
    maxLength,
  };
}

/** Ids of a whole text as many as asked for: cut before the end token, or padded behind it. */
export function cutAndPadded(
  all: readonly number[],
  length: number,
  { end, padding, decode }: Pick<TextTokenizer, "end" | "padding" | "decode">,
): EncodedPrompt {
  const cut = all.length > length;
  const ids = cut ? [...all.slice(0, length - 1), end] : [...all];
  return {
    ids: [...ids, ...Array<number>(length - ids.length).fill(padding)],
    used: ids.length,
    tokens: all.length,
    dropped: cut ? decode(all.slice(length - 1, -1)) : "",
  };
}

/** No vocabulary has it: tokens are never empty. */
const STAND_IN = "";

interface Added {
  readonly id: number;
  /** As it is found in the text. */
  readonly written: string;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
}

const own = ({ id, content, lstrip, rstrip }: SpecialToken & { readonly id: number }): Added => ({
  id,
  written: content,
  lstrip: lstrip ?? false,
  rstrip: rstrip ?? false,
});

/** Splits text at added tokens: the earliest first, of several there the longest. */
function splitterOf(tokens: readonly Added[]): (text: string) => (string | Added)[] {
  const byText = new Map(tokens.map((token) => [token.written, token]));
  const longestFirst = [...byText.keys()].filter((text) => text !== "").sort((a, b) => b.length - a.length);
  if (longestFirst.length === 0) return (text) => (text === "" ? [] : [text]);
  const pattern = new RegExp(`(${longestFirst.map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`);
  return (text) => {
    const parts = text.split(pattern).map((part, i) => (i % 2 === 1 ? byText.get(part)! : part));
    return parts
      .map((part, i) => {
        if (typeof part !== "string") return part;
        const [before, after] = [parts[i - 1], parts[i + 1]] as (Added | undefined)[];
        const start = before?.rstrip ? part.trimStart() : part;
        return after?.lstrip ? start.trimEnd() : start;
      })
      .filter((part) => part !== "");
  };
}

/**
 * JavaScript writes Σ as ς at the end of a word; Rust, whose tokenizers the models were trained with, lowers letter by
 * letter. It is the only letter that depends on its neighbours (Unicode, SpecialCasing.txt, Final_Sigma).
 */
function lowerSigma(text: string, json: JsonObject): string {
  return JSON.stringify(json.normalizer ?? null).includes('"Lowercase"') ? text.replaceAll("Σ", "σ") : text;
}

/** `model_max_length`; transformers writes 10³⁰ where there is none. */
function maximum(config: JsonObject): number | undefined {
  const { model_max_length: length } = config;
  return typeof length === "number" && length < 1e9 ? length : undefined;
}
