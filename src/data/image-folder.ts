import { basename, resolve } from "node:path";
import { UserError } from "../core/errors.ts";
import { type Dataset, requireTwo } from "./dataset.ts";
import { type DecodingOptions, decodedImages } from "./decoded-images.ts";
import { type FoundFile, findImages } from "./find-images.ts";

export interface ImageFolderOptions extends DecodingOptions {
  /** `"folders"`: the sub-folder of the first level that an image lies in is its class. */
  readonly labels?: "folders" | "none";
  /** Mirror images at random in training. */
  readonly flip?: boolean;
}

/**
 * A data set from a folder of images at any depth: PNG, JPEG, WebP, AVIF, the first frame of GIF. Images are decoded
 * once, several at a time on the image library's own threads, and kept in one cache file that is used again as long as
 * no file and no option changes.
 *
 * @throws UserError when the folder is missing, holds fewer than 2 images, holds files that cannot be decoded (they
 *   are named), or with labels `"folders"` images that lie in no sub-folder
 */
export async function imageFolder(path: string, options: ImageFolderOptions): Promise<Dataset> {
  const { labels = "none", flip = false } = options;
  const { files, others } = await findImages(path);
  if (files.length === 0) {
    throw new UserError(`${path} holds no image${others.size > 0 ? ` (but ${summary(others)})` : ""}.`, {
      hint: "PNG, JPEG, WebP, AVIF and GIF files at any depth are taken.",
      field: "data",
    });
  }
  const classOf = labels === "folders" ? classesByFolder(path, files) : undefined;
  const { pixels, files: kept, warnings, ...layout } = await decodedImages(files, path, options);
  requireTwo(path, kept.length);
  return {
    name: basename(resolve(path)),
    images: pixels.data,
    count: kept.length,
    ...layout,
    ...(classOf ? { labels: Int32Array.from(kept, classOf.label), classNames: classOf.names } : {}),
    flip,
    warnings: [
      ...warnings,
      ...(others.size > 0 ? [`Files that are no images were not taken: ${summary(others)}.`] : []),
    ],
  };
}

function classesByFolder(path: string, files: readonly FoundFile[]) {
  const folderOf = (file: FoundFile) =>
    file.path.includes("/") ? file.path.slice(0, file.path.indexOf("/")) : undefined;
  const loose = files.filter((file) => folderOf(file) === undefined);
  if (loose.length > 0) {
    throw new UserError(
      `With labels "folders" every image must lie in a sub-folder; ${loose.length} in ${path} do not, for example ${loose[0]!.path}.`,
      { hint: 'Move them into the folder of their class, or choose labels "none".', field: "labels" },
    );
  }
  const names = [...new Set(files.map((file) => folderOf(file)!))].sort();
  const index = new Map(names.map((name, i) => [name, i]));
  return { names, label: (file: FoundFile) => index.get(folderOf(file)!)! };
}

function summary(others: ReadonlyMap<string, number>): string {
  return [...others].map(([extension, count]) => `${count} ${extension || "without extension"}`).join(", ");
}
