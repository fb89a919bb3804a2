import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import { ModelProtoSchema } from "onnx-buf";
import { describe, expect, test } from "vitest";
import { float32, type HostTensor, hostTensor } from "../core/host-tensor.ts";
import { openSession } from "../runtime/index.ts";
import {
  add,
  type Binding,
  conv2d,
  exp,
  filled,
  gradients,
  input,
  matmul,
  mul,
  type OnnxModel,
  onnxInTurns,
  parameterLeaf,
  portableTarget,
  reshape,
  slice,
  sum,
  type Target,
  type Tensor,
  toOnnx,
  values,
  withScope,
} from "./index.ts";

const graphOf = (model: OnnxModel) => fromBinary(ModelProtoSchema, model.bytes).graph!;
const opTypes = (model: OnnxModel) => graphOf(model).node.map((node) => node.opType);
const bindTo = (leaf: Tensor, binding: Binding) => (other: Tensor) => (other === leaf ? binding : undefined);

async function run(model: OnnxModel, feeds: Record<string, HostTensor>, externalData?: string) {
  const session = await openSession(model.bytes, { threads: 1, externalData });
  try {
    return await session.run(feeds);
  } finally {
    await session.close();
  }
}

const x = input("x", [2, 2]);
const w = parameterLeaf([2, 2]);
const feeds = { x: float32([2, 2], [1, 2, 3, 4]) };

describe("what is written", () => {
  test("equal small constants are shared, by type, shape and bits", () => {
    const y = sum(mul(add(mul(x, 2), 2), 2), [0, 1]);
    const z = sum(add(x, values([1], [2])), [0, 1]);
    const { initializer } = graphOf(toOnnx({ y, z }));
    // 2 as [] and as [1], and the axes [0, 1].
    expect(initializer.map(({ dims }) => dims.map(Number)).sort()).toEqual([[], [1], [2]]);
  });

  test("large constants are written as they are, each once", () => {
    const large = filled([100], 1);
    const { initializer } = graphOf(toOnnx({ y: add(input("v", [100]), large), z: mul(input("v", [100]), large) }));
    expect(initializer).toHaveLength(1);
  });

  test("only what the outputs need", () => {
    const y = exp(mul(x, 3));
    gradients(sum(y), [x]);
    expect(opTypes(toOnnx({ y }))).toEqual(["Mul", "Exp"]);
  });

  test("equal nodes once", () => {
    const x = input("x", [2, 3]);
    expect(opTypes(toOnnx({ y: add(exp(x), exp(x)) }))).toEqual(["Exp", "Add"]);
  });

  test("a copy only for a value with two names or one that is an input", () => {
    const x = input("x", [2, 3]);
    const y = exp(x);
    expect(opTypes(toOnnx({ y, again: y, copy: x }))).toEqual(["Exp", "Identity", "Identity"]);
  });

  test("a node that several outputs need, once", () => {
    const shared = exp(x);
    expect(
      opTypes(toOnnx({ a: shared, b: mul(shared, shared), c: shared })).filter((type) => type === "Exp"),
    ).toHaveLength(1);
  });

  test("the names of nodes hold the layer and the operator", () => {
    const y = withScope("mid_block.attentions.0", () => exp(x));
    expect(graphOf(toOnnx({ y })).node[0]!.name).toMatch(/^mid_block\.attentions\.0\/exp\/Exp/);
  });

  test("the inputs and outputs with their types", () => {
    const model = toOnnx({ y: matmul(x, input("m", [2, 5])) });
    expect(Object.keys(model.inputs)).toEqual(["x", "m"]);
    expect(model.inputs.m).toMatchObject({ dtype: "float32", shape: [2, 5] });
    expect(model.outputs.y).toMatchObject({ dtype: "float32", shape: [2, 5] });
  });

  test("an input of two types under one name is an error", () => {
    expect(() => toOnnx({ y: mul(input("a", [2]), input("a", [1])) })).toThrow("input a has two types");
  });

  test("an output may be an input as it is, and a value may have two names", async () => {
    const found = await run(toOnnx({ same: x, again: x, twice: mul(x, 2) }), feeds);
    expect(found.same!.data).toEqual(feeds.x.data);
    expect(found.again!.data).toEqual(feeds.x.data);
    expect([...(found.twice!.data as Float32Array)]).toEqual([2, 4, 6, 8]);
  });
});

