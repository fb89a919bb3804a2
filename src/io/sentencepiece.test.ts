import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openTokenizer, type TextTokenizer } from "./tokenizer.ts";

/** Pieces as T5 has them: what fills up, ends and is unknown, then words and letters with their scores. */
const PIECES = [
  ...(["<pad>", "</s>", "<unk>"] as const).map((text, i) => ({ text, score: 0, kind: i === 2 ? 2 : 3 })),
  ...(
    [
      ...[
        ["▁", -2.1],
        ["▁a", -2.3],
        ["▁re", -4.1],
        ["d", -4.4],
        ["▁red", -6.7],
        ["▁cat", -5.2],
        ["s", -3.3],
      ],
      ...[
        ["c", -6.2],
        ["a", -5.9],
        ["t", -5.5],
        ["e", -5.1],
        ["r", -5.7],
        ["at", -5.6],
        ["▁cats", -9.1],
        ["fi", -6.1],
      ],
    ] as [string, number][]
  ).map(([text, score]) => ({ text, score, kind: 1 })),
];

/** A model file, field by field; what is not needed of it stands there too. */
function modelFile({ algorithm = 1, normalizes = true } = {}): Uint8Array {
  const file = new BinaryWriter();
  for (const { text, score, kind } of PIECES) {
    const piece = new BinaryWriter().tag(1, WireType.LengthDelimited).string(text).tag(2, WireType.Bit32).float(score);
    // An ordinary piece does not say its kind.
    if (kind !== 1) piece.tag(3, WireType.Varint).int32(kind);
    file.tag(1, WireType.LengthDelimited).bytes(piece.finish());
  }
  const training = new BinaryWriter()
    .tag(2, WireType.LengthDelimited)
    .string("prefix")
    .tag(4, WireType.Varint)
    .int32(18);
  training.tag(3, WireType.Varint).int32(algorithm).tag(40, WireType.Varint).int32(2);
  file.tag(2, WireType.LengthDelimited).bytes(training.finish());
  const table = new BinaryWriter().tag(1, WireType.LengthDelimited).string("nmt_nfkc");
  if (normalizes) table.tag(2, WireType.LengthDelimited).bytes(new Uint8Array([1, 2, 3]));
  return file.tag(3, WireType.LengthDelimited).bytes(table.finish()).finish();
}

let folder: string;
let tokenizer: TextTokenizer;
const written = async (name: string, bytes: Uint8Array, config: object = {}) => {
  const path = join(folder, name);
  await mkdir(path);
  await writeFile(join(path, "spiece.model"), bytes);
  await writeFile(join(path, "tokenizer_config.json"), JSON.stringify({ tokenizer_class: "T5Tokenizer", ...config }));
  return path;
};
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-pieces-"));
  tokenizer = await openTokenizer(await written("t5", modelFile(), { model_max_length: 512 }));
});
afterAll(() => rm(folder, { recursive: true }));

/** The most probable of all ways to cut a text into pieces (Kudo 2018, eq. 2), by trying each. */
function best(text: string): { ids: number[]; score: number } {
  if (text === "") return { ids: [], score: 0 };
  const ways = PIECES.flatMap(({ text: piece, score, kind }, id) => {
    if (kind !== 1 || !text.startsWith(piece)) return [];
    const rest = best(text.slice(piece.length));
    return [{ ids: [id, ...rest.ids], score: score + rest.score }];
  });
  return ways.reduce((a, b) => (b.score > a.score ? b : a), { ids: [], score: Number.NEGATIVE_INFINITY });
}

test.each(["a red cat", "red cats at a cat", "cataract", "reds", "a  red   cat ", " ﬁat", ""])(
  "T5's spiece.model cuts %j into the most probable pieces",
  (text) => {
    const normal = text.normalize("NFKC").trim().replace(/ +/g, " ").replaceAll(" ", "▁");
    expect(tokenizer.encode(text)).toEqual([...best(normal === "" ? "" : `▁${normal}`).ids, 1]);
  },
);

test("its special tokens and the hundred behind its vocabulary are known", () => {
  expect([tokenizer.end, tokenizer.padding, tokenizer.start, tokenizer.maxLength]).toEqual([1, 0, undefined, 512]);
  expect(tokenizer.vocabularySize).toBe(PIECES.length + 100);
  expect(tokenizer.tokenOf(PIECES.length + 99)).toBe("<extra_id_0>");
  // What stands between is cut by itself; a run of what is unknown is one token.
  expect(tokenizer.encode("a<extra_id_0>")).toEqual([4, PIECES.length + 99, 1]);
  expect(tokenizer.encode("a zzz")).toEqual([4, 3, 2, 1]);
  expect(tokenizer.decode(tokenizer.encode("a red cat"))).toBe("a red cat");
});

test("a model without a table leaves characters as they are", async () => {
  const plain = await openTokenizer(await written("plain", modelFile({ normalizes: false })));
  expect(plain.encode("ﬁ")).toEqual([3, 2, 1]);
  expect(tokenizer.encode("ﬁ")).toEqual([3, PIECES.findIndex(({ text }) => text === "fi"), 1]);
});

test("files that are none, damaged, or of another algorithm are refused", async () => {
  const open = async (name: string, bytes: Uint8Array, config?: object) =>
    openTokenizer(await written(name, bytes, config)).then(
      () => "opened",
      ({ message }) => message,
    );
  expect(await open("bpe", modelFile({ algorithm: 2 }))).toMatch(/is not a Unigram model/);
  expect(await open("text", new TextEncoder().encode("nothing of the kind"))).toMatch(/no SentencePiece model/);
  expect(await open("empty", new Uint8Array())).toMatch(/has no vocabulary/);
  expect(await open("cut", modelFile().subarray(0, 50))).toMatch(/no SentencePiece model, or damaged/);
  expect(await open("end", modelFile(), { eos_token: "[END]" })).toMatch(/no end token "\[END\]"/);
});
