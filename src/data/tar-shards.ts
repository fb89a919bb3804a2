import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, UserError } from "../core/errors.ts";
import type { FoundFile } from "./find-images.ts";

const ARCHIVE = /\.(?:tar|tar\.gz|tgz)$/i;

/** More than any set has, and few enough to hold. */
const MOST_SHARDS = 100_000;

/** Whether a name is that of a tar archive, or a pattern of such names. */
export function isTarName(name: string): boolean {
  return ARCHIVE.test(name);
}

/**
 * The shards of a data set: the archives that lie in a folder, one archive, or those of a pattern like
 * `shard-{000000..000007}.tar` or `{train,more}.tar`.
 *
 * @returns the shards in order, and the names of a folder's other files
 * @throws UserError when there is none, or one of them is not there
 */
export async function tarShards(
  source: string | readonly string[],
): Promise<{ shards: FoundFile[]; others: readonly string[] }> {
  const names = typeof source === "string" ? [source] : source;
  const folder = typeof source === "string" && !isTarName(source) ? source : undefined;
  const entries = folder === undefined ? [] : (await namesIn(folder)).filter((name) => !name.startsWith(".")).sort();
  const paths =
    folder === undefined
      ? names.flatMap((name) => expanded(name))
      : entries.filter(isTarName).map((name) => join(folder, name));
  if (paths.length === 0) {
    throw new UserError(`${folder ?? "The list of shards"} holds no .tar, .tar.gz or .tgz file.`, { field: "data" });
  }
  const found = await Promise.all(paths.map(shardAt));
  const missing = paths.filter((_, i) => found[i] === undefined);
  if (missing.length > 0) {
    throw new UserError(`${missing.length} of ${paths.length} shards are not there, for example ${missing[0]}.`, {
      hint: "Check the folder and the numbers of the pattern.",
      field: "data",
    });
  }
  return { shards: found as FoundFile[], others: entries.filter((name) => !isTarName(name)) };
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    throw new UserError(missing ? `There is no folder ${folder}.` : `${folder} cannot be read: ${messageOf(error)}.`, {
      hint: "Give a folder of .tar files, one of them, or a pattern like shard-{000000..000007}.tar.",
      field: "data",
      cause: error,
    });
  }
}

async function shardAt(path: string): Promise<FoundFile | undefined> {
  const about = await stat(path).catch(() => undefined);
  return about?.isFile() ? { path, absolute: path, bytes: about.size, modified: about.mtimeMs } : undefined;
}

/** The names that a pattern stands for: `{a,b}` is each of the words, `{08..11}` each of the numbers, as wide as the first. */
function expanded(pattern: string): string[] {
  const [whole, inner] = /\{([^{}]*)\}/.exec(pattern) ?? [];
  if (whole === undefined) return [pattern];
  const [from, to] = /^(\d+)\.\.(\d+)$/.exec(inner!)?.slice(1) ?? [];
  const words = from === undefined ? inner!.split(",") : numbers(from, to!, pattern);
  const at = pattern.indexOf(whole);
  const names = words.flatMap((word) => expanded(`${pattern.slice(0, at)}${word}${pattern.slice(at + whole.length)}`));
  if (names.length > MOST_SHARDS) throw tooMany(pattern);
  return names;
}

function numbers(from: string, to: string, pattern: string): string[] {
  const [first, last] = [Number(from), Number(to)];
  if (last < first) {
    throw new UserError(`${pattern} counts from ${from} down to ${to}; the smaller number comes first.`, {
      field: "data",
    });
  }
  if (last - first >= MOST_SHARDS) throw tooMany(pattern);
  return Array.from({ length: last - first + 1 }, (_, i) => String(first + i).padStart(from.length, "0"));
}

function tooMany(pattern: string): UserError {
  return new UserError(`${pattern} stands for more than ${MOST_SHARDS} files.`, { field: "data" });
}
