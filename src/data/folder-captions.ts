import { join, posix } from "node:path";
import { UserError } from "../core/errors.ts";
import { captionLines } from "./caption-text.ts";
import { type Metadata, metadataCsv, metadataJsonl } from "./metadata-file.ts";
import { namedLines } from "./named-lines.ts";
import { readUtf8 } from "./text-file.ts";

/**
 * Where the captions of a folder's pictures are:
 *
 * - `"sidecar"`: `cat.txt` beside `cat.png`, one caption a line
 * - `"metadata"`: a `metadata.jsonl` or `metadata.csv` in the folder or in any below it, whose `file_name`s are relative
 *   to where it lies and whose captions are called `text`, `caption` or `captions` (in JSON also a list); a picture named
 *   on several lines has the captions of all
 * - `"auto"`: metadata files where there are any, else sidecars where there are any, else nowhere
 * - `"none"`: nowhere
 */
export type CaptionSource = "auto" | "sidecar" | "metadata" | "none";

export interface FolderCaptions {
  /** By the picture's path; at least one each. */
  readonly captions: ReadonlyMap<string, readonly string[]>;
  /** The files that they were read from. */
  readonly files: ReadonlySet<string>;
}

/** How many sidecar files are read at a time. */
const AT_ONCE = 64;

const METADATA = /^metadata\.(jsonl|csv)$/;

/**
 * Reads the captions of a folder.
 *
 * @param images paths relative to the folder, with forward slashes
 * @param others paths of the folder's other files
 * @returns undefined where there are none and none are needed
 * @throws UserError naming pictures without a caption, metadata of files that are not there, lines that cannot be read
 */
export async function folderCaptions(
  root: string,
  images: readonly string[],
  others: readonly string[],
  from: CaptionSource,
): Promise<FolderCaptions | undefined> {
  if (!["auto", "sidecar", "metadata", "none"].includes(from)) {
    throw new UserError(`captions is "${from}"; auto, sidecar, metadata and none are accepted.`, { field: "captions" });
  }
  if (from === "none") return undefined;
  const metadataFiles = others.filter((path) => METADATA.test(posix.basename(path)));
  refuseParquet(root, others, from);
  if (from === "metadata" && metadataFiles.length === 0) {
    throw new UserError(`${root} has no metadata.jsonl and no metadata.csv.`, {
      hint: 'Write one with a file_name and a text on every line, or choose captions "sidecar" or "none".',
      field: "captions",
    });
  }
  if (from !== "sidecar" && metadataFiles.length > 0) {
    return complete(root, images, await fromMetadata(root, images, metadataFiles));
  }
  const present = new Set(others);
  const sidecars = images.map((path) => `${path.slice(0, -posix.extname(path).length)}.txt`);
  if (from === "auto" && !sidecars.some((path) => present.has(path))) return undefined;
  return complete(root, images, await fromSidecars(root, images, sidecars, present));
}

async function fromSidecars(
  root: string,
  images: readonly string[],
  sidecars: readonly string[],
  present: ReadonlySet<string>,
): Promise<FolderCaptions> {
  const captions = new Map<string, string[]>();
  const files = new Set(sidecars.filter((path) => present.has(path)));
  for (let at = 0; at < images.length; at += AT_ONCE) {
    const some = images.slice(at, at + AT_ONCE).map(async (image, i) => {
      const sidecar = sidecars[at + i]!;
      if (files.has(sidecar)) captions.set(image, captionLines(await readUtf8(join(root, sidecar))));
    });
    await Promise.all(some);
  }
  return { captions, files };
}

async function fromMetadata(
  root: string,
  images: readonly string[],
  metadataFiles: readonly string[],
): Promise<FolderCaptions> {
  const captions = new Map<string, string[]>();
  const named = new Map<string, string>();
  const known = new Set(images);
  const problems: string[] = [];
  for (const path of metadataFiles) {
    const { rows, problems: own } = await metadataAt(root, path);
    problems.push(...own.map((problem) => `${path} ${problem}`));
    for (const { line, fileName, captions: texts } of rows) {
      const image = posix.join(posix.dirname(path), fileName);
      const before = named.get(image) ?? path;
      if (!known.has(image)) {
        problems.push(`${path} line ${line}: there is no picture ${image}`);
      } else if (before !== path) {
        problems.push(`${path} line ${line}: ${image} is also named in ${before}; one of them is enough`);
      } else {
        named.set(image, path);
        captions.set(image, [...(captions.get(image) ?? []), ...texts]);
      }
    }
  }
  if (problems.length > 0) {
    throw new UserError(`The metadata of ${root} cannot be used:\n${namedLines(problems)}`, {
      hint: 'Each line needs a file_name, relative to where the metadata file lies, and a text: {"file_name": "a.png", "text": "a cat"}.',
      field: "captions",
    });
  }
  return { captions, files: new Set(metadataFiles) };
}

async function metadataAt(root: string, path: string): Promise<Metadata> {
  const text = await readUtf8(join(root, path));
  return path.endsWith(".csv") ? metadataCsv(text) : metadataJsonl(text);
}

/** What Hugging Face's ImageFolder also reads must not look as if there were no captions. */
function refuseParquet(root: string, others: readonly string[], from: CaptionSource): void {
  const parquet = others.find((path) => posix.basename(path) === "metadata.parquet");
  if (parquet === undefined || from === "sidecar") return;
  throw new UserError(`${join(root, parquet)} cannot be read: of metadata, JSON lines and CSV are.`, {
    hint: "Convert it to metadata.jsonl, or say where the captions are (sidecar or none).",
    field: "captions",
  });
}

/** Every picture must have a caption: one without would be trained on as if nothing were in it. */
function complete(root: string, images: readonly string[], found: FolderCaptions): FolderCaptions {
  const without = images.filter((path) => !found.captions.get(path)?.length);
  if (without.length === 0) return found;
  throw new UserError(
    `${without.length} of ${images.length} images in ${root} have no caption:\n${namedLines(without)}`,
    {
      hint: 'Give each one a line of metadata or a .txt beside it that is not empty, remove it, or choose captions "none".',
      field: "captions",
    },
  );
}
