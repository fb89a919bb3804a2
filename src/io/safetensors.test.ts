import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { UserError } from "../core/errors.ts";
import { arrayFor, type DType, float32, type HostTensor, int64, sizeOf } from "../core/host-tensor.ts";
import { readSafetensors, readSafetensorsHeader, readTensor, writeSafetensors } from "./safetensors.ts";
import { bytesOf, encodeSafetensors, parseSafetensors, parseSafetensorsHeader } from "./safetensors-format.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-safetensors-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** A file with this header text and this many bytes of data. */
function fileOf(header: string, dataBytes = 0): Uint8Array {
  const text = new TextEncoder().encode(header);
  const bytes = new Uint8Array(8 + text.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

/** The message of the UserError that reading throws. */
function refusal(bytes: Uint8Array, name = "x.safetensors"): string {
  try {
    parseSafetensors(bytes, name);
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as Error).message;
  }
  throw new Error("it was accepted");
}

const latin = (text: string) => Uint8Array.from(text, (c) => c.charCodeAt(0));

const DTYPES: DType[] = [
  "float32",
  "float64",
  "float16",
  "bfloat16",
  "float8_e4m3fn",
  "float8_e5m2",
  "int64",
  "int32",
  "int16",
  "int8",
  "uint8",
  "uint16",
  "uint32",
  "bool",
];

const anyTensor: fc.Arbitrary<HostTensor> = fc
  .tuple(fc.constantFrom(...DTYPES), fc.array(fc.nat(4), { maxLength: 4 }), fc.infiniteStream(fc.nat(255)))
  .map(([dtype, shape, stream]) => {
    const data = arrayFor(dtype, sizeOf(shape));
    const tensor: HostTensor = { dtype, shape, data };
    const bytes = bytesOf(tensor);
    for (let i = 0; i < bytes.length; i++) bytes[i] = stream.next().value!;
    return tensor;
  });

const anyTensors = fc
  .dictionary(fc.string({ unit: "grapheme", maxLength: 12 }), anyTensor, { maxKeys: 6 })
  .map((record) => new Map(Object.entries(record)));

describe("the safetensors format", () => {
  it("gives back every tensor and the metadata that were written", () => {
    fc.assert(
      fc.property(anyTensors, fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 }), (tensors, metadata) => {
        const bytes = encodeSafetensors(tensors, metadata);
        const read = parseSafetensors(bytes);
        expect([...read.keys()].sort()).toEqual([...tensors.keys()].sort());
        for (const [name, tensor] of tensors) {
          expect(read.get(name)!.dtype).toBe(tensor.dtype);
          expect(read.get(name)!.shape).toEqual(tensor.shape);
          expect(bytesOf(read.get(name)!)).toEqual(bytesOf(tensor));
        }
        const header = parseSafetensorsHeader(bytes);
        expect(Object.entries(header.metadata).sort()).toEqual(Object.entries(metadata).sort());
        // What the memory-mapping readers rely on: the first tensor starts at a multiple of 8.
        const offsets = [...header.tensors.values()].map((entry) => entry.offset);
        if (offsets.length > 0) expect(Math.min(...offsets) % 8).toBe(0);
      }),
      { numRuns: 200 },
    );
  });

  it("answers random damage with a UserError or a correct load, quickly", () => {
    const good = encodeSafetensors(
      new Map<string, HostTensor>([
        ["conv.weight", float32([2, 3], [1, 2, 3, 4, 5, 6])],
        ["conv.bias", float32([2], [7, 8])],
        ["counter", int64([], [9])],
      ]),
      { format: "pt" },
    );
    const headerBytes = 8 + Number(new DataView(good.buffer).getBigUint64(0, true));
    const position = fc.oneof(fc.nat(headerBytes - 1), fc.nat(good.length - 1));
    const damage = fc.oneof(
      fc.record({ kind: fc.constant("set" as const), at: position, value: fc.nat(255) }),
      fc.record({ kind: fc.constant("cut" as const), at: position, value: fc.nat(good.length) }),
      fc.record({
        kind: fc.constant("insert" as const),
        at: position,
        value: fc.constantFrom(...latin('0919{}[]",:-e')),
      }),
      fc.record({ kind: fc.constant("end" as const), at: position, value: fc.nat(0) }),
    );
    fc.assert(
      fc.property(fc.array(damage, { minLength: 1, maxLength: 4 }), (damages) => {
        let bytes = [...good];
        for (const { kind, at, value } of damages) {
          if (kind === "set") bytes[Math.min(at, bytes.length - 1)] = value;
          if (kind === "cut") bytes.splice(at, value % 9);
          if (kind === "insert") bytes.splice(at, 0, value);
          if (kind === "end") bytes = bytes.slice(0, at);
        }
        const damaged = Uint8Array.from(bytes);
        const before = performance.now();
        try {
          for (const tensor of parseSafetensors(damaged).values()) {
            expect(tensor.data.length).toBe(sizeOf(tensor.shape));
            expect(tensor.data.byteLength).toBeLessThanOrEqual(damaged.length);
          }
        } catch (error) {
          if (!(error instanceof UserError)) throw error;
          expect(error.message).toContain("the safetensors data");
        }
        expect(performance.now() - before).toBeLessThan(1000);
      }),
      { numRuns: 5000 },
    );
  });

  it("does not let a header allocate or recurse without bound", () => {
    expect(refusal(fileOf('{"a":'.repeat(200_000)))).toContain("nested too deeply");
    expect(refusal(fileOf(`{"a":{"dtype":"F32","shape":${"[".repeat(100_000)}`))).toContain("nested too deeply");
    const huge = '{"a":{"dtype":"F32","shape":[9007199254740991,9007199254740991],"data_offsets":[0,4]}}';
    expect(refusal(fileOf(huge, 4))).toContain("impossibly large shape");
    const zero = '{"a":{"dtype":"F32","shape":[9007199254740991,9007199254740991,0],"data_offsets":[0,0]}}';
    expect(refusal(fileOf(zero))).toContain("impossibly large shape");
    const long = new Uint8Array(64);
    new DataView(long.buffer).setBigUint64(0, 1n << 62n, true);
    long[8] = 0x7b;
    expect(refusal(long)).toContain("4611686018427388000 bytes, more than the 100000000 allowed");
  });

  it("names the tensor at fault in a header that does not fit its file", () => {
    const a = '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}';
    expect(refusal(fileOf(`{${a},${a}}`, 4))).toContain('the name "a" occurs twice');
    expect(refusal(fileOf(`{${a},${a.replace('"a"', '"\\u0061"')}}`, 4))).toContain('the name "a" occurs twice');
    expect(refusal(fileOf('{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4))).toContain(
      "twice",
    );
    expect(refusal(fileOf(`{${a},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}`, 6))).toContain(
      'tensor "b" overlaps tensor "a"',
    );
    expect(refusal(fileOf(`{${a},"b":{"dtype":"F32","shape":[1],"data_offsets":[6,10]}}`, 10))).toContain(
      '2 bytes between tensor "a" and tensor "b"',
    );
    expect(refusal(fileOf('{"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}', 4))).toContain(
      "3 bytes between the header",
    );
    expect(refusal(fileOf(`{${a}}`, 7))).toContain("3 bytes after the last tensor");
    expect(refusal(fileOf(`{${a}}`, 3))).toContain("truncated: its header promises 66 bytes and the file has 65");
    expect(refusal(fileOf('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', 4))).toContain(
      'tensor "a" of shape [2] and dtype F32 needs 8 bytes, its data_offsets give 4',
    );
    expect(refusal(fileOf('{"a":{"dtype":"F9","shape":[4],"data_offsets":[0,4]}}', 4))).toContain(
      'tensor "a" has dtype "F9"; accepted are BF16, BOOL',
    );
    const other = refusal(fileOf('{"a":{"dtype":"F8_E8M0","shape":[4],"data_offsets":[0,4]}}', 4));
    expect(other).toContain('holds tensor "a" of dtype F8_E8M0, which is not read.\nGet a version');
    expect(other).not.toContain("damaged");
    expect(refusal(fileOf('{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}', 8))).toContain(
      "of dtype C64, which is not read",
    );
    expect(refusal(fileOf('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', 4))).toContain(
      "no shape of whole",
    );
    expect(refusal(fileOf('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', 4))).toContain("no data_offsets");
    expect(refusal(fileOf('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"size":4}}', 4))).toContain(
      'unknown field "size"',
    );
    expect(refusal(fileOf('{"a":7}'))).toContain('tensor "a" is not described');
    expect(refusal(fileOf('{"__metadata__":{"a":1}}'))).toContain('__metadata__ entry "a" is not a string');
    expect(refusal(fileOf('{"__metadata__":{"a":"1"'))).toContain("damaged safetensors header");
    expect(refusal(fileOf('{"\u00ff":1}').map((byte) => (byte === 0xc3 ? 0xff : byte)))).toContain("damaged");
  });

  it("says what a file is that is not safetensors", () => {
    expect(refusal(new Uint8Array(0))).toContain("is empty");
    expect(refusal(latin("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3438167540\n"))).toMatch(
      /git-lfs pointer.*3438167540 bytes[\s\S]*git lfs pull/,
    );
    expect(refusal(latin("<!DOCTYPE html>\n<html><head><title>404</title>"))).toContain("HTML page");
    expect(refusal(latin("\n  <html lang=en><body>log in</body></html>"))).toContain("HTML page");
    expect(refusal(latin("PK\u0003\u0004\u0000\u0000\u0008\u0008archive/data.pkl"), "model.ckpt")).toMatch(
      /zip archive as PyTorch writes[\s\S]*run any program/,
    );
    expect(refusal(latin("\u0080\u0002}q\u0000(X\u0004\u0000\u0000\u0000"), "model.bin")).toContain("Python pickle");
    expect(refusal(latin("something else altogether"), "weights.pt")).toContain("pickled PyTorch file");
    expect(refusal(latin('{"error":"Repository not found"}'))).toContain("JSON document");
    expect(refusal(latin("GGUF\u0003\u0000\u0000\u0000 and more"))).toContain("GGUF");
    expect(refusal(latin("short"))).toContain("not a safetensors file");
  });

  it("reads a header whose length looks like the start of a pickle", () => {
    // 0x0280 = 640 bytes: the file begins with 80 02, as pickles of protocol 2 do.
    const header = '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.padEnd(640);
    const bytes = fileOf(header, 1);
    expect([...bytes.subarray(0, 2)]).toEqual([0x80, 0x02]);
    expect(parseSafetensors(bytes).get("a")!.data.length).toBe(1);
  });
});

describe("safetensors files", () => {
  it("are written byte for byte as the official writer writes them", async () => {
    const original = "test/fixtures/safetensors/official.safetensors";
    const header = await readSafetensorsHeader(original);
    const copy = join(folder, "copy.safetensors");
    const shuffled = new Map([...(await readSafetensors(original))].reverse());
    await writeSafetensors(copy, shuffled, header.metadata);
    expect(Buffer.compare(await readFile(copy), await readFile(original))).toBe(0);
  });

  it("read single tensors, at the offset the header names", async () => {
    const path = join(folder, "two.safetensors");
    await writeSafetensors(
      path,
      new Map<string, HostTensor>([
        ["a", float32([2], [1, 2])],
        ["b", int64([1], [3])],
      ]),
    );
    const { tensors } = await readSafetensorsHeader(path);
    const a = tensors.get("a")!;
    expect((await readTensor(path, a)).data).toEqual(Float32Array.of(1, 2));
    const bytes = await readFile(path);
    expect([bytes.readFloatLE(a.offset), bytes.readFloatLE(a.offset + 4)]).toEqual([1, 2]);
    expect([...(await readSafetensors(path, ["b"])).keys()]).toEqual(["b"]);
    await expect(readSafetensors(path, ["c", "a", "d"])).rejects.toThrow(/has no tensor c, d/);
  });

  it("write tensors that are read only when their turn comes", async () => {
    const path = join(folder, "lazy.safetensors");
    let open = 0;
    const lazy = (value: number) => ({
      dtype: "float32" as const,
      shape: [2],
      read: async () => {
        expect(++open).toBe(1);
        await new Promise((resolve) => setTimeout(resolve, 5));
        open--;
        return float32([2], [value, value]);
      },
    });
    await writeSafetensors(
      path,
      new Map([
        ["x", lazy(1)],
        ["y", lazy(2)],
      ]),
    );
    expect((await readSafetensors(path)).get("y")!.data).toEqual(Float32Array.of(2, 2));
  });

  it("leave the old file and no temporary one when writing fails", async () => {
    const inner = join(folder, "failing");
    const path = join(inner, "model.safetensors");
    await writeSafetensors(path, new Map([["a", float32([1], [1])]]));
    const failing = {
      dtype: "float32" as const,
      shape: [1],
      read: () => Promise.reject(new Error("the disk is gone")),
    };
    await expect(writeSafetensors(path, new Map([["a", failing]]))).rejects.toThrow("the disk is gone");
    expect(await readdir(inner)).toEqual(["model.safetensors"]);
    expect((await readSafetensors(path)).get("a")!.data).toEqual(Float32Array.of(1));
  });

  it("are refused by name when missing, a folder, truncated or something else", async () => {
    await expect(readSafetensorsHeader(join(folder, "none.safetensors"))).rejects.toThrow(/There is no file .*none/);
    await expect(readSafetensorsHeader(folder)).rejects.toThrow(/is a folder/);
    const path = join(folder, "cut.safetensors");
    await writeSafetensors(path, new Map([["a", float32([100], new Float32Array(100))]]));
    await truncate(path, 300);
    await expect(readSafetensorsHeader(path)).rejects.toThrow(/cut\.safetensors is truncated/);
    await truncate(path, 20);
    await expect(readSafetensorsHeader(path)).rejects.toThrow(/cut\.safetensors is truncated: its header alone/);
    await writeFile(path, "<html>");
    await expect(readSafetensors(path)).rejects.toBeInstanceOf(UserError);
  });
});
