import { constants } from "node:buffer";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { availableParallelism, totalmem } from "node:os";
import { join } from "node:path";
import { messageOf, UserError } from "../core/errors.ts";
import { type HostTensor, hostTensor } from "../core/host-tensor.ts";
import { deinterleave } from "../io/host-image.ts";
import { decodeImage, type ImageSize, parseColour } from "../io/images.ts";
import { readSafetensors, readSafetensorsHeader, writeSafetensors } from "../io/safetensors.ts";
import { cacheFolder } from "./cache.ts";
import type { FoundFile } from "./find-images.ts";

/** How image files become pixels. */
export interface DecodingOptions {
  /** Width and height that every image is scaled to fill and cut to. */
  readonly size: ImageSize;
  /** 3 (RGB) or 1 (gray). */
  readonly channels?: 1 | 3;
  /** The colour behind transparent pixels, `#rrggbb`, or `"ignore"` to drop the alpha channel. */
  readonly background?: string;
  /** Leave out files that cannot be decoded (they are named in `warnings`) instead of refusing the data. */
  readonly skipUnreadable?: boolean;
  /** Where decoded images are kept (see {@link cacheFolder}); false decodes anew each time. */
  readonly cache?: string | false;
  /** Called while images are decoded. */
  readonly progress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

export interface DecodedImages {
  /** [readable images, channels, height, width], one byte a sample. */
  readonly pixels: HostTensor<"uint8">;
  readonly channels: 1 | 3;
  readonly height: number;
  readonly width: number;
  /** The files that were decoded, in the order of `pixels`. */
  readonly files: readonly FoundFile[];
  /** What the user should be told: files left out, images enlarged. */
  readonly warnings: readonly string[];
}

/** Changes whenever the same file and options would give other pixels. */
const PIXELS_VERSION = 1;

/** How many files a message names. */
export const NAMED_FILES = 20;

/**
 * Decodes image files to one size, several at a time on the image library's own threads. The pixels are kept in one
 * cache file that is used again as long as no file and no option changes.
 *
 * @param from where the files come from, as messages call it
 * @throws UserError for files that cannot be decoded (they are named, unless `skipUnreadable`), for more pixels than
 *   memory holds, for a bad size or colour
 */
export async function decodedImages(
  files: readonly FoundFile[],
  from: string,
  options: DecodingOptions,
): Promise<DecodedImages> {
  const { size, channels = 3, background = "#ffffff", skipUnreadable = false } = options;
  if (channels !== 1 && channels !== 3) {
    throw new UserError(`channels is ${channels}; 1 (gray) and 3 (RGB) are accepted.`, { field: "channels" });
  }
  if (background !== "ignore") parseColour(background);
  const { width, height } = typeof size === "number" ? { width: size, height: size } : size;
  const wanted: Wanted = { files, width, height, channels, background };

  const cacheFile = options.cache === false ? undefined : join(await cacheFolder(options.cache), cacheName(wanted));
  let decoded = cacheFile ? await fromCache(cacheFile, wanted) : undefined;
  // Files may have become readable without changing (permissions, a link's target): ask them again before refusing.
  if (decoded && decoded.unreadable.length > 0 && !skipUnreadable) decoded = undefined;
  if (!decoded) {
    decoded = await decodeAll(from, wanted, options);
    const { unreadable } = decoded;
    if (unreadable.length > 0 && !skipUnreadable) {
      throw new UserError(
        `${unreadable.length} of ${files.length} images in ${from} cannot be read:\n${namedLines(problemsOf(unreadable))}`,
        { hint: "Repair or remove them, or have them left out (skipUnreadable).", field: "data" },
      );
    }
    if (cacheFile) await toCache(cacheFile, decoded);
  }
  const { pixels, unreadable, enlarged } = decoded;
  const bad = new Set(unreadable.map((file) => file.path));
  const kept = files.filter((file) => !bad.has(file.path));
  const warnings = [
    ...(unreadable.length > 0
      ? [`${unreadable.length} unreadable images were left out:\n${namedLines(problemsOf(unreadable))}`]
      : []),
    ...(enlarged > 0
      ? [`${enlarged} of ${kept.length} images are smaller than ${width}×${height} and were enlarged.`]
      : []),
  ];
  return { pixels, channels, height, width, files: kept, warnings };
}

/** The first {@link NAMED_FILES} of some lines, indented, and how many more there are. */
export function namedLines(lines: readonly string[]): string {
  const first = lines.slice(0, NAMED_FILES).map((line) => `  ${line}`);
  const more = lines.length - first.length;
  return [...first, ...(more > 0 ? [`  and ${more} more`] : [])].join("\n");
}

/**
 * Refuses, before decoding, more images than can be held.
 * @throws UserError that says how much they take
 */
export function requireRoom(count: number, { width, height, channels }: Pixels, from: string): void {
  const bytes = count * channels * height * width;
  const limit = Math.min(constants.MAX_LENGTH, totalmem());
  if (bytes <= limit) return;
  const gigabytes = (n: number) => `${(n / 2 ** 30).toFixed(1)} GiB`;
  throw new UserError(
    `${count} images of ${width}×${height}×${channels} in ${from} take ${gigabytes(bytes)}; at most ${gigabytes(limit)} can be held.`,
    { hint: "Take a smaller size or fewer images.", field: "data" },
  );
}

interface Pixels {
  readonly width: number;
  readonly height: number;
  readonly channels: 1 | 3;
}

interface Wanted extends Pixels {
  readonly files: readonly FoundFile[];
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

async function decodeAll(from: string, wanted: Wanted, options: DecodingOptions): Promise<Decoded> {
  const { files, width, height, channels, background } = wanted;
  const { progress, signal } = options;
  const bytes = channels * height * width;
  requireRoom(files.length, wanted, from);
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

function problemsOf(files: readonly Unreadable[]): string[] {
  return files.map(({ problem }) => problem);
}
