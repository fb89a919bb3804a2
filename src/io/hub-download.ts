import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, rename, rm, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { messageOf, UserError } from "../core/errors.ts";

/** A file to download. */
export interface Download {
  /** What messages call it. */
  readonly what: string;
  readonly size: number;
  /** SHA-256 of the content in hexadecimal, where it is known. */
  readonly sha256?: string;
  /** Opens the content from a byte on. */
  open(from: number): Promise<AsyncIterable<Uint8Array>>;
  /** Whether asking again makes no sense: the server said no. */
  isFinal(error: unknown): boolean;
}

/** How often an interrupted transfer is taken up again before giving up; each wait is twice the one before. */
const ATTEMPTS = 5;
const FIRST_WAIT_MS = 250;

const running = new Map<string, Promise<void>>();

/**
 * Downloads into `target`, by way of `incomplete`, where an earlier, interrupted download goes on. The length and, where
 * known, the hash are checked before the file gets its name. Asked for twice at the same time it is downloaded once.
 *
 * @param onBytes called with the number of bytes there are
 * @throws UserError when the transfer cannot be finished; what came is kept
 */
export function download(
  file: Download,
  target: string,
  incomplete: string,
  onBytes: (bytes: number) => void = () => undefined,
): Promise<void> {
  const known = running.get(target);
  if (known) return known;
  const started = transfer(file, target, incomplete, onBytes).finally(() => running.delete(target));
  running.set(target, started);
  return started;
}

async function transfer(
  file: Download,
  target: string,
  incomplete: string,
  onBytes: (bytes: number) => void,
): Promise<void> {
  await mkdir(dirname(target), { recursive: true });
  for (let attempt = 1; ; attempt++) {
    try {
      await goOn(file, incomplete, onBytes);
      break;
    } catch (error) {
      if (file.isFinal(error)) throw error;
      if (attempt === ATTEMPTS) {
        throw new UserError(`The download of ${file.what} was interrupted ${ATTEMPTS} times: ${messageOf(error)}.`, {
          hint: "What came is kept; start again to go on from there.",
          cause: error,
        });
      }
      await wait(FIRST_WAIT_MS * 2 ** (attempt - 1));
    }
  }
  if (file.sha256 !== undefined && (await sha256Of(incomplete)) !== file.sha256) {
    await rm(incomplete);
    throw new UserError(`${file.what} arrived damaged: its SHA-256 is not ${file.sha256}. It was removed.`, {
      hint: "Start again to download it anew.",
    });
  }
  await rename(incomplete, target);
}

/** Appends what is missing. */
async function goOn(file: Download, incomplete: string, onBytes: (bytes: number) => void): Promise<void> {
  const present = await stat(incomplete).catch(() => undefined);
  let bytes = present?.size ?? 0;
  if (bytes > file.size) {
    await rm(incomplete);
    bytes = 0;
  }
  onBytes(bytes);
  if (present && bytes === file.size) return;
  const handle = await open(incomplete, "a");
  try {
    if (file.size === 0) return;
    for await (const chunk of await file.open(bytes)) {
      if (bytes + chunk.length > file.size) throw new Error(`more than the ${file.size} bytes announced arrived`);
      await handle.writeFile(chunk);
      bytes += chunk.length;
      onBytes(bytes);
    }
  } finally {
    await handle.close();
  }
  if (bytes < file.size) throw new Error(`only ${bytes} of ${file.size} bytes arrived`);
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(chunk);
  return hash.digest("hex");
}
