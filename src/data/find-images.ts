import { readdir, realpath, stat } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, UserError } from "../core/errors.ts";

/** A file as it was found in a folder of images. */
export interface FoundFile {
  /** Relative to the folder, with forward slashes. */
  readonly path: string;
  readonly absolute: string;
  readonly bytes: number;
  /** Milliseconds since 1970. */
  readonly modified: number;
}

/** Extensions of images. Those that cannot be decoded are here too, so that they are named and not passed over. */
const IMAGE =
  /\.(png|jpe?g|jfif|webp|avif|gif|apng|bmp|tiff?|heic|heif|jxl|jp2|svg|psd|ico|tga|exr|hdr|ppm|pgm|raw|dng)$/i;

/**
 * Finds the images of a folder at any depth, sorted by path. Hidden files and folders (names with a leading dot) are
 * not looked at; links are followed, each folder once.
 *
 * @returns the images, and the paths of the other files, relative to the folder with forward slashes
 * @throws UserError when the folder is missing or cannot be read
 */
export async function findImages(root: string): Promise<{ files: FoundFile[]; others: string[] }> {
  const files: FoundFile[] = [];
  const others: string[] = [];
  const visited = new Set<string>();
  const visit = async (folder: string, prefix: string): Promise<void> => {
    const real = await realpath(folder);
    if (visited.has(real)) return;
    visited.add(real);
    for (const entry of await readdir(folder, { withFileTypes: true })) {
      if (entry.name.startsWith(".")) continue;
      const absolute = join(folder, entry.name);
      const path = prefix + entry.name;
      const image = IMAGE.test(entry.name);
      if (entry.isDirectory()) {
        await visit(absolute, `${path}/`);
      } else if (image || entry.isSymbolicLink()) {
        const about = await stat(absolute).catch(() => undefined);
        if (about?.isDirectory()) await visit(absolute, `${path}/`);
        // A link to nothing stays in the list: decoding names it.
        else if (image) files.push({ path, absolute, bytes: about?.size ?? 0, modified: about?.mtimeMs ?? 0 });
        else others.push(path);
      } else {
        others.push(path);
      }
    }
  };
  try {
    await visit(root, "");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT") throw new UserError(`There is no folder ${root}.`, { field: "data", cause: error });
    if (code === "ENOTDIR") throw new UserError(`${root} is a file; a folder of images is needed.`, { field: "data" });
    throw new UserError(`${root} cannot be read: ${messageOf(error)}.`, { field: "data", cause: error });
  }
  files.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
  return { files, others: others.sort() };
}
