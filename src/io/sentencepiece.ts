import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { UserError } from "../core/errors.ts";
import type { JsonObject } from "./json-file.ts";

// SentencePiece's model files (`spiece.model`): a protocol buffer that sentencepiece_model.proto describes. Fields are told
// by their numbers there.

/** What a piece is for. */
const KINDS = { unknown: 2, control: 3, userDefined: 4 } as const;

interface Piece {
  readonly text: string;
  /** The logarithm of its probability. */
  readonly score: number;
  readonly kind: number;
}

/** What is needed of a model file. */
interface SentencePieceModel {
  readonly pieces: readonly Piece[];
  /** 1 is Unigram. */
  readonly algorithm: number;
  readonly unknown: number;
  /** Characters are normalized by a table, which is that of NFKC in T5's files. */
  readonly normalizes: boolean;
}

/** T5's tokens for gaps in a text, which stand behind its vocabulary; `extra_ids` in its configuration. */
const GAPS = 100;

/**
 * The `tokenizer.json` that stands for a T5 tokenizer's `spiece.model`: Unigram (Kudo 2018), with spaces as ▁ and one before
 * the text, and the end token behind it.
 *
 * @param options.gaps how many tokens `<extra_id_…>` follow the vocabulary
 * @throws UserError for files that are no SentencePiece model, or of another algorithm
 */
export function sentencePieceTokenizer(
  bytes: Uint8Array,
  { path, end, gaps = GAPS }: { readonly path: string; readonly end: string; readonly gaps?: number },
): JsonObject {
  const { pieces, algorithm, unknown, normalizes } = readModel(bytes, path);
  if (algorithm !== 1) {
    throw new UserError(`${path} is not a Unigram model.`, { hint: "Only T5's kind of SentencePiece model is read." });
  }
  const vocab: [string, number][] = pieces.map(({ text, score }) => [text, score]);
  for (let i = gaps - 1; i >= 0; i--) vocab.push([`<extra_id_${i}>`, 0]);
  const endId = vocab.findIndex(([text]) => text === end);
  if (endId < 0) throw new UserError(`The vocabulary of ${path} has no end token "${end}".`);
  const isSpecial = (id: number) => {
    const kind = pieces[id]?.kind;
    return kind === undefined || kind === KINDS.unknown || kind === KINDS.control;
  };
  const added = vocab.flatMap(([content], id) => {
    if (!isSpecial(id) && pieces[id]?.kind !== KINDS.userDefined) return [];
    const whole = { single_word: false, lstrip: false, rstrip: false, normalized: false };
    return [{ id, content, special: isSpecial(id), ...whole }];
  });
  const space = { type: "Metaspace", replacement: "▁", add_prefix_space: true, prepend_scheme: "always" };
  return {
    added_tokens: added,
    normalizer: {
      type: "Sequence",
      normalizers: [
        ...(normalizes ? [{ type: "Precompiled" }] : []),
        { type: "Strip", strip_left: true, strip_right: true },
        { type: "Replace", pattern: { Regex: " {2,}" }, content: " " },
      ],
    },
    pre_tokenizer: space,
    decoder: space,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ Sequence: { id: "A", type_id: 0 } }, { SpecialToken: { id: end, type_id: 0 } }],
      pair: [],
      special_tokens: { [end]: { id: end, ids: [endId], tokens: [end] } },
    },
    model: { type: "Unigram", unk_id: unknown, vocab },
  };
}

function readModel(bytes: Uint8Array, path: string): SentencePieceModel {
  try {
    const model = { pieces: [] as Piece[], algorithm: 1, unknown: 0, normalizes: false };
    readMessage(new BinaryReader(bytes), {
      1: (reader) => model.pieces.push(readPiece(reader.bytes())),
      // The training: its algorithm and the id of what is unknown.
      2: (reader) =>
        readMessage(new BinaryReader(reader.bytes()), {
          3: (inner) => (model.algorithm = inner.int32()),
          40: (inner) => (model.unknown = inner.int32()),
        }),
      // The normalization, and in it the table.
      3: (reader) =>
        readMessage(new BinaryReader(reader.bytes()), { 2: (inner) => (model.normalizes = inner.bytes().length > 0) }),
    });
    if (model.pieces.length > 0) return model;
  } catch (cause) {
    throw new UserError(`${path} is no SentencePiece model, or damaged.`, { cause });
  }
  throw new UserError(`${path} is no SentencePiece model: it has no vocabulary.`);
}

function readPiece(bytes: Uint8Array): Piece {
  const piece = { text: "", score: 0, kind: 1 };
  readMessage(new BinaryReader(bytes), {
    1: (reader) => (piece.text = reader.string()),
    2: (reader) => (piece.score = reader.float()),
    3: (reader) => (piece.kind = reader.int32()),
  });
  return piece;
}

/** Reads the fields that are asked for, and passes over the others. */
function readMessage(reader: BinaryReader, fields: Readonly<Record<number, (reader: BinaryReader) => unknown>>): void {
  while (reader.pos < reader.len) {
    const [number, wireType] = reader.tag();
    const read = fields[number];
    if (read && wireType !== WireType.EndGroup) read(reader);
    else reader.skip(wireType, number);
  }
}
