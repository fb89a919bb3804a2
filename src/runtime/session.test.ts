import { describe, expect, test } from "vitest";
import { hostTensor, int64, zeros } from "../core/host-tensor.ts";
import { checkFeeds, checkFetches, checkResident, type TensorInfo } from "./session.ts";

const x: TensorInfo = { name: "x", dtype: "float32", shape: ["batch", 3] };
const t: TensorInfo = { name: "t", dtype: "int64", shape: ["batch"] };
const w: TensorInfo = { name: "w", dtype: "float32", shape: [4] };
const session = { name: "net", inputs: [x, t, w], outputs: [{ ...w, name: "next" }, x] };
const resident = new Set(["w"]);

describe("feeds", () => {
  const good = { x: zeros("float32", [2, 3]), t: int64([2], [1, 2]) };

  test("that fit are accepted", () => {
    expect(() => checkFeeds(session, resident, good)).not.toThrow();
  });

  test.each([
    ["a missing input", { x: good.x }, "net: input 't' (int64 [batch]) was not given"],
    ["an unknown name", { ...good, y: good.x }, "net: there is no input 'y'; its inputs are 'x', 't'"],
    ["a resident input", { ...good, w: zeros("float32", [4]) }, "input 'w' is resident"],
    ["another dtype", { ...good, t: zeros("int32", [2]) }, "input 't' is int64 [batch], but int32 [2] was given"],
    ["another size", { ...good, x: zeros("float32", [2, 4]) }, "is float32 [batch, 3], but the shape [2, 4] was given"],
    ["another rank", { ...good, x: zeros("float32", [6]) }, "but the shape [6] was given"],
    ["too few elements", { ...good, x: { ...good.x, data: new Float32Array(5) } }, "5 elements were given"],
    ["elements of another size", { ...good, x: { ...good.x, data: new Float64Array(6) as never } }, "Float64Array"],
    [
      "two sizes of a named axis",
      { ...good, t: int64([3], [1, 2, 3]) },
      "axis 'batch' is 2 in input 'x' but 3 in input 't'",
    ],
  ])("with %s are refused by name", (_, feeds, message) => {
    expect(() => checkFeeds(session, resident, feeds)).toThrow(message);
  });
});

describe("outputs", () => {
  const shared = hostTensor("float32", [4], new Float32Array(new SharedArrayBuffer(16)));

  test("may be written into shared memory only", () => {
    expect(() => checkFetches(session, { into: { next: shared } })).not.toThrow();
    expect(() => checkFetches(session, { into: { next: zeros("float32", [4]) } })).toThrow("SharedArrayBuffer");
    expect(() => checkFetches(session, { fetch: ["x"], into: { next: shared } })).toThrow("not in 'fetch'");
  });

  test("that do not exist are refused with the names that do", () => {
    expect(() => checkFetches(session, { fetch: ["loss"] })).toThrow("no output 'loss'; its outputs are 'next', 'x'");
  });
});

describe("resident state", () => {
  test("pairs an input with an output of the same dtype and shape", () => {
    expect(() => checkResident(session, { w: "next" })).not.toThrow();
    expect(() => checkResident(session, { w: "x" })).toThrow("output 'x' (float32 [batch, 3]) cannot feed input 'w'");
    expect(() => checkResident(session, { v: null })).toThrow("no input 'v'");
    expect(() => checkResident(session, { w: "z" })).toThrow("no output 'z'");
  });

  test("takes an output once", () => {
    const twice = { name: "net", inputs: [w, { ...w, name: "v" }], outputs: [{ ...w, name: "next" }] };
    expect(() => checkResident(twice, { w: "next", v: "next" })).toThrow("feeds two resident inputs");
  });
});
