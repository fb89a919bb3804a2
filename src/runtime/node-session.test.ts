import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { create, toBinary } from "@bufbuild/protobuf";
import { ModelProtoSchema, TensorProto_DataLocation, TensorProto_DataType } from "onnx-buf";
import { afterEach, describe, expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { float32, hostTensor, int64, zeros } from "../core/host-tensor.ts";
import { openSession } from "./node-session.ts";
import type { Session, SessionOptions, TensorInfo } from "./session.ts";
import { smallModel } from "./small-model.ts";

const sessions: Session[] = [];
async function open(model: Uint8Array | { path: string }, options: SessionOptions = {}): Promise<Session> {
  const session = await openSession(model, { threads: 1, ...options });
  sessions.push(session);
  return session;
}
afterEach(async () => {
  for (const session of sessions.splice(0)) await session.close();
});

const tensor = (name: string, shape: TensorInfo["shape"], dtype: TensorInfo["dtype"] = "float32") => ({
  name,
  dtype,
  shape,
});
const shared = (shape: number[], values: number[]) => {
  const data = new Float32Array(new SharedArrayBuffer(4 * values.length));
  data.set(values);
  return hostTensor("float32", shape, data);
};

/** sum = a + b, product = a · b */
const arithmetic = smallModel({
  nodes: [
    { opType: "Add", input: ["a", "b"], output: ["sum"] },
    { opType: "Mul", input: ["a", "b"], output: ["product"] },
  ],
  inputs: [tensor("a", ["n"]), tensor("b", ["n"])],
  outputs: [tensor("sum", ["n"]), tensor("product", ["n"])],
});

/** next.w = w + g, next.m = m · scale, loss = mean |g| */
const training = smallModel({
  nodes: [
    { opType: "Add", input: ["w", "g"], output: ["next.w"] },
    { opType: "Mul", input: ["m", "scale"], output: ["next.m"] },
    { opType: "ReduceL1", input: ["g"], output: ["loss"], attribute: [{ name: "keepdims", type: 2, i: 0n }] },
  ],
  inputs: [tensor("w", [3]), tensor("m", [3]), tensor("g", [3]), tensor("scale", [1])],
  outputs: [tensor("next.w", [3]), tensor("loss", []), tensor("next.m", [3])],
});
const trainingState = { w: "next.w", m: "next.m", scale: null };

/** A chain of 1024² matrix products: seconds on one thread. */
function heavy(products: number): Uint8Array {
  const names = Array.from({ length: products + 1 }, (_, i) => `v${i}`);
  return smallModel({
    nodes: names.slice(1).map((name, i) => ({ opType: "MatMul", input: [names[i]!, "v0"], output: [name] })),
    inputs: [tensor("v0", [1024, 1024])],
    outputs: [tensor(names.at(-1)!, [1024, 1024])],
  });
}

describe("a session", () => {
  test("runs a model and tells its inputs and outputs", async () => {
    const session = await open(arithmetic);
    expect(session.inputs).toEqual([tensor("a", ["n"]), tensor("b", ["n"])]);
    expect(session.outputs.map((output) => output.name)).toEqual(["sum", "product"]);
    expect(session.device).toEqual({ name: "cpu", reason: "cpu was asked for" });
    const { sum, product } = await session.run({ a: float32([3], [1, 2, 3]), b: float32([3], [4, 5, 6]) });
    expect(sum).toEqual(float32([3], [5, 7, 9]));
    expect(product).toEqual(float32([3], [4, 10, 18]));
  });

  test("leaves the caller's model and feeds untouched", async () => {
    const bytes = arithmetic.slice();
    const session = await open(bytes);
    const a = float32([2], [1, 2]);
    await session.run({ a, b: a });
    expect(bytes).toEqual(arithmetic);
    expect(a.data).toEqual(new Float32Array([1, 2]));
  });

  test("sends a view into a large buffer without the rest of the buffer", async () => {
    const session = await open(arithmetic);
    const batches = Float32Array.from({ length: 6 }, (_, i) => i);
    const a = hostTensor("float32", [2], batches.subarray(2, 4));
    expect((await session.run({ a, b: a })).sum?.data).toEqual(new Float32Array([4, 6]));
    expect(batches.length).toBe(6);
  });

  test("returns only what is fetched, under the right name", async () => {
    const session = await open(arithmetic);
    const a = float32([1], [3]);
    expect(await session.run({ a, b: a }, { fetch: ["product"] })).toEqual({ product: float32([1], [9]) });
  });

  test("reads feeds from shared memory and writes outputs into it", async () => {
    const session = await open(arithmetic);
    const a = shared([2], [1, 2]);
    const sum = shared([2], [0, 0]);
    const result = await session.run({ a, b: float32([2], [10, 20]) }, { into: { sum } });
    expect(sum.data).toEqual(shared([2], [11, 22]).data);
    expect(result.sum).toBe(sum);
    expect(result.product).toEqual(float32([2], [10, 40]));
    a.data[0] = 5;
    await session.run({ a, b: float32([2], [10, 20]) }, { into: { sum } });
    expect(sum.data[0]).toBe(15);
  });

  test("refuses shared memory of another size than a named axis takes in the run", async () => {
    const session = await open(arithmetic);
    const a = float32([3], [1, 2, 3]);
    await expect(session.run({ a, b: a }, { into: { sum: shared([2], [0, 0]) } })).rejects.toThrow(
      "output 'sum' is [3]",
    );
  });

  test.each(["float64", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "bool"] as const)(
    "carries %s in and out",
    async (dtype) => {
      const identity = smallModel({
        nodes: [{ opType: "Identity", input: ["x"], output: ["y"] }],
        inputs: [tensor("x", [2, 2], dtype)],
        outputs: [tensor("y", [2, 2], dtype)],
      });
      const session = await open(identity);
      const x = zeros(dtype, [2, 2]);
      x.data[1] = (dtype === "int64" ? 1n : 1) as never;
      expect((await session.run({ x })).y).toEqual(x);
    },
  );

  test("carries scalars and empty tensors", async () => {
    const identity = (shape: number[] | string[]) =>
      smallModel({
        nodes: [{ opType: "Identity", input: ["x"], output: ["y"] }],
        inputs: [tensor("x", shape, "int64")],
        outputs: [tensor("y", shape, "int64")],
      });
    expect((await (await open(identity([]))).run({ x: int64([], [7]) })).y).toEqual(int64([], [7]));
    expect((await (await open(identity([0]))).run({ x: int64([0], []) })).y).toEqual(int64([0], []));
    expect((await (await open(identity(["n"]))).run({ x: int64([0], []) })).y).toEqual(int64([0], []));
  });

  test("loads a model file by its path", async () => {
    const folder = await mkdtemp(join(tmpdir(), "allegory-test-"));
    try {
      const path = join(folder, "training.onnx");
      await writeFile(path, training);
      const session = await open({ path }, { resident: trainingState });
      expect(session.name).toBe("training.onnx");
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test("takes weights from the middle of a file, at an odd offset", async () => {
    const folder = await mkdtemp(join(tmpdir(), "allegory-test-"));
    try {
      const weights = Buffer.alloc(20 + 8);
      weights.writeFloatLE(3, 13);
      weights.writeFloatLE(4, 17);
      await writeFile(join(folder, "weights.bin"), weights);
      const initializer = create(ModelProtoSchema, {
        graph: {
          initializer: [
            {
              name: "w",
              dims: [2n],
              dataType: TensorProto_DataType.FLOAT,
              dataLocation: TensorProto_DataLocation.EXTERNAL,
              externalData: Object.entries({ location: "weights.bin", offset: "13", length: "8" }).map(
                ([key, value]) => ({ key, value }),
              ),
            },
          ],
        },
      });
      const scale = smallModel({
        nodes: [{ opType: "Mul", input: ["w", "x"], output: ["y"] }],
        inputs: [tensor("x", [2])],
        outputs: [tensor("y", [2])],
      });
      const model = Buffer.concat([scale, toBinary(ModelProtoSchema, initializer)]);
      const session = await open(model, { externalData: folder });
      expect((await session.run({ x: float32([2], [10, 100]) })).y).toEqual(float32([2], [30, 400]));
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test("answers runs in the order of the calls", async () => {
    const session = await open(arithmetic);
    const order: number[] = [];
    await Promise.all(
      [0, 1, 2, 3].map(async (i) => {
        const a = float32([1], [i]);
        const { sum } = await session.run({ a, b: a });
        order.push(sum!.data[0] as number);
      }),
    );
    expect(order).toEqual([0, 2, 4, 6]);
  });
});

describe("resident state", () => {
  const feeds = { g: float32([3], [1, 1, 2]) };

  async function openTraining(): Promise<Session> {
    const session = await open(training, { name: "trainer", resident: trainingState });
    await session.write("w", float32([3], [0, 10, 20]));
    await session.write("m", float32([3], [1, 1, 1]));
    await session.write("scale", float32([1], [2]));
    return session;
  }

  test("goes from the outputs of a run to the inputs of the next without being returned", async () => {
    const session = await openTraining();
    for (let step = 0; step < 5; step++) expect(await session.run(feeds)).toEqual({ loss: float32([], [4]) });
    expect(await session.read("w")).toEqual(float32([3], [5, 15, 30]));
    expect(await session.read("m")).toEqual(float32([3], [32, 32, 32]));
    expect(await session.read("scale")).toEqual(float32([1], [2]));
  });

  test("reads as it was at the time of the call, whatever runs follow", async () => {
    const session = await openTraining();
    const before = session.read("w");
    const ran = session.run(feeds);
    const after = session.read("w");
    await ran;
    expect((await before).data).toEqual(new Float32Array([0, 10, 20]));
    expect((await after).data).toEqual(new Float32Array([1, 11, 22]));
    await session.run(feeds);
    expect((await before).data).toEqual(new Float32Array([0, 10, 20]));
  });

  test("can be set again between runs, from shared memory too", async () => {
    const session = await openTraining();
    await session.run(feeds);
    await session.write("w", shared([3], [7, 7, 7]));
    await session.run(feeds);
    expect((await session.read("w")).data).toEqual(new Float32Array([8, 8, 9]));
  });

  test("stays as it was when a run fails", async () => {
    const gather = smallModel({
      nodes: [
        { opType: "Add", input: ["w", "w"], output: ["next.w"] },
        { opType: "Gather", input: ["w", "i"], output: ["picked"] },
      ],
      inputs: [tensor("w", [3]), tensor("i", [1], "int64")],
      outputs: [tensor("next.w", [3]), tensor("picked", [1])],
    });
    const session = await open(gather, { name: "picker", resident: { w: "next.w" } });
    await session.write("w", float32([3], [1, 2, 3]));
    await expect(session.run({ i: int64([1], [9]) })).rejects.toThrow(/picker: the run failed: .*out of data bounds/s);
    expect((await session.read("w")).data).toEqual(new Float32Array([1, 2, 3]));
    expect((await session.run({ i: int64([1], [2]) })).picked?.data).toEqual(new Float32Array([3]));
    expect((await session.read("w")).data).toEqual(new Float32Array([2, 4, 6]));
  });

  test("is returned as a copy when it is fetched", async () => {
    const session = await openTraining();
    const first = await session.run(feeds, { fetch: ["next.w"] });
    await session.run(feeds);
    await session.run(feeds);
    expect(first).toEqual({ "next.w": float32([3], [1, 11, 22]) });
  });

  test("may have an axis whose size is known only at the run", async () => {
    const growing = smallModel({
      nodes: [{ opType: "Add", input: ["w", "w"], output: ["next.w"] }],
      inputs: [tensor("w", ["n"])],
      outputs: [tensor("next.w", ["n"])],
    });
    const session = await open(growing, { resident: { w: "next.w" } });
    for (const values of [[1], [2, 3], [4, 5, 6]]) {
      await session.write("w", values.length === 2 ? shared([2], values) : float32([values.length], values));
      expect(await session.run({})).toEqual({});
      await session.run({});
      const expected = float32(
        [values.length],
        values.map((value) => 4 * value),
      );
      expect(await session.read("w")).toEqual(expected);
    }
  });

  test("has to be set before the first run", async () => {
    const session = await open(training, { name: "trainer", resident: trainingState });
    await expect(session.run(feeds)).rejects.toThrow("trainer: resident input 'w' was never set");
    await expect(session.read("m")).rejects.toThrow("trainer: resident input 'm' was never set");
  });

  test("is checked when it is set", async () => {
    const session = await openTraining();
    await expect(session.write("w", float32([2], [1, 2]))).rejects.toThrow("input 'w' is float32 [3]");
    await expect(session.write("g", feeds.g)).rejects.toThrow("input 'g' is not resident");
    await expect(open(training, { resident: { w: "loss" } })).rejects.toThrow("cannot feed input 'w'");
  });
});

describe("the caller's thread", () => {
  test("stays free while a heavy run goes on", async () => {
    const session = await open(heavy(60));
    const start = performance.now();
    let [ticks, longest, last] = [0, 0, start];
    const timer = setInterval(() => {
      const now = performance.now();
      longest = Math.max(longest, now - last);
      last = now;
      ticks++;
    }, 5);
    await session.run({ v0: zeros("float32", [1024, 1024]) });
    clearInterval(timer);
    const took = performance.now() - start;
    expect(took).toBeGreaterThan(200); // else this shows nothing
    expect(ticks).toBeGreaterThan(took / 40);
    expect(longest).toBeLessThan(took / 2);
  });

  test("can end the process while a session is idle, but not while a run goes on", async () => {
    const script = `
      import { openSession } from ${JSON.stringify(new URL("./index.ts", import.meta.url).href)};
      import { readFileSync } from "node:fs";
      const session = await openSession(readFileSync(0), { threads: 1 });
      const one = { dtype: "float32", shape: [1], data: new Float32Array([1]) };
      session.run({ a: one, b: one }).then(({ sum }) => console.log("sum", sum.data[0]));
    `;
    const folder = await mkdtemp(join(tmpdir(), "allegory-test-"));
    try {
      const path = join(folder, "script.mjs");
      await writeFile(path, script);
      const running = promisify(execFile)(process.execPath, ["--import", "tsx", path]);
      running.child.stdin?.end(arithmetic);
      expect((await running).stdout).toBe("sum 2\n");
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

describe("a run that is aborted", () => {
  test("before it is called never starts", async () => {
    const session = await open(arithmetic);
    const a = float32([1], [1]);
    await expect(session.run({ a, b: a }, { signal: AbortSignal.abort(new Error("stop")) })).rejects.toThrow("stop");
  });

  test("while it waits is dropped, and leaves no trace in resident state", async () => {
    const counter = smallModel({
      nodes: [
        { opType: "Add", input: ["n", "one"], output: ["next.n"] },
        { opType: "MatMul", input: ["v", "v"], output: ["v1"] },
        { opType: "MatMul", input: ["v1", "v"], output: ["v2"] },
      ],
      inputs: [tensor("n", [1]), tensor("one", [1]), tensor("v", [1024, 1024])],
      outputs: [tensor("next.n", [1]), tensor("v2", [1024, 1024])],
    });
    const session = await open(counter, { resident: { n: "next.n", v: null } });
    await session.write("n", float32([1], [0]));
    await session.write("v", zeros("float32", [1024, 1024]));
    const one = float32([1], [1]);
    const controller = new AbortController();
    const first = session.run({ one });
    const second = session.run({ one }, { signal: controller.signal });
    const third = session.run({ one });
    controller.abort(new Error("no longer wanted"));
    await expect(second).rejects.toThrow("no longer wanted");
    await Promise.all([first, third]);
    expect((await session.read("n")).data[0]).toBe(2);
  });
});

describe("errors", () => {
  test("name the model and the input", async () => {
    const session = await open(arithmetic, { name: "decoder" });
    const a = float32([2], [1, 2]);
    await expect(session.run({ a })).rejects.toThrow("decoder: input 'b' (float32 [n]) was not given");
    await expect(session.run({ a, b: float32([3], [1, 2, 3]) })).rejects.toThrow("axis 'n' is 2 in input 'a' but 3");
  });

  test("of an invalid model name the model", async () => {
    await expect(open(new Uint8Array([1, 2, 3]), { name: "unet" })).rejects.toThrow(
      /unet: the model could not be loaded: .*protobuf/,
    );
    await expect(open({ path: "no/such/vae.onnx" })).rejects.toThrow("vae.onnx: the model could not be loaded");
    const unknown = smallModel({
      nodes: [{ opType: "NoSuchOperator", input: ["x"], output: ["y"] }],
      inputs: [tensor("x", [1])],
      outputs: [tensor("y", [1])],
    });
    await expect(open(unknown)).rejects.toThrow("NoSuchOperator");
  });

  test("of an element type that cannot cross say so", async () => {
    const bfloat16 = smallModel({
      nodes: [{ opType: "Identity", input: ["x"], output: ["y"] }],
      inputs: [tensor("x", [1], "bfloat16")],
      outputs: [tensor("y", [1], "bfloat16")],
    });
    await expect(open(bfloat16)).rejects.toThrow("Unsupported data type");
  });

  test("of a device that is not here are the user's, and say what is here", async () => {
    const asked = process.platform === "darwin" ? "dml" : "coreml";
    const error = await open(arithmetic, { device: asked }).catch((error) => error);
    expect(error).toBeInstanceOf(UserError);
    expect(error.message).toMatch(new RegExp(`'${asked}' is not available here: .*\\nAvailable here: cpu`));
  });
});

test("the number of threads has to be a whole number", async () => {
  await expect(open(arithmetic, { threads: 1.5 })).rejects.toThrow(UserError);
  await expect(open(arithmetic, { threads: 0 })).rejects.toThrow("0 threads were asked for");
});

test("closing lets the runs already called finish and refuses later ones", async () => {
  const session = await open(arithmetic);
  const a = float32([1], [2]);
  const run = session.run({ a, b: a });
  const closed = session.close();
  await expect(session.run({ a, b: a })).rejects.toThrow("the session is closed");
  expect((await run).sum?.data[0]).toBe(4);
  await closed;
  await session.close();
});

test("with device auto the session says which device it took and why", async () => {
  const session = await open(arithmetic, { device: "auto" });
  expect(session.device.reason).toMatch(/^auto: ./);
});

test("several sessions hand tensors to each other through shared memory", async () => {
  // Data parallelism: the same weights and different batches in two threads, the sum of their results in a third.
  const scale = smallModel({
    nodes: [{ opType: "Mul", input: ["w", "x"], output: ["g"] }],
    inputs: [tensor("w", [2]), tensor("x", [2])],
    outputs: [tensor("g", [2])],
  });
  const w = shared([2], [1, 2]);
  const gradients = [shared([2], [0, 0]), shared([2], [0, 0])];
  const workers = await Promise.all([open(scale), open(scale)]);
  const reducer = await open(arithmetic);
  for (let step = 1; step <= 3; step++) {
    w.data[0] = step;
    await Promise.all(
      workers.map((worker, i) => worker.run({ w, x: float32([2], [i + 1, 10]) }, { into: { g: gradients[i]! } })),
    );
    const { sum } = await reducer.run({ a: gradients[0]!, b: gradients[1]! }, { fetch: ["sum"] });
    expect(sum).toEqual(float32([2], [3 * step, 40]));
  }
});

test("an output may be an input, unchanged, and lie in a row with computed ones", async () => {
  const session = await open(
    smallModel({
      nodes: [
        { opType: "Identity", input: ["x"], output: ["same"] },
        { opType: "Identity", input: ["same"], output: ["again"] },
        { opType: "Add", input: ["again", "x"], output: ["twice"] },
      ],
      inputs: [tensor("x", [2])],
      outputs: [tensor("same", [2]), tensor("twice", [2]), tensor("again", [2])],
    }),
  );
  const x = float32([2], [1, 2]);
  expect(await session.run({ x })).toEqual({ same: x, again: x, twice: float32([2], [2, 4]) });
});

test("profiling sums the time of each operator over the runs", async () => {
  const session = await open(heavy(3), { profile: true, optimization: "disabled" });
  for (let i = 0; i < 4; i++) await session.run({ v0: zeros("float32", [1024, 1024]) });
  const profile = await session.profile();
  expect(profile.runs).toBe(4);
  expect(profile.operators).toMatchObject([{ key: "MatMul", count: 12 }]);
  expect(profile.operators[0]?.share).toBeCloseTo(1);
  expect(profile.nodes).toHaveLength(3);
  expect(profile.nodes[0]).toMatchObject({ op: "MatMul", provider: "CPU", count: 4 });
  expect(profile.nodes[0]?.shapes).toBe("float[1024,1024] float[1024,1024] → float[1024,1024]");
  expect(profile.nodeMs).toBeGreaterThan(0);
  expect(profile.nodeMs).toBeLessThanOrEqual(profile.runMs);
});

test("profiling has to be asked for when the session is opened", async () => {
  await expect((await open(arithmetic)).profile()).rejects.toThrow("with the option profile");
});
