import { describe, expect, test } from "vitest";
import { zeros } from "../core/host-tensor.ts";
import { openSession } from "./node-session.ts";
import { smallModel } from "./small-model.ts";

const SIZE = 1024 * 1024; // 4 MB of float32
const tensor = (name: string, shape: number[]) => ({ name, dtype: "float32" as const, shape });

/** Resident memory in MB, at its highest over a few moments: garbage of the last runs included. */
async function residentMegabytes(run: () => Promise<unknown>, runs: number): Promise<number> {
  let most = 0;
  for (let i = 0; i < runs; i++) {
    await run();
    if (i >= runs - 100) most = Math.max(most, process.memoryUsage().rss / 2 ** 20);
  }
  return most;
}

describe("resident memory stays flat over 2,000 runs", () => {
  // 2,000 runs move 8 GB in and 8 GB out; a leak of one tensor in a hundred runs would show as 72 MB.
  const LEAK = 64;

  test("that take 4 MB and return 4 MB", async () => {
    const session = await openSession(
      smallModel({
        nodes: [{ opType: "Add", input: ["x", "x"], output: ["y"] }],
        inputs: [tensor("x", [SIZE])],
        outputs: [tensor("y", [SIZE])],
      }),
      { threads: 1 },
    );
    const x = zeros("float32", [SIZE]);
    const before = await residentMegabytes(() => session.run({ x }), 400);
    const after = await residentMegabytes(() => session.run({ x }), 2000);
    await session.close();
    console.log(`resident memory: ${before.toFixed(0)} MB after 400 runs, ${after.toFixed(0)} MB after 2,400`);
    expect(after - before).toBeLessThan(LEAK);
  });

  test("that keep 8 MB of state and return 4 MB", async () => {
    const session = await openSession(
      smallModel({
        nodes: [
          { opType: "Add", input: ["w", "g"], output: ["next.w"] },
          { opType: "Sub", input: ["m", "w"], output: ["next.m"] },
          { opType: "Mul", input: ["w", "m"], output: ["y"] },
        ],
        inputs: [tensor("w", [SIZE]), tensor("m", [SIZE]), tensor("g", [1])],
        outputs: [tensor("next.w", [SIZE]), tensor("next.m", [SIZE]), tensor("y", [SIZE])],
      }),
      { threads: 1, resident: { w: "next.w", m: "next.m" } },
    );
    await session.write("w", zeros("float32", [SIZE]));
    await session.write("m", zeros("float32", [SIZE]));
    const g = { dtype: "float32" as const, shape: [1], data: new Float32Array([1]) };
    const before = await residentMegabytes(() => session.run({ g }), 400);
    const after = await residentMegabytes(() => session.run({ g }), 2000);
    expect((await session.read("w")).data[SIZE - 1]).toBe(2400);
    await session.close();
    console.log(`resident memory: ${before.toFixed(0)} MB after 400 runs, ${after.toFixed(0)} MB after 2,400`);
    expect(after - before).toBeLessThan(LEAK);
  });
});
