import { beforeEach, describe, expect, test, vi } from "vitest";
import { zeros } from "../core/host-tensor.ts";
import { openSession } from "./node-session.ts";
import { smallModel } from "./small-model.ts";
import * as hosts from "./worker-host.ts";

vi.mock("./worker-host.ts", { spy: true });
const started = vi.mocked(hosts.startWorker);
beforeEach(() => {
  started.mockClear();
});

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
    await (await openKeeping(4, "first")).close();
    const before = started.mock.calls.length;
    const second = await openKeeping(2, "second");
    expect(started.mock.calls.length).toBe(before);
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
    // As many at once as are kept, and one more: the last is in a new thread.
    const small = await Promise.all(Array.from({ length: 5 }, (_, i) => openKeeping(1, `small ${i}`)));
    const large = await openKeeping(2 ** 25, "large");
    const { value: host } = started.mock.results.at(-1)! as { value: hosts.WorkerHost };
    await large.close();
    expect(host.alive).toBe(false);
    await Promise.all(small.map((session) => session.close()));
  });
});
