import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { seeded } from "../core/random.ts";
import {
  type ClipVocabulary,
  clipTokenizerOf,
  clipVocabulary,
  openTokenizer,
  readJsonObject,
  writeClipTokenizer,
} from "../io/index.ts";
import { learnVocabulary } from "./vocabulary.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-"));
});
afterAll(() => rm(folder, { recursive: true }));

const CAPTIONS = [
  "a smiling cat with heart-shaped eyes",
  "a red heart, a Red heart; 2 red hearts",
  "the cat's smile isn't the dog's",
  "ein lächelndes Gesicht — naïve café",
  "猫 and 犬 🐈 🐈‍⬛",
];

/** Captions of the words of a few, in many orders. */
function shuffled(count: number): string[] {
  const random = seeded(5);
  const words = CAPTIONS.join(" ").split(" ");
  return Array.from({ length: count }, () =>
    Array.from({ length: 6 }, () => words[random.integer(0, words.length)]).join(" "),
  );
}

/** CLIP's words as characters that stand for their bytes, written again from its paper's code for this test. */
function wordsOf(text: string): string[][] {
  const pattern = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/gu;
  const words = text.normalize("NFC").toLowerCase().match(pattern) ?? [];
  return words.map((word) => {
    const symbols = [...new TextEncoder().encode(word)].map((byte) => {
      const visible = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
      if (visible) return String.fromCharCode(byte);
      const hidden = Array.from({ length: 256 }, (_, b) => b).filter(
        (b) => b < 33 || (b > 126 && b < 161) || b === 173,
      );
      return String.fromCharCode(256 + hidden.indexOf(byte));
    });
    return [...symbols.slice(0, -1), `${symbols.at(-1)}</w>`];
  });
}

const joined = (word: readonly string[], left: string, right: string): string[] =>
  word.reduce<string[]>((made, symbol) => {
    if (symbol === right && made.at(-1) === left) made[made.length - 1] = left + right;
    else made.push(symbol);
    return made;
  }, []);

/** Sennrich et al.'s algorithm as it stands in the paper: count all pairs, merge the most frequent, start again. */
function slowly(captions: readonly string[], count: number): [string, string][] {
  let words = captions.flatMap(wordsOf);
  const ids = new Map(clipVocabulary().tokens.map((token, id) => [token, id]));
  const merges: [string, string][] = [];
  for (let id = 512; merges.length < count; id++) {
    const counts = new Map<string, { pair: [string, string]; count: number }>();
    for (const word of words) {
      for (let i = 1; i < word.length; i++) {
        const pair: [string, string] = [word[i - 1]!, word[i]!];
        const seen = counts.get(pair.join(" "));
        if (seen) seen.count++;
        else counts.set(pair.join(" "), { pair, count: 1 });
      }
    }
    const order = [...counts.values()].sort(
      (a, b) =>
        b.count - a.count || ids.get(a.pair[0])! - ids.get(b.pair[0])! || ids.get(a.pair[1])! - ids.get(b.pair[1])!,
    );
    if (!order[0] || order[0].count < 2) break;
    const [left, right] = order[0].pair;
    merges.push([left, right]);
    ids.set(left + right, id);
    words = words.map((word) => joined(word, left, right));
  }
  return merges;
}

/** A text's tokens by applying every merge in its order to whole words. */
function tokensOf(text: string, { merges }: ClipVocabulary): string[] {
  return wordsOf(text).flatMap((word) => merges.reduce((made, [left, right]) => joined(made, left, right), word));
}

describe("a vocabulary learned from captions", () => {
  test("has the merges of the paper's algorithm", () => {
    for (const captions of [CAPTIONS, shuffled(40), ["aaaaaa aaaaa aaaa", "abababa bababab"]]) {
      const { merges } = learnVocabulary(captions, { size: 700 });
      expect(merges.length).toBeGreaterThan(4);
      expect(merges).toEqual(slowly(captions, 700 - 514));
    }
  });

  test("cuts texts into the tokens that its merges make, in a tokenizer at hand and in one from its folder", async () => {
    const vocabulary = learnVocabulary(shuffled(200), { size: 560 });
    expect(vocabulary.tokens).toHaveLength(560);
    const path = join(folder, "learned");
    await writeClipTokenizer(path, vocabulary, { maxLength: 24 });
    const read = await openTokenizer(path);
    const atHand = clipTokenizerOf(vocabulary, { maxLength: 24 });
    const ids = new Map(vocabulary.tokens.map((token, id) => [token, id]));
    for (const text of [...shuffled(30), ...CAPTIONS, "words never seen: ☃ 1234 don't\tÅngström", ""]) {
      const expected = [read.start, ...tokensOf(text, vocabulary).map((token) => ids.get(token)), read.end];
      expect(read.encode(text)).toEqual(expected);
      expect(atHand.encode(text)).toEqual(expected);
      expect(read.encodePadded(text).ids).toHaveLength(24);
    }
    expect([read.start, read.end, read.padding, read.vocabularySize, read.maxLength]).toEqual([558, 559, 559, 560, 24]);
    expect(read.decode(read.encode("a smiling cat"))).toBe("a smiling cat");
  });

  test("keeps frequent words whole and rare ones in pieces", () => {
    const vocabulary = learnVocabulary([...Array(50).fill("a smiling cat"), "a zebra"], { size: 1000 });
    const { encode } = clipTokenizerOf(vocabulary);
    expect(encode("a smiling cat")).toHaveLength(5);
    expect(encode("zebra")).toHaveLength(2 + 5);
    // No pair is left that stands in the captions twice.
    expect(vocabulary.tokens.length).toBeLessThan(1000);
    const eager = learnVocabulary(["a zebra"], { size: 1000, minimum: 1 });
    expect(clipTokenizerOf(eager).encode("zebra")).toHaveLength(3);
  });

  test("does not depend on the order of the captions", () => {
    const captions = shuffled(100);
    expect(learnVocabulary([...captions].reverse(), { size: 600 })).toEqual(learnVocabulary(captions, { size: 600 }));
  });

  test("has the bytes in the order of CLIP's own", async () => {
    const clip = fileURLToPath(new URL("../../test/fixtures/reference/tokenizers/clip-small", import.meta.url));
    const ids = await readJsonObject(join(clip, "vocab.json"));
    const { tokens } = clipVocabulary();
    expect(tokens.slice(0, 512).map((token) => ids[token])).toEqual(Array.from({ length: 512 }, (_, id) => id));
  });

  test("leaves special tokens in the captions alone", () => {
    const { merges } = learnVocabulary(Array(9).fill("<|startoftext|>ab<|endoftext|>"), { size: 600 });
    expect(merges).toEqual([["a", "b</w>"]]);
  });

  test("that cannot be is refused", () => {
    expect(() => learnVocabulary(CAPTIONS, { size: 513 })).toThrow(UserError);
    expect(() => learnVocabulary(["", " "])).toThrow(/no words/);
  });
});
