import { startWorker, type WorkerHost } from "./worker-host.ts";

/** The script of the worker thread: compiled beside this file, or the TypeScript source by way of its loader. */
const WORKER = new URL(import.meta.url.endsWith(".ts") ? "./worker-source.mjs" : "./worker.js", import.meta.url);

/** Threads kept for later sessions: a picture or a preview opens a few, one after the other. */
const KEPT = 4;

/** A thread that holds more than this, garbage included, is ended: its memory goes back at once. */
const MOST_HELD = 64 * 2 ** 20;

const idle: WorkerHost[] = [];

/** A thread without a session: one whose session was closed, or a new one. `name` is what errors call it. */
export function takeWorker(name: string): WorkerHost {
  while (idle.length > 0) {
    const host = idle.pop()!;
    if (!host.alive) continue;
    host.rename(name);
    return host;
  }
  return startWorker(WORKER, name);
}

/**
 * Keeps the thread of a session that was closed for the next one, or ends it.
 *
 * @param held bytes that JavaScript holds in that thread
 */
export async function returnWorker(host: WorkerHost, held: number): Promise<void> {
  if (host.alive && held <= MOST_HELD && idle.length < KEPT) idle.push(host);
  else await host.terminate();
}
