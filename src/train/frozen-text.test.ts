import { existsSync } from "node:fs";
import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type HostTensor, int64 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { learnVocabulary } from "../data/index.ts";
import { input, type Tensor, toOnnx } from "../graph/index.ts";
import { openTokenizer, readModelFolder, readSafetensors, writeClipTokenizer, writeModelFolder } from "../io/index.ts";
import { bindWeights, clipText, initialize, t5Encoder, type Weighted } from "../models/index.ts";
import { openSession } from "../runtime/index.ts";
import type { Condition } from "./condition.ts";
import { frozenText } from "./frozen-text.ts";

const pipeline = fileURLToPath(new URL("../../test/fixtures/reference/pipelines/sd15", import.meta.url));
const CAPTIONS = ["a red heart", "a smiling cat with a hat", "a red heart"];

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** A T5 encoder with numbers of its own, its tokenizer inside its folder. */
async function t5Folder(): Promise<string> {
  const path = join(folder, "t5");
  if (existsSync(path)) return path;
  const vocabulary = learnVocabulary(CAPTIONS, { size: 560, minimum: 1 });
  const network = t5Encoder({ vocab_size: 560, d_model: 16, d_kv: 4, d_ff: 24, num_layers: 2, num_heads: 2 });
  const tensors = initialize(network, seeded(3));
  await writeModelFolder(
    path,
    { config: network.config, className: "T5EncoderModel", tensors },
    { library: "transformers" },
  );
  await writeClipTokenizer(path, vocabulary, { maxLength: 16 });
  return path;
}

/** What a graph of a network with its folder's weights gives. */
async function run(
  outputs: Readonly<Record<string, Tensor>>,
  network: Weighted | undefined,
  weights: string | undefined,
  feeds: Readonly<Record<string, HostTensor>>,
): Promise<Record<string, HostTensor>> {
  const tensors = weights === undefined ? new Map() : await readSafetensors(join(weights, "model.safetensors"));
  const bind = network && bindWeights(network, tensors);
  const session = await openSession(toOnnx(outputs, { bind }).bytes, { name: "test", threads: 1 });
  try {
    return await session.run(feeds);
  } finally {
    await session.close();
  }
}

/** The states that a denoiser sees of captions. */
async function seen(condition: Condition, captions: readonly string[]) {
  const { sequence, pooled, mask } = condition.states(captions.length);
  const outputs = Object.fromEntries(
    Object.entries({ sequence, pooled, mask }).flatMap(([name, tensor]) => (tensor ? [[name, tensor]] : [])),
  );
  return run(outputs, undefined, undefined, condition.feeds(captions));
}

const numbers = (tensor: HostTensor | undefined) => [...(tensor!.data as Float32Array)];
const farthest = (a: readonly number[], b: readonly number[]) =>
  Math.max(...a.map((value, i) => Math.abs(value - b[i]!)));

