import { messageOf, UserError } from "../core/errors.ts";
import {
  bytesPerElement,
  type DType,
  describeShape,
  type HostTensor,
  type Shape,
  sizeOf,
  viewAs,
} from "../core/host-tensor.ts";
import { notSafetensors } from "./weight-file-kind.ts";

// The safetensors format (https://github.com/huggingface/safetensors, "Format"): 8 bytes little-endian header length
// N, N bytes of JSON, then the tensors' bytes without gaps. Nothing here touches files, so browsers use it too.

/** Where one tensor lies. `offset` counts from the start of the file, both in bytes. */
export interface TensorEntry {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly offset: number;
  readonly length: number;
}

/** A validated header. */
export interface SafetensorsHeader {
  /** The writer's own notes (`__metadata__`), strings only. */
  readonly metadata: Readonly<Record<string, string>>;
  /** In the order of the header. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
}

/** The longest header that is read, as in the official reader. */
export const MAX_HEADER_BYTES = 100_000_000;

/** Written dtypes by ours, widest alignment last, as the official writer ranks them. */
const CODES: Readonly<Record<DType, string>> = {
  bool: "BOOL",
  uint8: "U8",
  int8: "I8",
  float8_e5m2: "F8_E5M2",
  float8_e4m3fn: "F8_E4M3",
  int16: "I16",
  uint16: "U16",
  float16: "F16",
  bfloat16: "BF16",
  int32: "I32",
  uint32: "U32",
  float32: "F32",
  float64: "F64",
  int64: "I64",
};
const RANKS = Object.keys(CODES) as DType[];
const DTYPES = new Map(RANKS.map((dtype) => [CODES[dtype], dtype]));

/** The format's other dtypes: no network that is built here has weights of them. */
const NOT_READ: ReadonlySet<string> = new Set([
  ...["F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"],
  ...["C64", "U64"],
]);

/**
 * Reads the length of the JSON header from a file's first bytes and checks that the file can hold it.
 *
 * @param head the first 9 bytes or more (64 let the error say what the file is instead)
 * @param source the file's name, for messages
 * @throws UserError when this is no safetensors file: too short, a git-lfs pointer, an HTML page, a pickle …
 */
export function headerLength(head: Uint8Array, fileSize: number, source: string): number {
  const refuse = (problem: string) => notSafetensors(source, head, fileSize, problem);
  if (fileSize < 10 || head.length < 9) throw refuse(`${fileSize} bytes are too few for a header`);
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const length = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
  if (length > MAX_HEADER_BYTES) {
    throw refuse(`its first 8 bytes give a header of ${length} bytes, more than the ${MAX_HEADER_BYTES} allowed`);
  }
  if (head[8] !== 0x7b) throw refuse("its header does not begin with {");
  if (8 + length > fileSize) {
    throw new UserError(
      `${source} is truncated: its header alone takes ${8 + length} bytes and the file has ${fileSize}.`,
      { hint: "The download or copy did not finish; get the file again." },
    );
  }
  return length;
}

/**
 * Parses and validates the JSON header (`bytes` are the header alone).
 *
 * @throws UserError naming the tensor at fault: not JSON, a duplicate name, an unknown dtype, a shape that does not
 *   fit the length, an overlap, a hole, bytes beyond the end (a truncated file) or left over
 */
export function parseHeader(bytes: Uint8Array, fileSize: number, source: string): SafetensorsHeader {
  const damaged = (problem: string) =>
    new UserError(`${source} has a damaged safetensors header: ${problem}.`, { hint: "Get the file again." });
  let json: unknown;
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    const fault = findFault(text);
    if (fault) throw new Error(fault);
    json = JSON.parse(text);
  } catch (error) {
    throw damaged(messageOf(error));
  }
  if (!isObject(json)) throw damaged("it is not a JSON object");

  const metadata: [string, string][] = [];
  const tensors = new Map<string, TensorEntry>();
  const start = 8 + bytes.length;
  for (const [name, value] of Object.entries(json)) {
    if (name === "__metadata__") {
      if (!isObject(value)) throw damaged("__metadata__ is not an object");
      for (const [key, text] of Object.entries(value)) {
        if (typeof text !== "string") throw damaged(`__metadata__ entry ${quote(key)} is not a string`);
        metadata.push([key, text]);
      }
    } else {
      tensors.set(name, parseEntry(name, value, start, source, damaged));
    }
  }
  checkLayout(tensors, start, fileSize, source, damaged);
  return { metadata: Object.fromEntries(metadata), tensors };
}

