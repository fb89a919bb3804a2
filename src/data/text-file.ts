import { readFile } from "node:fs/promises";
import { messageOf, UserError } from "../core/errors.ts";

/**
 * Bytes as UTF-8 text, without a byte order mark.
 * @throws UserError naming the file where they are something else: decoding would change them silently
 */
export function utf8Text(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw new UserError(`${name} is not UTF-8 text.`, { hint: "Save it as UTF-8.", field: "captions", cause: error });
  }
}

/** A file's UTF-8 text. @throws UserError when it cannot be read or is something else */
export async function readUtf8(path: string): Promise<string> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw new UserError(`${path} cannot be read: ${messageOf(error)}.`, { field: "captions", cause: error });
  }
  return utf8Text(bytes, path);
}