describe("captions through CLIP's text encoder of a pipeline", () => {
  test("are its last states and pooled states, rounded to half precision", async () => {
    const condition = await frozenText(pipeline, { captions: CAPTIONS, threads: 1 });
    const network = clipText((await readModelFolder(join(pipeline, "text_encoder"))).config);
    const width = network.config.hidden_size;
    expect(condition.shape).toEqual({ text: { tokens: 77, width, pooledWidth: width, masked: false } });
    const tokenizer = await openTokenizer(join(pipeline, "tokenizer"));
    const texts = ["a smiling cat with a hat", "", "a red heart"];
    const { last, pooled } = network(input("ids", [3, 77], "int64"));
    const ids = int64(
      [3, 77],
      texts.flatMap((text) => tokenizer.encodePadded(text).ids),
    );
    const expected = await run({ last, pooled }, network, join(pipeline, "text_encoder"), { ids });
    const found = await seen(condition, texts);
    expect(found.sequence!.shape).toEqual([3, 77, width]);
    expect(farthest(numbers(found.sequence), numbers(expected.last))).toBeLessThan(4e-3);
    expect(farthest(numbers(found.pooled), numbers(expected.pooled))).toBeLessThan(4e-3);
    expect(farthest(numbers(found.pooled), numbers(expected.pooled).reverse())).toBeGreaterThan(0.1);
    expect(() => condition.feeds(["a text that nobody named"])).toThrow(/was not encoded/);
  });

  test("are encoded once: a cache keeps them for the next time, and knows its encoder", async () => {
    const cache = join(folder, "cache", "captions.safetensors");
    const encodedTexts: number[] = [];
    const open = (path: string, captions: readonly string[], maxLength?: number) => {
      encodedTexts.push(0);
      const onProgress = (done: number) => void (encodedTexts[encodedTexts.length - 1] = done);
      return frozenText(path, { captions, cache, maxLength, threads: 1, onProgress });
    };
    const first = await open(pipeline, CAPTIONS);
    const second = await open(pipeline, CAPTIONS);
    await open(pipeline, [...CAPTIONS, "a dog"]);
    expect(encodedTexts).toEqual([3, 0, 1]);
    expect(second.feeds(CAPTIONS)).toEqual(first.feeds(CAPTIONS));
    await expect(open(pipeline, CAPTIONS, 20)).rejects.toThrow(/another text encoder/);
    await expect(open(await t5Folder(), CAPTIONS)).rejects.toThrow(/another text encoder/);
  });

  test("take their encoder and tokenizer along into the pipeline that is trained", async () => {
    const condition = await frozenText(pipeline, { captions: CAPTIONS, threads: 1 });
    const components = condition.components(new Map());
    expect(Object.keys(components)).toEqual(["text_encoder", "tokenizer"]);
    const target = join(folder, "written");
    for (const [name, component] of Object.entries(components)) {
      if ("write" in component) await component.write(join(target, name));
    }
    const again = await frozenText(target, { captions: CAPTIONS, threads: 1 });
    expect(again.feeds(CAPTIONS)).toEqual(condition.feeds(CAPTIONS));
  });
});

describe("captions through T5", () => {
  test("come with a mask, and padding changes nothing in them", async () => {
    const path = await t5Folder();
    const condition = await frozenText(path, { captions: CAPTIONS, threads: 1 });
    expect(condition.shape.text).toEqual({ tokens: 16, width: 16, pooledWidth: undefined, masked: true });
    const tokenizer = await openTokenizer(path);
    const found = await seen(condition, ["a red heart", "a smiling cat with a hat"]);
    const network = t5Encoder((await readModelFolder(path)).config);
    for (const [i, text] of ["a red heart", "a smiling cat with a hat"].entries()) {
      const ids = tokenizer.encode(text);
      const alone = await run({ last: network(input("ids", [1, ids.length], "int64")).last }, network, path, {
        ids: int64([1, ids.length], ids),
      });
      const states = numbers(found.sequence).slice(i * 256, (i + 1) * 256);
      expect(farthest(numbers(alone.last), states)).toBeLessThan(4e-3);
      expect(states.slice(16 * ids.length).every((value) => value === 0)).toBe(true);
      expect(numbers(found.mask).slice(i * 16, (i + 1) * 16)).toEqual(
        Array.from({ length: 16 }, (_, token) => (token < ids.length ? 1 : 0)),
      );
    }
  });

  test("come apart again from the tokenizer in their folder", async () => {
    const condition = await frozenText(await t5Folder(), { captions: [], threads: 1 });
    for (const [name, component] of Object.entries(condition.components(new Map()))) {
      if ("write" in component) await component.write(join(folder, "apart", name));
    }
    expect(existsSync(join(folder, "apart", "tokenizer", "vocab.json"))).toBe(true);
    expect(existsSync(join(folder, "apart", "tokenizer", "model.safetensors"))).toBe(false);
    expect(existsSync(join(folder, "apart", "text_encoder", "model.safetensors"))).toBe(true);
    expect(existsSync(join(folder, "apart", "text_encoder", "vocab.json"))).toBe(false);
  });
});

test("folders without a usable encoder are refused with what is needed", async () => {
  await expect(frozenText(join(pipeline, "unet"), { captions: [] })).rejects.toThrow(
    /cannot be used as a text encoder/,
  );
  const alone = join(folder, "no-tokenizer");
  await cp(join(pipeline, "text_encoder"), alone, { recursive: true });
  await expect(frozenText(alone, { captions: [] })).rejects.toThrow(/no tokenizer.json/);
});
