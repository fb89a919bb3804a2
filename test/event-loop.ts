import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { monitorEventLoopDelay } from "node:perf_hooks";

/** Nanoseconds that this process's main thread has computed, as Linux counts them. */
const SCHEDULE = `/proc/self/task/${process.pid}/schedstat`;

/**
 * The longest time in milliseconds that `work` holds up the event loop at once. On Linux it is computing time of the thread,
 * which other programs that want the processor do not lengthen; elsewhere what Node's monitor of the event loop says.
 */
export async function longestTurn(work: () => Promise<unknown>): Promise<number> {
  const counted = await readFile(SCHEDULE, "utf8").then(
    () => true,
    () => false,
  );
  if (!counted) {
    const monitor = monitorEventLoopDelay({ resolution: 5 });
    monitor.enable();
    await work();
    monitor.disable();
    return monitor.max / 1e6;
  }
  const computed = () => Number(readFileSync(SCHEDULE, "utf8").split(" ")[0]) / 1e6;
  let last = computed();
  let longest = 0;
  // A timer has its turn once in each round of the loop: what is computed between two is at most that of two rounds.
  const timer = setInterval(() => {
    const now = computed();
    longest = Math.max(longest, now - last);
    last = now;
  }, 1);
  try {
    await work();
  } finally {
    clearInterval(timer);
  }
  return longest;
}
