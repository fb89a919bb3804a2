/** Why a command ended: the user or the system asked it to. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";
}

/** What shells expect of a program that was interrupted (128 + SIGINT). */
export const INTERRUPTED_STATUS = 130;

/**
 * Runs `work` with a signal that the first Ctrl-C or SIGTERM aborts, with an `Interrupted` error as its reason; a
 * second one ends the process at once.
 *
 * @param announce is told of the first
 */
export async function interruptible<T>(announce: () => void, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const stop = () => {
    if (controller.signal.aborted) process.exit(INTERRUPTED_STATUS);
    announce();
    controller.abort(new Interrupted("stopped"));
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  try {
    return await work(controller.signal);
  } finally {
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
  }
}
