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
import { namedLines } from "./named-lines.ts";

/** How image files become pixels. */
export interface DecodingOptions {
  /** Width and height that every image is scaled to fill and cut to. */
  readonly size: ImageSize;
  /** 3 (RGB) or 1 (gray). */
  readonly channels?: 1 | 3;
  /** The colour behind transparent pixels, `#rrggbb`, or `"ignore"` to drop the alpha channel. */
  readonly background?: string;
  /** Leave out images that cannot be decoded (they are named in `warnings`) instead of refusing the data. */
  readonly skipUnreadable?: boolean;
  /** Where decoded images are kept (see {@link cacheFolder}); false decodes anew each time. */
  readonly cache?: string | false;
  /** Called while images are decoded. */
  readonly progress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** Encoded images, one after the other. */
export interface ImageSource {
  /** Where they come from, as messages call it. */
  readonly from: string;
  readonly count: number;
  /** The files that hold them: while none changes, the pixels are the same. */
  readonly files: readonly FoundFile[];
  /** The images in their order: what messages call each, and its path or the file's bytes. */
  read(): AsyncGenerator<{ readonly name: string; readonly source: string | Uint8Array }>;
}

export interface DecodedImages {
  /** [readable images, channels, height, width], one byte a sample. */
  readonly pixels: HostTensor<"uint8">;
  readonly channels: 1 | 3;
  readonly height: number;
  readonly width: number;
  /** Which of the source's images they are. */
  readonly indices: readonly number[];
  /** What the user should be told: images left out, images enlarged. */
  readonly warnings: readonly string[];
}

/** Images that have a file each. */
export function imageFiles(files: readonly FoundFile[], from: string): ImageSource {
  return {
    from,
    count: files.length,
    files,
    async *read() {
      for (const { path, absolute } of files) yield { name: path, source: absolute };
    },
  };
}

/** Changes whenever the same file and options would give other pixels, or the cache file is laid out otherwise. */
const PIXELS_VERSION = 2;

/**
 * Decodes images to one size, several at a time on the image library's own threads. The pixels are kept in one cache
 * file that is used again as long as no file and no option changes.
 *
 * @throws UserError for images that cannot be decoded (they are named, unless `skipUnreadable`), for more pixels than
 *   memory holds, for a bad size or colour
 */
export async function decodedImages(source: ImageSource, options: DecodingOptions): Promise<DecodedImages> {
  const { size, channels = 3, background = "#ffffff", skipUnreadable = false } = options;
  if (channels !== 1 && channels !== 3) {
    throw new UserError(`channels is ${channels}; 1 (gray) and 3 (RGB) are accepted.`, { field: "channels" });
  }
  if (background !== "ignore") parseColour(background);
  const { width, height } = typeof size === "number" ? { width: size, height: size } : size;
  const wanted: Wanted = { width, height, channels, background };

  const cacheFile =
    options.cache === false ? undefined : join(await cacheFolder(options.cache), cacheName(source, wanted));
  let decoded = cacheFile ? await fromCache(cacheFile, source.count, wanted) : undefined;
  // Files may have become readable without changing (permissions, a link's target): ask them again before refusing.
  if (decoded && decoded.unreadable.length > 0 && !skipUnreadable) decoded = undefined;
  if (!decoded) {
    decoded = await decodeAll(source, wanted, options);
    const { unreadable } = decoded;
    if (unreadable.length > 0 && !skipUnreadable) {
      throw new UserError(
        `${unreadable.length} of ${source.count} images in ${source.from} cannot be read:\n${named(unreadable)}`,
        { hint: "Repair or remove them, or have them left out (skipUnreadable).", field: "data" },
      );
    }
    if (cacheFile) await toCache(cacheFile, decoded);
  }
  const { pixels, unreadable, enlarged } = decoded;
  const bad = new Set(unreadable.map(({ index }) => index));
  const indices = Array.from({ length: source.count }, (_, i) => i).filter((i) => !bad.has(i));
  const warnings = [
    ...(unreadable.length > 0 ? [`${unreadable.length} unreadable images were left out:\n${named(unreadable)}`] : []),
    ...(enlarged > 0
      ? [`${enlarged} of ${indices.length} images are smaller than ${width}×${height} and were enlarged.`]
      : []),
  ];
  return { pixels, channels, height, width, indices, warnings };
}

interface Wanted {
  readonly width: number;
  readonly height: number;
  readonly channels: 1 | 3;
  readonly background: string;
}

interface Unreadable {
  readonly index: number;
  readonly problem: string;
}

interface Decoded {
  /** [readable images, channels, height, width] */
  readonly pixels: HostTensor<"uint8">;
  readonly unreadable: readonly Unreadable[];
  readonly enlarged: number;
}

async function decodeAll(source: ImageSource, wanted: Wanted, options: DecodingOptions): Promise<Decoded> {
  const { count, from } = source;
  const { width, height, channels, background } = wanted;
  const { progress, signal } = options;
  const bytes = channels * height * width;
  const limit = Math.min(constants.MAX_LENGTH, totalmem());
  if (count * bytes > limit) {
    const gigabytes = (n: number) => `${(n / 2 ** 30).toFixed(1)} GiB`;
    throw new UserError(
      `${count} images of ${width}×${height}×${channels} in ${from} take ${gigabytes(count * bytes)}; at most ${gigabytes(limit)} can be held.`,
      { hint: "Take a smaller size or fewer images.", field: "data" },
    );
  }
  const data = new Uint8Array(count * bytes);
  const problems = new Array<string | undefined>(count).fill(undefined);
  let enlarged = 0;
  let next = 0;
  let done = 0;
  const images = source.read();
  // All workers draw from one iterator, so that no more encoded images are in memory than are being decoded.
  const worker = async () => {
    while (true) {
      signal?.throwIfAborted();
      const i = next++;
      const item = await images.next();
      if (item.done) return;
      const { name, source: file } = item.value;
      try {
        const image = await decodeImage(file, { size: { width, height }, channels, background, name });
        deinterleave(image.data, channels, data.subarray(i * bytes, (i + 1) * bytes));
        if (image.original.width < width || image.original.height < height) enlarged++;
      } catch (error) {
        // A bad size or colour is no fault of the file.
        if (error instanceof UserError && error.options.field === undefined)
          problems[i] = messageOf(error).split("\n")[0]!;
        else throw error;
      }
      done++;
      progress?.(done, count);
    }
  };
  try {
    await Promise.all(Array.from({ length: Math.max(4, availableParallelism()) }, worker));
  } finally {
    await images.return(undefined);
  }
  if (done !== count) {
    throw new UserError(`${from} changed while it was read: ${done} images were found, ${count} before.`, {
      field: "data",
    });
  }
  let kept = 0;
  problems.forEach((problem, i) => {
    if (problem === undefined) data.copyWithin(kept++ * bytes, i * bytes, (i + 1) * bytes);
  });
  const unreadable = problems.flatMap((problem, index) => (problem === undefined ? [] : [{ index, problem }]));
  const pixels = hostTensor("uint8", [kept, channels, height, width], data.subarray(0, kept * bytes));
  return { pixels, unreadable, enlarged };
}

/** Named by a hash of everything that decides the pixels: paths, sizes and times of the files, and the options. */
function cacheName({ files }: ImageSource, options: Wanted): string {
  const hash = createHash("sha256").update(JSON.stringify([PIXELS_VERSION, options]));
  for (const { path, bytes, modified } of files) hash.update(JSON.stringify([path, bytes, modified]));
  return `images-${hash.digest("hex").slice(0, 32)}.safetensors`;
}

/** The cached pixels, or undefined when there are none or the file is not what was written. */
async function fromCache(path: string, count: number, wanted: Wanted): Promise<Decoded | undefined> {
  if (!existsSync(path)) return undefined;
  try {
    const { metadata } = await readSafetensorsHeader(path);
    const { unreadable, enlarged } = JSON.parse(metadata.allegory!) as Omit<Decoded, "pixels">;
    const pixels = (await readSafetensors(path)).get("images") as HostTensor<"uint8">;
    const shape = [count - unreadable.length, wanted.channels, wanted.height, wanted.width];
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

function named(files: readonly Unreadable[]): string {
  return namedLines(files.map(({ problem }) => problem));
}