type Damaged = (problem: string) => UserError;

function parseEntry(name: string, value: unknown, start: number, source: string, damaged: Damaged): TensorEntry {
  if (!isObject(value)) throw damaged(`tensor ${quote(name)} is not described by an object`);
  const { dtype: code, shape, data_offsets: offsets, ...others } = value;
  const [unknown] = Object.keys(others);
  if (unknown !== undefined) throw damaged(`tensor ${quote(name)} has an unknown field ${quote(unknown)}`);
  if (typeof code === "string" && NOT_READ.has(code)) {
    throw new UserError(`${source} holds tensor ${quote(name)} of dtype ${code}, which is not read.`, {
      hint: `Get a version of the model in F16, BF16 or F32, or convert it in Python (tensor.to(torch.bfloat16)); read are ${[...DTYPES.keys()].sort().join(", ")}.`,
    });
  }
  const dtype = typeof code === "string" ? DTYPES.get(code) : undefined;
  if (dtype === undefined) {
    throw damaged(
      `tensor ${quote(name)} has dtype ${quote(code)}; accepted are ${[...DTYPES.keys()].sort().join(", ")}`,
    );
  }
  if (!isListOfSizes(shape)) throw damaged(`tensor ${quote(name)} has no shape of whole numbers >= 0`);
  if (!isListOfSizes(offsets) || offsets.length !== 2 || offsets[0]! > offsets[1]!) {
    throw damaged(`tensor ${quote(name)} has no data_offsets [begin, end] with 0 <= begin <= end`);
  }
  const length = offsets[1]! - offsets[0]!;
  let size = bytesPerElement(dtype);
  for (const axis of shape) {
    size *= axis;
    if (!Number.isSafeInteger(size)) throw damaged(`tensor ${quote(name)} has an impossibly large shape`);
  }
  if (size !== length) {
    throw damaged(
      `tensor ${quote(name)} of shape ${describeShape(shape)} and dtype ${code} needs ${size} bytes, its data_offsets give ${length}`,
    );
  }
  return { dtype, shape, offset: start + offsets[0]!, length };
}

/** The tensors must cover the rest of the file once: no overlap, no hole, nothing missing, nothing left over. */
function checkLayout(
  tensors: ReadonlyMap<string, TensorEntry>,
  start: number,
  fileSize: number,
  source: string,
  damaged: Damaged,
): void {
  const ordered = [...tensors].sort(([, a], [, b]) => a.offset - b.offset || a.length - b.length);
  let end = start;
  let previous = "the header";
  for (const [name, entry] of ordered) {
    if (entry.offset < end) throw damaged(`tensor ${quote(name)} overlaps ${previous}`);
    if (entry.offset > end) {
      throw damaged(`${entry.offset - end} bytes between ${previous} and tensor ${quote(name)} belong to no tensor`);
    }
    end = entry.offset + entry.length;
    previous = `tensor ${quote(name)}`;
  }
  if (end > fileSize) {
    throw new UserError(
      `${source} is truncated: its header promises ${end} bytes and the file has ${fileSize} (${end - fileSize} missing).`,
      { hint: "The download or copy did not finish; get the file again." },
    );
  }
  if (end < fileSize) throw damaged(`${fileSize - end} bytes after the last tensor belong to no tensor`);
}

/**
 * Finds what JSON.parse would let pass: a name given twice in one object (it would keep the last), and nesting deeper
 * than a header has. Text that is no JSON at all is left for JSON.parse to refuse.
 */
function findFault(text: string): string | undefined {
  const seen: (Set<string> | undefined)[] = [];
  for (let i = 0; i < text.length; i++) {
    const c = text[i]!;
    if (c === "{" || c === "[") {
      if (seen.length === 3) return "it is nested too deeply";
      seen.push(c === "{" ? new Set() : undefined);
    } else if (c === "}" || c === "]") {
      seen.pop();
    } else if (c === '"') {
      const from = i;
      for (i++; i < text.length && text[i] !== '"'; i++) if (text[i] === "\\") i++;
      const names = seen.at(-1);
      if (!names || i >= text.length) continue;
      let after = i + 1;
      while (text[after] === " " || text[after] === "\n" || text[after] === "\r" || text[after] === "\t") after++;
      if (text[after] !== ":") continue;
      const name = JSON.parse(text.slice(from, i + 1)) as string;
      if (names.has(name)) return `the name ${quote(name)} occurs twice`;
      names.add(name);
    }
  }
  return undefined;
}