describe("a parameter", () => {
  const y = matmul(x, w);
  const identityTwice = float32([2, 2], [2, 0, 0, 2]);

  test("without a binding is an error", () => {
    expect(() => toOnnx({ y })).toThrow("a parameter has no binding");
  });

  test("can be fed under a name", async () => {
    const model = toOnnx({ y }, { bind: bindTo(w, { kind: "input", name: "weights" }) });
    expect(Object.keys(model.inputs)).toEqual(["x", "weights"]);
    const found = await run(model, { ...feeds, weights: identityTwice });
    expect([...(found.y!.data as Float32Array)]).toEqual([2, 4, 6, 8]);
  });

  test("can be data inside the model, of another type", async () => {
    const tensor = hostTensor("int8", [2, 2], Int8Array.of(2, 0, 0, 2));
    const model = toOnnx({ y }, { bind: bindTo(w, { kind: "data", tensor, name: "body.weight" }) });
    expect(graphOf(model).initializer.map(({ name }) => name)).toContain("body.weight");
    expect([...((await run(model, feeds)).y!.data as Float32Array)]).toEqual([2, 4, 6, 8]);
  });

  test("can lie in a file, at an odd offset, as float32 or bfloat16", async () => {
    const folder = await mkdtemp(join(tmpdir(), "allegory-onnx-"));
    try {
      const full = new Uint8Array(Float32Array.of(2, 0, 0, 2).buffer);
      // The upper halves of the float32 numbers are their bfloat16.
      const half = new Uint8Array(new Uint16Array(full.buffer).filter((_, i) => i % 2 === 1).buffer);
      await writeFile(join(folder, "weights.bin"), Buffer.concat([Buffer.alloc(3), full, half]));
      for (const [dtype, offset, length] of [
        ["float32", 3, 16],
        ["bfloat16", 19, 8],
      ] as const) {
        // biome-ignore format: a table
        const binding: Binding = { kind: "external", file: "weights.bin", offset, length, dtype };
        const model = toOnnx({ y }, { bind: bindTo(w, binding) });
        const found = await run(model, feeds, folder);
        expect([...(found.y!.data as Float32Array)], dtype).toEqual([2, 4, 6, 8]);
      }
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test("can be a part of another tensor, such as a slice of one flat vector", async () => {
    const flat = input("flat", [7]);
    const binding: Binding = { kind: "tensor", tensor: reshape(slice(flat, 0, 2, 6), [2, 2]) };
    const model = toOnnx({ y }, { bind: bindTo(w, binding) });
    expect(Object.keys(model.inputs)).toEqual(["x", "flat"]);
    const found = await run(model, { ...feeds, flat: float32([7], [9, 9, 2, 0, 0, 2, 9]) });
    expect([...(found.y!.data as Float32Array)]).toEqual([2, 4, 6, 8]);
  });
});

describe("the target decides the form", () => {
  const image = input("image", [1, 16, 4, 4]);
  const kernel = parameterLeaf([16, 16, 3, 3]);
  const y = conv2d(image, kernel, undefined, { padding: 1 });
  const blocked: Target = { contrib: true, blockedChannels: 16 };
  const fed: Binding = { kind: "input", name: "kernel" };
  const known: Binding = { kind: "data", tensor: hostTensor("float32", [16, 16, 3, 3], new Float32Array(2304)) };

  test("weights that change are blocked in the graph, known ones by ONNX Runtime at load", () => {
    expect(opTypes(toOnnx({ y }, { target: blocked, bind: bindTo(kernel, fed) }))).toContain("ReorderInput");
    expect(opTypes(toOnnx({ y }, { target: blocked, bind: bindTo(kernel, known) }))).toEqual(["Conv"]);
  });

  test("the portable one uses standard ONNX only, gradients included", () => {
    const product = matmul(x, w, { transA: true, alpha: 0.5 });
    const loss = add(sum(product), sum(y));
    const outputs = { loss, ...Object.fromEntries(gradients(loss, [w, kernel]).map((g, i) => [`g${i}`, g])) };
    const bind = (leaf: Tensor): Binding => ({ kind: "input", name: leaf === w ? "w" : "kernel" });
    const domains = (target: Target) => {
      const model = toOnnx(outputs, {
        target,
        bind: (leaf) => (leaf === w || leaf === kernel ? bind(leaf) : undefined),
      });
      const { graph, opsetImport } = fromBinary(ModelProtoSchema, model.bytes);
      const used = new Set(graph!.node.map((node) => node.domain));
      expect(new Set(opsetImport.map(({ domain }) => domain))).toEqual(used);
      return used;
    };
    expect(domains(portableTarget)).toEqual(new Set([""]));
    expect(domains(blocked)).toContain("com.microsoft");
  });
});

test("constant weights are brought into blocks ahead only for pictures of many pixels and kernels of several taps", () => {
  const target: Target = { contrib: true, blockedChannels: 16, ahead: true };
  const written = (side: number, kernel: number) => {
    const weights = parameterLeaf([16, 32, kernel, kernel]);
    const binding: Binding = {
      kind: "external",
      file: "w.bin",
      offset: 0,
      length: 4 * 512 * kernel ** 2,
      dtype: "float32",
    };
    const y = conv2d(input("x", [1, 32, side, side]), weights, undefined, { padding: (kernel - 1) / 2 });
    return toOnnx({ y }, { target, bind: bindTo(weights, binding) });
  };
  const many = written(17, 3);
  expect(opTypes(many)).toContain("ReorderInput");
  expect(many.ahead.map(({ outputs }) => Object.values(outputs))).toEqual([
    [{ dtype: "float32", shape: [1, 16, 96, 3] }],
  ]);
  for (const plain of [written(16, 3), written(17, 1)]) {
    expect(opTypes(plain)).toEqual(["Conv"]);
    expect(plain.ahead).toEqual([]);
  }
});

test("a large graph is written in turns, the same as at once", () => {
  let x = input("x", [4]);
  for (let i = 0; i < 100; i++) x = add(mul(x, values([1], [i])), 1);
  const writing = onnxInTurns({ x });
  let turns = 0;
  for (let step = writing.next(); ; step = writing.next()) {
    if (step.done) {
      expect(step.value.bytes).toEqual(toOnnx({ x }).bytes);
      break;
    }
    turns++;
  }
  expect(turns).toBeGreaterThan(20);
});
