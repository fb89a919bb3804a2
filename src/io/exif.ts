import { UserError } from "../core/errors.ts";

// EXIF blocks (CIPA DC-008, Exif 2.32): a TIFF file of two directories. Of all tags only the two that hold texts.

/** The texts of an EXIF block. */
export interface ExifTexts {
  /** ImageDescription. Written as ASCII: other letters must be escaped. */
  readonly description?: string;
  /** UserComment, of any letters. */
  readonly comment?: string;
}

const DESCRIPTION = 0x010e;
const EXIF_DIRECTORY = 0x8769;
const VERSION = 0x9000;
const COMMENT = 0x9286;
const ASCII = 2;
const LONG = 4;
const UNDEFINED = 7;
/** What a user comment begins with, eight bytes each. */
const CODES = { ascii: "ASCII\0\0\0", unicode: "UNICODE\0" };
const PREFIX = "Exif\0\0";

interface Entry {
  readonly tag: number;
  readonly type: number;
  readonly data: Uint8Array;
}

/** A TIFF of these texts, big-endian, as the web UI of AUTOMATIC1111 writes it. */
export function exifBlock({ description, comment }: ExifTexts): Uint8Array {
  const first: Entry[] =
    description === undefined ? [] : [{ tag: DESCRIPTION, type: ASCII, data: ascii(`${description}\0`) }];
  const second: Entry[] = [
    { tag: VERSION, type: UNDEFINED, data: ascii("0232") },
    ...(comment === undefined
      ? []
      : [{ tag: COMMENT, type: UNDEFINED, data: joined([ascii(CODES.unicode), utf16(comment)]) }]),
  ];
  const start = 8;
  const next = start + sizeOfDirectory([...first, { tag: EXIF_DIRECTORY, type: LONG, data: new Uint8Array(4) }]);
  const pointer = { tag: EXIF_DIRECTORY, type: LONG, data: long(next) };
  return joined([
    ascii("MM"),
    Uint8Array.of(0, 42),
    long(start),
    directory([...first, pointer], start),
    directory(second, next),
  ]);
}

/** The texts of an EXIF block, with or without its `Exif` prefix; what is damaged is left out. */
export function exifTexts(block: Uint8Array): ExifTexts {
  const tiff = latin(block.subarray(0, 6)) === PREFIX ? block.subarray(6) : block;
  const order = latin(tiff.subarray(0, 2));
  if (tiff.length < 8 || (order !== "MM" && order !== "II")) return {};
  const little = order === "II";
  const view = new DataView(tiff.buffer, tiff.byteOffset, tiff.byteLength);
  const first = entriesAt(view, view.getUint32(4, little), little);
  const pointer = first.get(EXIF_DIRECTORY);
  const second = pointer?.length === 4 ? entriesAt(view, viewOf(pointer).getUint32(0, little), little) : undefined;
  const description = first.get(DESCRIPTION);
  const comment = second?.get(COMMENT);
  return {
    ...(description ? { description: utf8(description) } : {}),
    ...(comment ? { comment: commentOf(comment) } : {}),
  };
}

/**
 * Puts an EXIF block in the place of the one that a JPEG or WebP file has.
 *
 * @throws UserError for texts that do not fit into a JPEG, whose segments end at 64 KiB
 */
export function withExifBlock(file: Uint8Array, format: "jpeg" | "webp", block: Uint8Array): Uint8Array {
  return format === "jpeg" ? inJpeg(file, block) : inWebp(file, block);
}

function inJpeg(file: Uint8Array, block: Uint8Array): Uint8Array {
  const length = 2 + PREFIX.length + block.length;
  if (length > 0xffff) {
    throw new UserError(`The notes for a JPEG file take ${length} bytes; it has room for ${0xffff}.`, {
      hint: "Write a PNG or WebP file.",
    });
  }
  const view = viewOf(file);
  const segment = joined([Uint8Array.of(0xff, 0xe1, length >> 8, length & 0xff), ascii(PREFIX), block]);
  // Segments follow the start marker: FF, kind, length with itself.
  for (let at = 2; at + 4 <= file.length && file[at] === 0xff; ) {
    const end = at + 2 + view.getUint16(at + 2);
    if (file[at + 1] === 0xe1) return joined([file.subarray(0, at), segment, file.subarray(end)]);
    at = end;
  }
  return joined([file.subarray(0, 2), segment, file.subarray(2)]);
}

