import { randomUUID } from "node:crypto";
import { link, mkdir, readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { dirname } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { isRunning } from "./atomic-file.ts";

/** How often a holder shows that it still runs, after how long without that it counts as gone, and how often others look. */
const BEAT_MS = 5_000;
const STALE_MS = 30_000;
const POLL_MS = 200;

export interface Lease {
  release(): Promise<void>;
}

export interface LeaseOptions {
  /** Asked before each attempt: whether there is nothing left to do. */
  readonly settled: () => Promise<boolean>;
  /** Called each time that another process still holds it. */
  readonly onWait?: () => Promise<void>;
  readonly signal?: AbortSignal;
}

/**
 * Takes the lease of a piece of work, a file at `path`, so that processes do not do the same work at the same time; waits while
 * another process holds it. That of a process that was killed is taken over: at once on the same machine, after half a
 * minute elsewhere.
 *
 * It saves work and guards nothing: a process that stood still for half a minute may lose its lease without noticing. What is
 * done under one must be safe without it.
 *
 * @returns undefined once the work is settled
 */
export async function takeLease(path: string, { settled, onWait, signal }: LeaseOptions): Promise<Lease | undefined> {
  const content = JSON.stringify({ host: hostname(), pid: process.pid, id: randomUUID() });
  for (;;) {
    if (await settled()) return undefined;
    await mkdir(dirname(path), { recursive: true });
    try {
      await writeFile(path, content, { flag: "wx" });
      return held(path, content);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    if (await removeIfStale(path)) continue;
    await onWait?.();
    await wait(POLL_MS, undefined, { signal });
  }
}

function held(path: string, content: string): Lease {
  // It may be another's by now.
  const isOurs = async () => (await readFile(path, "utf8").catch(() => undefined)) === content;
  const beat = async () => {
    if (await isOurs()) await utimes(path, new Date(), new Date()).catch(() => undefined);
  };
  const beats = setInterval(() => void beat(), BEAT_MS);
  beats.unref();
  return {
    async release() {
      clearInterval(beats);
      if (await isOurs()) await rm(path, { force: true });
    },
  };
}

/** Removes a lease whose holder is gone; whether there is none now. */
async function removeIfStale(path: string): Promise<boolean> {
  const content = await readFile(path, "utf8").catch(() => undefined);
  const found = await stat(path).catch(() => undefined);
  if (content === undefined || !found) return true;
  if (!holderIsGone(content) && Math.abs(Date.now() - found.mtimeMs) < STALE_MS) return false;
  const aside = `${path}.${randomUUID()}`;
  const moved = await rename(path, aside).then(
    () => true,
    () => false,
  );
  if (!moved) return false;
  // Another process may have been faster and hold it already: then it is put back.
  if ((await readFile(aside, "utf8").catch(() => content)) !== content) await link(aside, path).catch(() => undefined);
  await rm(aside, { force: true });
  return true;
}

/** Whether the holder ran on this machine and does not any more. */
function holderIsGone(content: string): boolean {
  try {
    const { host, pid } = JSON.parse(content) as { readonly host: unknown; readonly pid: unknown };
    return host === hostname() && typeof pid === "number" && !isRunning(pid);
  } catch {
    // Not written yet.
    return false;
  }
}
