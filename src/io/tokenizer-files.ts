import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../core/errors.ts";
import { type JsonObject, readJsonObject } from "./json-file.ts";
import { sentencePieceTokenizer } from "./sentencepiece.ts";

/** A token that is not made of others. Where it is `normalized`, it is looked for after lower-casing and the like. */
export interface SpecialToken {
  readonly content: string;
  readonly lstrip?: boolean;
  readonly rstrip?: boolean;
  readonly normalized?: boolean;
}

/** What a tokenizer folder says. */
export interface TokenizerFiles {
  readonly folder: string;
  /** `tokenizer.json`, or what it would be. */
  readonly json: JsonObject;
  /** `tokenizer_config.json`. */
  readonly config: JsonObject;
  readonly specials: Readonly<Partial<Record<"start" | "end" | "unknown" | "padding", SpecialToken>>>;
}

const FIELDS = { start: "bos_token", end: "eos_token", unknown: "unk_token", padding: "pad_token" } as const;

/**
 * Reads a tokenizer folder. Where there is no `tokenizer.json`, one is made of `vocab.json` and `merges.txt` as
 * transformers' `CLIPTokenizer` has it, or of `spiece.model` as its `T5Tokenizer` has it.
 *
 * @throws UserError for a folder that has none of them
 */
export async function readTokenizerFiles(
  folder: string,
  { padding }: { readonly padding?: string } = {},
): Promise<TokenizerFiles> {
  const optional = async (name: string): Promise<JsonObject> =>
    existsSync(join(folder, name)) ? readJsonObject(join(folder, name)) : {};
  const config = await optional("tokenizer_config.json");
  const found = specialTokens(config, await optional("special_tokens_map.json"));
  const own = padding === undefined ? undefined : special(padding);
  const specials = own ? { ...found, padding: own } : found;
  if (existsSync(join(folder, "tokenizer.json"))) {
    const json = await readJsonObject(join(folder, "tokenizer.json"));
    return { folder, json: own ? withSpecialToken(json, own) : json, config, specials };
  }
  const [vocabulary, merges, pieces] = ["vocab.json", "merges.txt", "spiece.model"].map((name) =>
    join(folder, name),
  ) as [...[string, string, string]];
  if (existsSync(pieces)) {
    const end = specials.end?.content ?? "</s>";
    const gaps = typeof config.extra_ids === "number" ? config.extra_ids : undefined;
    const json = sentencePieceTokenizer(await readFile(pieces), { path: pieces, end, gaps });
    const known = { end: special(end), padding: special("<pad>"), unknown: special("<unk>") };
    return { folder, json, config, specials: { ...known, ...specials } };
  }
  if (!existsSync(vocabulary) || !existsSync(merges)) {
    throw new UserError(`${folder} has no tokenizer.json, nor vocab.json and merges.txt, nor spiece.model.`, {
      hint: "A tokenizer folder of a CLIP or T5 text encoder holds one of them.",
    });
  }
  const class_ = config.tokenizer_class;
  if (typeof class_ === "string" && !class_.startsWith("CLIPTokenizer")) {
    throw new UserError(`${folder} holds a ${class_} without tokenizer.json.`, {
      hint: "Only CLIPTokenizer is read from vocab.json and merges.txt.",
    });
  }
  const json = clipTokenizer(await readJsonObject(vocabulary), await readMerges(merges), specials, folder);
  return { folder, json, config, specials };
}

const special = (content: string): SpecialToken => ({ content, normalized: false });

/** In the older layout, which has the map, the map goes first: Stable Diffusion 2.1 has its padding token only there. */
function specialTokens(config: JsonObject, map: JsonObject): TokenizerFiles["specials"] {
  const found: Partial<Record<keyof typeof FIELDS, SpecialToken>> = {};
  for (const [name, field] of Object.entries(FIELDS) as [keyof typeof FIELDS, string][]) {
    const value = map[field] ?? config[field];
    if (typeof value === "string") found[name] = special(value);
    else if (typeof value === "object" && value !== null && typeof (value as SpecialToken).content === "string") {
      found[name] = value as SpecialToken;
    }
  }
  return found;
}

/** A token of the vocabulary made a special one, as transformers does with any padding token. */
function withSpecialToken(json: JsonObject, token: SpecialToken): JsonObject {
  const added = Array.isArray(json.added_tokens) ? json.added_tokens : [];
  const id = (json.model as { readonly vocab?: Readonly<Record<string, unknown>> } | undefined)?.vocab?.[token.content];
  const known = added.some((one: SpecialToken) => one.content === token.content);
  if (known || typeof id !== "number") return json;
  return { ...json, added_tokens: [...added, { id, special: true, single_word: false, ...token }] };
}

async function readMerges(path: string): Promise<string[]> {
  const lines = (await readFile(path, "utf8")).split(/\r?\n/);
  return lines.filter((line, i) => line !== "" && !(i === 0 && line.startsWith("#version")));
}

/** What transformers makes of CLIP's vocabulary (Radford et al. 2021): words of lower-cased bytes, `</w>` at their end. */
export function clipTokenizer(
  vocab: JsonObject,
  merges: readonly string[],
  given: TokenizerFiles["specials"],
  folder: string,
): JsonObject {
  const standard = (content: string): SpecialToken => ({ content, normalized: true });
  const { start = standard("<|startoftext|>"), end = standard("<|endoftext|>"), unknown = end, padding = end } = given;
  const added = new Map<string, object>();
  for (const token of [start, end, unknown, padding]) {
    const id = vocab[token.content];
    if (typeof id !== "number") {
      throw new UserError(`The vocabulary of ${folder} has no token "${token.content}".`, {
        hint: "special_tokens_map.json and vocab.json must be of the same tokenizer.",
      });
    }
    added.set(token.content, { id, special: true, single_word: false, lstrip: false, rstrip: false, ...token });
  }
  const [first, last] = [start, end].map((token) => [token.content, vocab[token.content]]);
  return {
    added_tokens: [...added.values()],
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "NFC" },
        { type: "Replace", pattern: { Regex: "\\s+" }, content: " " },
        { type: "Lowercase" },
      ],
    },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: CLIP_WORDS }, behavior: "Removed", invert: true },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
      ],
    },
    post_processor: { type: "RobertaProcessing", sep: last, cls: first, trim_offsets: false, add_prefix_space: false },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      unk_token: unknown.content,
      continuing_subword_prefix: "",
      end_of_word_suffix: "</w>",
      fuse_unk: false,
      byte_fallback: false,
      vocab,
      merges,
    },
  };
}

/** Special tokens, English endings, runs of letters, single digits, runs of anything else but space. */
const CLIP_WORDS =
  "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";