function inWebp(file: Uint8Array, block: Uint8Array): Uint8Array {
  const view = viewOf(file);
  const chunks: Uint8Array[] = [];
  // RIFF, length, WEBP; then chunks of a name, a length and data of even length.
  for (let at = 12; at + 8 <= file.length; ) {
    const length = view.getUint32(at + 4, true);
    const end = at + 8 + length + (length % 2);
    chunks.push(latin(file.subarray(at, at + 4)) === "EXIF" ? riffChunk("EXIF", block) : file.subarray(at, end));
    at = end;
  }
  return riffChunk("RIFF", joined([ascii("WEBP"), ...chunks]));
}

function riffChunk(name: string, data: Uint8Array): Uint8Array {
  const length = new Uint8Array(4);
  viewOf(length).setUint32(0, data.length, true);
  return joined([ascii(name), length, data, new Uint8Array(data.length % 2)]);
}

/** The values of a directory by their tags, of texts and pointers only. */
function entriesAt(view: DataView, at: number, little: boolean): Map<number, Uint8Array> {
  const found = new Map<number, Uint8Array>();
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  const count = at + 2 <= bytes.length ? view.getUint16(at, little) : 0;
  for (let i = 0; i < count; i++) {
    const entry = at + 2 + 12 * i;
    if (entry + 12 > bytes.length) break;
    const type = view.getUint16(entry + 2, little);
    if (type !== ASCII && type !== UNDEFINED && type !== LONG) continue;
    const length = view.getUint32(entry + 4, little) * (type === LONG ? 4 : 1);
    const from = length <= 4 ? entry + 8 : view.getUint32(entry + 8, little);
    if (from + length <= bytes.length) found.set(view.getUint16(entry, little), bytes.subarray(from, from + length));
  }
  return found;
}

/** A user comment's text. UTF-16 should be big-endian; some programs write it the other way. */
function commentOf(comment: Uint8Array): string {
  const code = latin(comment.subarray(0, 8));
  const text = comment.subarray(8);
  if (code !== CODES.unicode) return utf8(code === CODES.ascii ? text : comment);
  const zeros = [0, 0];
  text.forEach((byte, i) => {
    if (byte === 0) zeros[i % 2]!++;
  });
  const decoded = new TextDecoder(zeros[1]! > zeros[0]! ? "utf-16le" : "utf-16be").decode(text);
  return decoded.replace(/\0+$/, "");
}

function sizeOfDirectory(entries: readonly Entry[]): number {
  return 2 + 12 * entries.length + 4 + entries.reduce((sum, { data }) => sum + outside(data), 0);
}

/** Values of more than four bytes stand behind the directory, at even places. */
function outside({ length }: Uint8Array): number {
  return length <= 4 ? 0 : length + (length % 2);
}

function directory(entries: readonly Entry[], start: number): Uint8Array {
  const result = new Uint8Array(sizeOfDirectory(entries));
  const view = viewOf(result);
  view.setUint16(0, entries.length);
  let values = 2 + 12 * entries.length + 4;
  entries.forEach(({ tag, type, data }, i) => {
    const at = 2 + 12 * i;
    view.setUint16(at, tag);
    view.setUint16(at + 2, type);
    view.setUint32(at + 4, type === LONG ? data.length / 4 : data.length);
    if (data.length <= 4) {
      result.set(data, at + 8);
      return;
    }
    view.setUint32(at + 8, start + values);
    result.set(data, values);
    values += outside(data);
  });
  return result;
}

function long(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value);
  return bytes;
}

function utf16(text: string): Uint8Array {
  const bytes = new Uint8Array(2 * text.length);
  const view = viewOf(bytes);
  for (let i = 0; i < text.length; i++) view.setUint16(2 * i, text.charCodeAt(i));
  return bytes;
}

function utf8(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes).replace(/\0+$/, "");
}

const ascii = (text: string) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));
const latin = (bytes: Uint8Array) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
const viewOf = ({ buffer, byteOffset, byteLength }: Uint8Array) => new DataView(buffer, byteOffset, byteLength);

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const result = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}
