import { createHash, randomBytes } from "node:crypto";
import { constants, createReadStream } from "node:fs";
import { copyFile, mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { messageOf, UserError } from "../core/errors.ts";
import { type Lease, takeLease } from "./lease.ts";

// Several processes may download the same file at the same time. Each writes to a part of its own, which nobody else ever
// writes to, and gives it the file's name when its hash is right: so that the file is right does not depend on who else is
// there or was killed. A lease keeps the others waiting, so that it is usually downloaded once; who gets it next copies the part
// of one that ended early and goes on from there. (Copies, as the other may only seem to have ended.) Python's library writes to
// HASH.incomplete under a lock that Node cannot take; that file is left alone.

/** A file to download. */
export interface Download {
  /** What messages call it. */
  readonly what: string;
  readonly size: number;
  /** SHA-256 of the content in hexadecimal; or, with 40 digits, the SHA-1 by which git knows it. */
  readonly hash: string;
  /** Opens the content from a byte on. */
  open(from: number): Promise<AsyncIterable<Uint8Array>>;
  /** Whether asking again makes no sense: the server said no. */
  isFinal(error: unknown): boolean;
  readonly signal?: AbortSignal;
}

/** Where it goes. */
export interface DownloadPlace {
  readonly target: string;
  /** A file by which processes agree on who downloads it. */
  readonly lease: string;
}

/** How often an interrupted transfer is taken up again before giving up; each wait is twice the one before. */
const ATTEMPTS = 5;
const FIRST_WAIT_MS = 250;

/** What the file system says that does not change by waiting. */
const FINAL_CODES = ["EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "ENOTDIR"];

const running = new Map<string, Promise<void>>();

/**
 * Downloads a file, going on where an earlier, interrupted download ended. Length and hash are checked before the file gets its
 * name. Asked for twice at the same time, also by several processes, it is downloaded once. A file that is there already is
 * taken if it has the right length and, where it is small (known by git's hash), the right hash.
 *
 * @param onBytes called with the number of bytes there are
 * @throws UserError when the transfer cannot be finished; what came is kept
 */
export function download(
  file: Download,
  place: DownloadPlace,
  onBytes: (bytes: number) => void = () => undefined,
): Promise<void> {
  const known = running.get(place.target);
  if (known) return known;
  const started = transfer(file, place, onBytes).finally(() => running.delete(place.target));
  running.set(place.target, started);
  return started;
}

async function transfer(
  file: Download,
  { target, lease }: DownloadPlace,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const settled = () => isThere(target, file);
  const onWait = async () => onBytes(Math.min(file.size, (await partsOf(target))[0]?.size ?? 0));
  let held: Lease | undefined;
  let own: string | undefined;
  try {
    for (let attempt = 1; ; attempt++) {
      try {
        held ??= await takeLease(lease, { settled, onWait, signal: file.signal });
        if (!held || (await settled())) break;
        own ??= await newPart(target);
        await goOn(file, own, onBytes);
        await finish(file, own, target);
        return;
      } catch (error) {
        if (file.isFinal(error) || error instanceof UserError) throw error;
        if (FINAL_CODES.includes((error as NodeJS.ErrnoException).code ?? "")) {
          throw new UserError(`${file.what} cannot be written: ${messageOf(error)}.`, { cause: error });
        }
        if (attempt === ATTEMPTS) {
          throw new UserError(`The download of ${file.what} was interrupted ${ATTEMPTS} times: ${messageOf(error)}.`, {
            hint: "What came is kept; start again to go on from there.",
            cause: error,
          });
        }
        await wait(FIRST_WAIT_MS * 2 ** (attempt - 1), undefined, { signal: file.signal });
      }
    }
  } finally {
    await held?.release();
  }
  // Another process downloaded it.
  if (own !== undefined) await rm(own, { force: true });
  onBytes(file.size);
}

/** The parts of earlier downloads of a file, the largest first. */
async function partsOf(target: string): Promise<{ readonly path: string; readonly size: number }[]> {
  const folder = dirname(target);
  const start = `${basename(target)}.`;
  const names = (await readdir(folder).catch(() => [])).filter(
    (name) => name.startsWith(start) && /^[0-9a-f]{8}\.incomplete$/.test(name.slice(start.length)),
  );
  const parts = await Promise.all(
    names.map(async (name) => {
      const path = join(folder, name);
      const found = await stat(path).catch(() => undefined);
      return found ? [{ path, size: found.size }] : [];
    }),
  );
  return parts.flat().sort((a, b) => b.size - a.size);
}

/** A new part, which begins as the largest of those that are there; these are removed. */
async function newPart(target: string): Promise<string> {
  await mkdir(dirname(target), { recursive: true });
  const own = `${target}.${randomBytes(4).toString("hex")}.incomplete`;
  const left = await partsOf(target);
  // Where the file system can, the copy shares its bytes with the original.
  if (left[0]) await copyFile(left[0].path, own, constants.COPYFILE_FICLONE);
  for (const { path } of left) await rm(path, { force: true }).catch(() => undefined);
  return own;
}

/** Appends what is missing. */
async function goOn(file: Download, part: string, onBytes: (bytes: number) => void): Promise<void> {
  let bytes = (await stat(part).catch(() => undefined))?.size ?? 0;
  if (bytes > file.size) {
    await rm(part);
    bytes = 0;
  }
  onBytes(bytes);
  const handle = await open(part, "a");
  try {
    if (bytes < file.size) {
      for await (const chunk of await file.open(bytes)) {
        if (bytes + chunk.length > file.size) throw new Error(`more than the ${file.size} bytes announced arrived`);
        await handle.writeFile(chunk);
        bytes += chunk.length;
        onBytes(bytes);
      }
    }
    // Its name must not outlive its content when the power goes.
    await handle.sync();
  } finally {
    await handle.close();
  }
  if (bytes < file.size) throw new Error(`only ${bytes} of ${file.size} bytes arrived`);
}

/** Gives a finished part the name of the file. */
async function finish(file: Download, part: string, target: string): Promise<void> {
  const { size } = await stat(part);
  if (size !== file.size) throw new Error(`${size} bytes are there of ${file.size}`);
  if ((await hashOf(part, file)) !== file.hash) {
    await rm(part);
    throw new UserError(`${file.what} arrived damaged: its ${hashName(file)} is not ${file.hash}. It was removed.`, {
      hint: "Start again to download it anew.",
    });
  }
  try {
    await rename(part, target);
  } catch (error) {
    // Windows replaces no file that someone reads.
    if (!(await isThere(target, file))) throw error;
    await rm(part, { force: true });
  }
}

/** Whether a file is there as a whole. Large files are known by their length alone: they were checked when they came. */
async function isThere(path: string, file: Download): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  if (found?.size !== file.size) return false;
  return hashName(file) === "SHA-256" || (await hashOf(path, file)) === file.hash;
}

const hashName = ({ hash }: Download) => (hash.length === 64 ? "SHA-256" : "SHA-1");

async function hashOf(path: string, file: Download): Promise<string> {
  // git hashes a content after its kind and length.
  const hash = hashName(file) === "SHA-256" ? createHash("sha256") : createHash("sha1").update(`blob ${file.size}\0`);
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(chunk);
  return hash.digest("hex");
}
