import { Worker } from "node:worker_threads";
import { UserError } from "../core/errors.ts";
import type { Kind, Replies, ReplyMessage, RequestMessage, Requests } from "./protocol.ts";

/** Calls into a worker thread, answered in order; the thread keeps the process alive only while an answer is due. */
export interface WorkerHost {
  call<K extends Kind>(kind: K, body: Requests[K], transfer?: readonly ArrayBuffer[]): Promise<Replies[K]>;
  /** Whether the thread still answers. */
  readonly alive: boolean;
  /** Changes what errors call the thread. */
  rename(name: string): void;
  /** Ends the thread; calls still open are rejected. */
  terminate(): Promise<void>;
}

interface Pending {
  readonly resolve: (body: never) => void;
  readonly reject: (error: Error) => void;
}

/** Starts the worker script at `script`. `name` is what errors call it. */
export function startWorker(script: URL, name: string): WorkerHost {
  let called = name;
  const worker = new Worker(script, { name });
  worker.unref();
  const pending = new Map<number, Pending>();
  let next = 0;
  let dead: Error | undefined;

  const settle = (id: number): Pending | undefined => {
    const entry = pending.get(id);
    pending.delete(id);
    if (pending.size === 0) worker.unref();
    return entry;
  };
  const die = (error: Error) => {
    dead ??= error;
    for (const id of [...pending.keys()]) settle(id)?.reject(dead);
  };
  worker.on("message", (reply: ReplyMessage) => {
    const entry = settle(reply.id);
    if ("error" in reply) {
      const { message, user } = reply.error;
      entry?.reject(user ? new UserError(message, { field: user.field }) : new Error(message));
    } else {
      entry?.resolve(reply.body as never);
    }
  });
  worker.on("error", (error) => die(new Error(`${called}: its thread crashed: ${error.message}`, { cause: error })));
  worker.on("messageerror", (error) => die(new Error(`${called}: a message of its thread was unreadable: ${error}`)));
  worker.on("exit", (code) => die(new Error(`${called}: its thread has ended (exit code ${code})`)));

  return {
    call(kind, body, transfer = []) {
      if (dead) return Promise.reject(dead);
      return new Promise((resolve, reject) => {
        const id = next++;
        const message: RequestMessage = { id, kind, body };
        // Throws when something cannot be cloned; nothing is pending then.
        worker.postMessage(message, transfer as ArrayBuffer[]);
        if (pending.size === 0) worker.ref();
        pending.set(id, { resolve, reject });
      });
    },
    get alive() {
      return dead === undefined;
    },
    rename(name) {
      called = name;
    },
    async terminate() {
      dead ??= new Error(`${called} is closed`);
      await worker.terminate();
    },
  };
}
