import { constants } from "node:buffer";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { availableParallelism, totalmem } from "node:os";
import { basename, join, resolve } from "node:path";
import { messageOf, UserError } from "../core/errors.ts";
import { type HostTensor, hostTensor } from "../core/host-tensor.ts";
import { deinterleave } from "../io/host-image.ts";
import { decodeImage, type ImageSize, parseColour } from "../io/images.ts";
import { readSafetensors, readSafetensorsHeader, writeSafetensors } from "../io/safetensors.ts";
import { cacheFolder } from "./cache.ts";
import { type Dataset, requireTwo } from "./dataset.ts";
import { type FoundFile, findImages } from "./find-images.ts";

export interface ImageFolderOptions {
  /** Width and height that every image is scaled to fill and cut to. */
  readonly size: ImageSize;
  /** 3 (RGB) or 1 (gray). */
  readonly channels?: 1 | 3;
  /** `"folders"`: the sub-folder of the first level that an image lies in is its class. */
  readonly labels?: "folders" | "none";
  /** The colour behind transparent pixels, `#rrggbb`, or `"ignore"` to drop the alpha channel. */
  readonly background?: string;
  /** Leave out files that cannot be decoded (they are named in `warnings`) instead of refusing the folder. */
  readonly skipUnreadable?: boolean;
  /** Mirror images at random in training. */
  readonly flip?: boolean;
  /** Where decoded images are kept (see {@link cacheFolder}); false decodes anew each time. */
  readonly cache?: string | false;
  /** Called while images are decoded. */
  readonly progress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** Changes whenever the same file and options would give other pixels. */
const PIXELS_VERSION = 1;

/** How many unreadable files a message names. */
const NAMED_FILES = 20;

/**
 * A data set from a folder of images at any depth: PNG, JPEG, WebP, AVIF, the first frame of GIF. Images are decoded
 * once, several at a time on the image library's own threads, and kept in one cache file that is used again as long as
 * no file and no option changes.
 *
 * @throws UserError when the folder is missing, holds fewer than 2 images, holds files that cannot be decoded (they
 *   are named), or with labels `"folders"` images that lie in no sub-folder
 */
export async function imageFolder(path: string, options: ImageFolderOptions): Promise<Dataset> {
  const { size, channels = 3, labels = "none", background = "#ffffff", skipUnreadable = false, flip = false } = options;
  if (channels !== 1 && channels !== 3) {
    throw new UserError(`channels is ${channels}; 1 (gray) and 3 (RGB) are accepted.`, { field: "channels" });
  }
  if (background !== "ignore") parseColour(background);
  const { width, height } = typeof size === "number" ? { width: size, height: size } : size;
  const { files, others } = await findImages(path);
  const wanted: Wanted = { files, width, height, channels, background };
  if (files.length === 0) {
    throw new UserError(`${path} holds no image${others.size > 0 ? ` (but ${summary(others)})` : ""}.`, {
      hint: "PNG, JPEG, WebP, AVIF and GIF files at any depth are taken.",
      field: "data",
    });
  }
  const classOf = labels === "folders" ? classesByFolder(path, files) : undefined;

  const cacheFile = options.cache === false ? undefined : join(await cacheFolder(options.cache), cacheName(wanted));
  let decoded = cacheFile ? await fromCache(cacheFile, wanted) : undefined;
  // Files may have become readable without changing (permissions, a link's target): ask them again before refusing.
  if (decoded && decoded.unreadable.length > 0 && !skipUnreadable) decoded = undefined;
  if (!decoded) {
    decoded = await decodeAll(path, wanted, options);
    const { unreadable } = decoded;
    if (unreadable.length > 0 && !skipUnreadable) {
      throw new UserError(
        `${unreadable.length} of ${files.length} images in ${path} cannot be read:\n${named(unreadable)}`,
        { hint: "Repair or remove them, or have them left out (skipUnreadable).", field: "data" },
      );
    }
    if (cacheFile) await toCache(cacheFile, decoded);
  }

  const { unreadable } = decoded;
  const bad = new Set(unreadable.map((file) => file.path));
  const kept = files.filter((file) => !bad.has(file.path));
  requireTwo(path, kept.length);
  const warnings = [
    ...(unreadable.length > 0 ? [`${unreadable.length} unreadable images were left out:\n${named(unreadable)}`] : []),
    ...(decoded.enlarged > 0
      ? [`${decoded.enlarged} of ${kept.length} images are smaller than ${width}×${height} and were enlarged.`]
      : []),
    ...(others.size > 0 ? [`Files that are no images were not taken: ${summary(others)}.`] : []),
  ];
  return {
    name: basename(resolve(path)),
    images: decoded.pixels.data,
    count: kept.length,
    channels,
    height,
    width,
    ...(classOf ? { labels: Int32Array.from(kept, classOf.label), classNames: classOf.names } : {}),
    flip,
    warnings,
  };
}

interface Wanted {
  readonly files: readonly FoundFile[];
  readonly width: number;
  readonly height: number;
  readonly channels: 1 | 3;
  readonly background: string;
}

interface Unreadable {
  /** Relative to the folder. */
  readonly path: string;
  readonly problem: string;
}

interface Decoded {
  /** [readable images, channels, height, width] */
  readonly pixels: HostTensor<"uint8">;
  readonly unreadable: readonly Unreadable[];
  readonly enlarged: number;
}

async function decodeAll(path: string, wanted: Wanted, options: ImageFolderOptions): Promise<Decoded> {
  const { files, width, height, channels, background } = wanted;
  const { progress, signal } = options;
  const bytes = channels * height * width;
  const limit = Math.min(constants.MAX_LENGTH, totalmem());
  if (files.length * bytes > limit) {
    const gigabytes = (n: number) => `${(n / 2 ** 30).toFixed(1)} GiB`;
    throw new UserError(
      `${files.length} images of ${width}×${height}×${channels} in ${path} take ${gigabytes(files.length * bytes)}; at most ${gigabytes(limit)} can be held.`,
      { hint: "Take a smaller size or fewer images.", field: "data" },
    );
  }
  const data = new Uint8Array(files.length * bytes);
  const problems = new Array<string | undefined>(files.length).fill(undefined);
  let enlarged = 0;
  let next = 0;
  let done = 0;
  const worker = async () => {
    while (next < files.length) {
      signal?.throwIfAborted();
      const i = next++;
      const file = files[i]!;
      try {
        const image = await decodeImage(file.absolute, {
          size: { width, height },
          channels,
          background,
          name: file.path,
        });
        deinterleave(image.data, channels, data.subarray(i * bytes, (i + 1) * bytes));
        if (image.original.width < width || image.original.height < height) enlarged++;
      } catch (error) {
        // A bad size or colour is no fault of the file.
        if (error instanceof UserError && error.options.field === undefined)
          problems[i] = messageOf(error).split("\n")[0]!;
        else throw error;
      }
      progress?.(++done, files.length);
    }
  };
  await Promise.all(Array.from({ length: Math.max(4, availableParallelism()) }, worker));

  let count = 0;
  problems.forEach((problem, i) => {
    if (problem === undefined) data.copyWithin(count++ * bytes, i * bytes, (i + 1) * bytes);
  });
  const unreadable = files.flatMap(({ path }, i) =>
    problems[i] === undefined ? [] : [{ path, problem: problems[i]! }],
  );
  const pixels = hostTensor("uint8", [count, channels, height, width], data.subarray(0, count * bytes));
  return { pixels, unreadable, enlarged };
}

/** Named by a hash of everything that decides the pixels: paths, sizes and times of the files, and the options. */
function cacheName({ files, ...options }: Wanted): string {
  const hash = createHash("sha256").update(JSON.stringify([PIXELS_VERSION, options]));
  for (const { path, bytes, modified } of files) hash.update(JSON.stringify([path, bytes, modified]));
  return `images-${hash.digest("hex").slice(0, 32)}.safetensors`;
}

/** The cached pixels, or undefined when there are none or the file is not what was written. */
async function fromCache(path: string, { files, width, height, channels }: Wanted): Promise<Decoded | undefined> {
  if (!existsSync(path)) return undefined;
  try {
    const { metadata } = await readSafetensorsHeader(path);
    const { unreadable, enlarged } = JSON.parse(metadata.allegory!) as Omit<Decoded, "pixels">;
    const pixels = (await readSafetensors(path)).get("images") as HostTensor<"uint8">;
    const shape = [files.length - unreadable.length, channels, height, width];
    return String(pixels.shape) === String(shape) ? { pixels, unreadable, enlarged } : undefined;
  } catch {
    // A damaged cache is made anew.
    return undefined;
  }
}

async function toCache(path: string, { pixels, unreadable, enlarged }: Decoded): Promise<void> {
  try {
    await writeSafetensors(path, new Map([["images", pixels]]), { allegory: JSON.stringify({ unreadable, enlarged }) });
  } catch (error) {
    throw new UserError(`The cache file ${path} cannot be written: ${messageOf(error)}.`, {
      hint: "Make room, set ALLEGORY_CACHE to another folder, or switch the cache off.",
      cause: error,
    });
  }
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

function named(files: readonly Unreadable[]): string {
  const lines = files.slice(0, NAMED_FILES).map(({ problem }) => `  ${problem}`);
  return [...lines, ...(files.length > NAMED_FILES ? [`  and ${files.length - NAMED_FILES} more`] : [])].join("\n");
}

function summary(others: ReadonlyMap<string, number>): string {
  return [...others].map(([extension, count]) => `${count} ${extension || "without extension"}`).join(", ");
}
