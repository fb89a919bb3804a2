import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomically } from "./atomic-file.ts";
import { writeJsonObject } from "./json-file.ts";
import { clipTokenizer, type TokenizerFiles } from "./tokenizer-files.ts";

/** A byte-pair vocabulary as CLIP's tokenizer has it. */
export interface ClipVocabulary {
  /** What each id stands for: the symbols of the bytes, the same ending a word, the merges, start and end. */
  readonly tokens: readonly string[];
  /** Pairs of tokens that become one, the first to be merged first. */
  readonly merges: readonly (readonly [string, string])[];
}

const [START, END] = ["<|startoftext|>", "<|endoftext|>"];
/** What stands at the end of a word's last token. */
export const WORD_END = "</w>";

/** The visible characters that stand for the bytes (Radford et al. 2019, GPT-2), in the order of CLIP's vocabulary. */
const BYTE_SYMBOLS: readonly string[] = (() => {
  const visible = [
    [33, 126],
    [161, 172],
    [174, 255],
  ].flatMap(([from, to]) => Array.from({ length: to! - from! + 1 }, (_, i) => from! + i));
  const others = Array.from({ length: 256 - visible.length }, (_, i) => 256 + i);
  return [...visible, ...others].map((code) => String.fromCharCode(code));
})();

/** The vocabulary of merges: the ids follow from them. */
export function clipVocabulary(merges: readonly (readonly [string, string])[] = []): ClipVocabulary {
  const merged = merges.map(([left, right]) => left + right);
  return {
    tokens: [...BYTE_SYMBOLS, ...BYTE_SYMBOLS.map((symbol) => symbol + WORD_END), ...merged, START, END],
    merges,
  };
}

/** How many tokens a vocabulary has before any merge. */
export const UNMERGED = clipVocabulary().tokens.length;

const special = (content: string) => ({
  content,
  lstrip: false,
  normalized: true,
  rstrip: false,
  single_word: false,
});
const SPECIALS = { bos_token: special(START), eos_token: special(END), pad_token: END, unk_token: special(END) };

/** A vocabulary as if it had been read from a folder. */
export function clipTokenizerFiles(
  { tokens, merges }: ClipVocabulary,
  { maxLength }: { readonly maxLength: number },
): TokenizerFiles {
  const config = {
    ...SPECIALS,
    add_prefix_space: false,
    do_lower_case: true,
    errors: "replace",
    model_max_length: maxLength,
    tokenizer_class: "CLIPTokenizer",
  };
  const specials = { start: SPECIALS.bos_token, end: SPECIALS.eos_token, unknown: SPECIALS.unk_token };
  const vocabulary = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const written = merges.map((pair) => pair.join(" "));
  return { folder: "of these captions", json: clipTokenizer(vocabulary, written, specials, ""), config, specials };
}

/**
 * Writes a vocabulary as a tokenizer folder that transformers' `CLIPTokenizer` and `openTokenizer` read.
 *
 * @param options.maxLength the tokens that its text encoder has positions for, start and end included
 */
export async function writeClipTokenizer(
  folder: string,
  vocabulary: ClipVocabulary,
  options: { readonly maxLength: number },
): Promise<void> {
  const { config } = clipTokenizerFiles(vocabulary, options);
  const { tokens, merges } = vocabulary;
  await mkdir(folder, { recursive: true });
  await writeJsonObject(join(folder, "vocab.json"), Object.fromEntries(tokens.map((token, id) => [token, id])));
  const lines = ["#version: 0.2", ...merges.map((pair) => pair.join(" "))];
  await writeFileAtomically(join(folder, "merges.txt"), `${lines.join("\n")}\n`);
  await writeJsonObject(join(folder, "special_tokens_map.json"), SPECIALS);
  await writeJsonObject(join(folder, "tokenizer_config.json"), config);
}