/**
 * Reads a whole safetensors file held in memory (for browsers). The tensors are views of `bytes` where their offset
 * allows it, copies otherwise.
 *
 * @param source what to call the bytes in messages
 * @throws UserError as {@link headerLength} and {@link parseHeader}
 */
export function parseSafetensors(bytes: Uint8Array, source = "the safetensors data"): Map<string, HostTensor> {
  const { tensors } = parseSafetensorsHeader(bytes, source);
  return new Map([...tensors].map(([name, entry]) => [name, tensorFrom(entry, bytes.subarray(entry.offset))]));
}

/** The validated header of a whole safetensors file held in memory. */
export function parseSafetensorsHeader(bytes: Uint8Array, source = "the safetensors data"): SafetensorsHeader {
  const length = headerLength(bytes, bytes.length, source);
  return parseHeader(bytes.subarray(8, 8 + length), bytes.length, source);
}

/** The tensor of an entry whose bytes `bytes` begin with. */
export function tensorFrom(entry: TensorEntry, bytes: Uint8Array): HostTensor {
  const data = viewAs(entry.dtype, bytes.subarray(0, entry.length));
  return { dtype: entry.dtype, shape: entry.shape, data };
}

/** The bytes of a tensor's data, not copied. */
export function bytesOf(tensor: HostTensor): Uint8Array {
  return new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
}

/** What the writer has to know of a tensor before its data. */
export interface TensorDescription {
  readonly dtype: DType;
  readonly shape: Shape;
}

/**
 * Lays tensors out as the official writer does: widest alignment first, then by name, the header padded with spaces
 * to a multiple of 8 bytes.
 *
 * @returns the file's first bytes (length and header) and the order in which the tensors' data must follow
 */
export function layOut<T extends TensorDescription>(
  tensors: Iterable<readonly [string, T]>,
  metadata: Readonly<Record<string, string>> = {},
): { readonly head: Uint8Array; readonly order: readonly (readonly [string, T])[] } {
  const order = [...tensors].sort(
    ([nameA, a], [nameB, b]) =>
      RANKS.indexOf(b.dtype) - RANKS.indexOf(a.dtype) || (nameA < nameB ? -1 : nameA > nameB ? 1 : 0),
  );
  const entries: [string, unknown][] = Object.keys(metadata).length > 0 ? [["__metadata__", metadata]] : [];
  let offset = 0;
  for (const [name, { dtype, shape }] of order) {
    if (name === "__metadata__") throw new UserError("A tensor may not be named __metadata__ in a safetensors file.");
    const end = offset + sizeOf(shape) * bytesPerElement(dtype);
    entries.push([name, { dtype: CODES[dtype], shape, data_offsets: [offset, end] }]);
    offset = end;
  }
  // Written entry by entry: in an object, names like "0" would come before the others.
  const json = `{${entries.map(([name, entry]) => `${JSON.stringify(name)}:${JSON.stringify(entry)}`).join(",")}}`;
  const text = new TextEncoder().encode(json);
  const length = Math.ceil(text.length / 8) * 8;
  if (length > MAX_HEADER_BYTES) throw new UserError(`A safetensors header of ${length} bytes is too long to be read.`);
  const head = new Uint8Array(8 + length).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(length), true);
  head.set(text, 8);
  return { head, order };
}

/** A whole safetensors file as bytes (for browsers; see `writeSafetensors` for files). */
export function encodeSafetensors(
  tensors: Iterable<readonly [string, HostTensor]>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const { head, order } = layOut(tensors, metadata);
  const bytes = new Uint8Array(order.reduce((sum, [, tensor]) => sum + tensor.data.byteLength, head.length));
  bytes.set(head);
  let offset = head.length;
  for (const [, tensor] of order) {
    bytes.set(bytesOf(tensor), offset);
    offset += tensor.data.byteLength;
  }
  return bytes;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isListOfSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0 && !Object.is(n, -0));
}

/** A name as it stands in the file, cut where it would fill the screen. */
function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? "none";
  return text.length > 120 ? `${text.slice(0, 117)}…"` : text;
}
