import { randomBytes } from "node:crypto";
import { type FileHandle, mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

/** One call of `write` takes at most this much; a single write of 2 GiB or more fails on every system. */
const CHUNK_BYTES = 64 * 2 ** 20;

/** Appends bytes to the file being written. */
export type Append = (bytes: Uint8Array) => Promise<void>;

/**
 * Writes a file so that at `path` there is always either what was there before or the whole new content: into a
 * temporary file in the same folder, synced, renamed over `path`, and the folder synced, so that a crash or power
 * loss after the return cannot undo it. Folders are made as needed. When `write` throws, the temporary file is removed;
 * one that a killed process left behind is removed the next time the same file is written.
 */
export async function writeAtomically(path: string, write: (append: Append) => Promise<void>): Promise<void> {
  const folder = dirname(path);
  await mkdir(folder, { recursive: true });
  await removeLeftovers(folder, basename(path));
  const temporary = join(folder, `.${basename(path)}.${process.pid}-${randomBytes(4).toString("hex")}.tmp`);
  const file = await open(temporary, "wx");
  try {
    try {
      await write((bytes) => appendAll(file, bytes));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncFolder(folder);
}

/** {@link writeAtomically} for content that is at hand. */
export async function writeFileAtomically(path: string, content: string | Uint8Array): Promise<void> {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  await writeAtomically(path, (append) => append(bytes));
}

/** Removes temporary files of `name` whose writer no longer runs. */
async function removeLeftovers(folder: string, name: string): Promise<void> {
  for (const file of await readdir(folder)) {
    if (!file.startsWith(`.${name}.`)) continue;
    const writer = /^(\d+)-[0-9a-f]{8}\.tmp$/.exec(file.slice(name.length + 2))?.[1];
    if (writer !== undefined && !isRunning(Number(writer))) await rm(join(folder, file), { force: true });
  }
}

/** Whether there is a process of this number on this machine. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

async function appendAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, at, Math.min(CHUNK_BYTES, bytes.length - at));
    at += bytesWritten;
  }
}

/** Makes a rename in the folder durable. Windows cannot open folders and needs none of it. */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform === "win32") return;
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
