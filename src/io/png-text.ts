import { UserError } from "../core/errors.ts";

// Text chunks of PNG (https://www.w3.org/TR/png-3/#11textinfo). iTXt holds UTF-8; tEXt, which other programs write,
// Latin-1.

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);

/** Adds an iTXt chunk per entry after the header chunk of a PNG. Keywords are 1 to 79 printable Latin-1 characters. */
export function withPngText(png: Uint8Array, text: Readonly<Record<string, string>>): Uint8Array {
  // Signature (8), then IHDR: length (4), type (4), 13 bytes of data, CRC (4).
  const after = 8 + 25;
  const chunks = Object.entries(text).map(([keyword, value]) => {
    if (!/^[\x21-\x7e\xa1-\xff](?:[\x20-\x7e\xa1-\xff]{0,77}[\x21-\x7e\xa1-\xff])?$/.test(keyword)) {
      throw new UserError(`"${keyword}" cannot be a PNG keyword; 1 to 79 printable Latin-1 characters can.`);
    }
    const head = Uint8Array.from(keyword, (c) => c.charCodeAt(0));
    const body = new TextEncoder().encode(value);
    // Keyword, 0; not compressed (0, 0); no language (0), no translated keyword (0).
    const data = new Uint8Array(head.length + 5 + body.length);
    data.set(head);
    data.set(body, head.length + 5);
    return chunkOf("iTXt", data);
  });
  const parts = [png.subarray(0, after), ...chunks, png.subarray(after)];
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}

/** The uncompressed text entries (iTXt and tEXt) of a PNG; empty when it is none or has none. */
export function pngText(png: Uint8Array): Record<string, string> {
  const entries: [string, string][] = [];
  if (!SIGNATURE.every((byte, i) => png[i] === byte)) return {};
  const view = new DataView(png.buffer, png.byteOffset, png.byteLength);
  for (let at = 8; at + 12 <= png.length; ) {
    const length = view.getUint32(at);
    const type = latin(png.subarray(at + 4, at + 8));
    const data = png.subarray(at + 8, at + 8 + length);
    const zero = data.indexOf(0);
    if (type === "tEXt" && zero > 0) entries.push([latin(data.subarray(0, zero)), latin(data.subarray(zero + 1))]);
    if (type === "iTXt" && zero > 0 && data[zero + 1] === 0) {
      const translated = data.indexOf(0, data.indexOf(0, zero + 3) + 1);
      entries.push([latin(data.subarray(0, zero)), new TextDecoder().decode(data.subarray(translated + 1))]);
    }
    at += 12 + length;
  }
  return Object.fromEntries(entries);
}

function latin(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
}

function chunkOf(type: string, data: Uint8Array): Uint8Array {
  const chunk = new Uint8Array(12 + data.length);
  const view = new DataView(chunk.buffer);
  view.setUint32(0, data.length);
  chunk.set(
    Uint8Array.from(type, (c) => c.charCodeAt(0)),
    4,
  );
  chunk.set(data, 8);
  view.setUint32(8 + data.length, crc32(chunk.subarray(4, 8 + data.length)));
  return chunk;
}

/** CRC-32 of PNG (polynomial 0xedb88320, reflected). Node's zlib.crc32 came only with 20.15. */
function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return (crc ^ 0xffffffff) >>> 0;
}
