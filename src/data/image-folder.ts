import { basename, extname, resolve } from "node:path";
import { UserError } from "../core/errors.ts";
import { type Dataset, requireTwo } from "./dataset.ts";
import { type DecodingOptions, decodedImages, imageFiles } from "./decoded-images.ts";
import { type FoundFile, findImages } from "./find-images.ts";
import { type CaptionSource, folderCaptions } from "./folder-captions.ts";

export interface ImageFolderOptions extends DecodingOptions {
  /** `"folders"`: the sub-folder of the first level that an image lies in is its class. */
  readonly labels?: "folders" | "none";
  /** Where their captions are; default `"none"`. */
  readonly captions?: CaptionSource;
  /** Mirror images at random in training. */
  readonly flip?: boolean;
}

/**
 * A data set from a folder of images at any depth: PNG, JPEG, WebP, AVIF, the first frame of GIF. Images are decoded
 * once, several at a time on the image library's own threads, and kept in one cache file that is used again as long as
 * no file and no option changes.
 *
 * @throws UserError when the folder is missing, holds fewer than 2 images, holds files that cannot be decoded (they
 *   are named), with labels `"folders"` images that lie in no sub-folder, or where captions are asked for images without
 */
export async function imageFolder(path: string, options: ImageFolderOptions): Promise<Dataset> {
  const { labels = "none", captions = "none", flip = false } = options;
  const { files, others } = await findImages(path);
  if (files.length === 0) {
    throw new UserError(`${path} holds no image${others.length > 0 ? ` (but ${summary(others)})` : ""}.`, {
      hint: "PNG, JPEG, WebP, AVIF and GIF files at any depth are taken.",
      field: "data",
    });
  }
  const classOf = labels === "folders" ? classesByFolder(path, files) : undefined;
  const paths = files.map((file) => file.path);
  const captioned = await folderCaptions(path, paths, others, captions);
  const { pixels, indices, warnings, ...layout } = await decodedImages(imageFiles(files, path), options);
  const kept = indices.map((i) => files[i]!);
  requireTwo(path, kept.length);
  const unused = others.filter((file) => !captioned?.files.has(file));
  return {
    name: basename(resolve(path)),
    images: pixels.data,
    count: kept.length,
    ...layout,
    ...(classOf ? { labels: Int32Array.from(kept, classOf.label), classNames: classOf.names } : {}),
    ...(captioned ? { captions: kept.map((file) => captioned.captions.get(file.path)!) } : {}),
    flip,
    warnings: [
      ...warnings,
      ...(unused.length > 0 ? [`Files that are no images were not taken: ${summary(unused)}.`] : []),
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

/** How many files there are of each extension. */
function summary(files: readonly string[]): string {
  const counts = new Map<string, number>();
  for (const extension of files.map((file) => extname(file).toLowerCase())) {
    counts.set(extension, (counts.get(extension) ?? 0) + 1);
  }
  return [...counts].map(([extension, count]) => `${count} ${extension || "without extension"}`).join(", ");
}
