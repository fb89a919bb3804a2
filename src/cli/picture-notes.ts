import { readFile } from "node:fs/promises";
import { messageOf, UserError } from "../core/errors.ts";
import { imageText } from "../io/index.ts";
import { type PictureNotes, readPictureNotes } from "../pipelines/index.ts";

/** The text entries of a picture's file. Throws a UserError where it cannot be read. */
export async function textsOf(path: string): Promise<Record<string, string>> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    throw new UserError(missing ? `There is no file ${path}.` : `${path} cannot be read: ${messageOf(error)}.`, {
      cause: error,
    });
  }
  return imageText(bytes, path);
}

/** How a picture was made, as its file says. Throws a UserError where it says nothing. */
export async function notesOf(path: string): Promise<PictureNotes> {
  const notes = readPictureNotes(await textsOf(path));
  if (notes) return notes;
  throw new UserError(`${path} does not say how it was made.`, {
    hint: "Pictures of `allegory generate` and of AUTOMATIC1111's web UI do, unless another program saved them again.",
    field: "like",
  });
}
