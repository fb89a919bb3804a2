import { describe, expect, test } from "vitest";
import { zeros } from "../core/host-tensor.ts";
import { openSession } from "./node-session.ts";
import { smallModel } from "./small-model.ts";
import type { WorkerHost } from "./worker-host.ts";
import { returnWorker, takeWorker } from "./worker-pool.ts";

/** The thread that the next session will have: the one that was returned last. */
async function nextThread(): Promise<WorkerHost> {
  const host = takeWorker("probe");
  await returnWorker(host, 0);
  return host;
}

/** A session that keeps `size` numbers. */
async function openKeeping(size: number, name: string) {
  const info = (tensor: string) => ({ name: tensor, dtype: "float32" as const, shape: [size] });
  const model = smallModel({
    nodes: [{ opType: "Add", input: ["w", "w"], output: ["next.w"] }],
    inputs: [info("w")],
    outputs: [info("next.w")],
  });
  const session = await openSession(model, { name, threads: 1, resident: { w: "next.w" } });
  await session.write("w", zeros("float32", [size]));
  return session;
}

describe("the thread of a closed session", () => {
  test("serves the next one, which knows nothing of it", async () => {
    const thread = await nextThread();
    await (await openKeeping(4, "first")).close();
    expect(await nextThread()).toBe(thread);
    const second = await openKeeping(2, "second");
    // It has that thread: another would be next otherwise.
    const other = takeWorker("other");
    expect(other).not.toBe(thread);
    await other.terminate();
    await second.run({});
    expect((await second.read("w")).shape).toEqual([2]);
    await expect(second.profile()).rejects.toThrow("second: open the session with the option profile");
    await second.close();
  });

  test("is not given to two at once", async () => {
    await (await openKeeping(4, "first")).close();
    const [a, b] = await Promise.all([openKeeping(3, "a"), openKeeping(5, "b")]);
    await Promise.all([a.run({}), b.run({})]);
    expect([(await a.read("w")).shape, (await b.read("w")).shape]).toEqual([[3], [5]]);
    await Promise.all([a.close(), b.close()]);
  });

  test("ends where it holds much memory", async () => {
    const thread = await nextThread();
    const large = await openKeeping(2 ** 25, "large");
    await large.close();
    expect(thread.alive).toBe(false);
    expect(await nextThread()).not.toBe(thread);
  });

  test("ends where enough are kept", async () => {
    const threads = Array.from({ length: 6 }, (_, i) => takeWorker(`thread ${i}`));
    for (const thread of threads) await returnWorker(thread, 0);
    expect(threads.filter(({ alive }) => alive)).toHaveLength(4);
  });
});
