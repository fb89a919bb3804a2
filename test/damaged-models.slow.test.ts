import { copyFile, link, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { UserError } from "../src/core/errors.ts";
import { float32, type HostTensor } from "../src/core/host-tensor.ts";
import { type Random, seeded } from "../src/core/random.ts";
import { readModelFolder, writeModelFolder, writeSafetensors } from "../src/io/index.ts";
import { autoencoderKL, matchWeights, networkName, networks, type Weighted } from "../src/models/index.ts";
import { parameterCount } from "../src/nn/module.ts";
import { openAdapter, openTextEmbedding } from "../src/pipelines/adapters.ts";
import { externalWeights, openSingleFile } from "../src/pipelines/single-file.ts";
import { originalVae, randomWeights, under } from "./original-files.ts";
import { smallNetworks } from "./small-networks.ts";

// 5,000 damaged folders and files: each is refused with a named error or loads, in time and without filling the memory.

const RUNS = 5_000;
const SLOWEST_MS = 3_000;
const MOST_BYTES = 600e6;

const root = await mkdtemp(join(tmpdir(), "allegory-damaged-"));
afterAll(() => rm(root, { recursive: true, force: true }));

/** A good folder, and how it is opened; gives how many numbers it holds. */
interface Subject {
  readonly folder: string;
  open(folder: string): Promise<number>;
}

async function openModel(folder: string): Promise<number> {
  const { config, weights } = await readModelFolder(folder);
  const network = networks[networkName(config)](config as never) as Weighted;
  const matched = matchWeights(network, externalWeights(weights).weights);
  for (const { storedName } of [...matched.values()].slice(0, 3)) await weights.read(storedName);
  return parameterCount(network);
}

async function subjects(): Promise<Subject[]> {
  const found: Subject[] = [];
  for (const [i, make] of Object.values(smallNetworks).entries()) {
    const network = make().network as Weighted & { readonly config: Readonly<Record<string, unknown>> };
    const className = networkName(network.config);
    const { _class_name: _, architectures: __, ...config } = network.config;
    const tensors = randomWeights(network, i);
    const folder = join(root, `good-${i}`);
    const library = /^(CLIP|T5)/.test(className) ? "transformers" : "diffusers";
    // Every third in several files with an index.
    const bytes = [...tensors.values()].reduce((sum, { data }) => sum + data.byteLength, 0);
    const maxShardBytes = i % 3 === 0 ? bytes / 3 : bytes;
    await writeModelFolder(folder, { className, config, tensors }, { library, maxShardBytes });
    found.push({ folder, open: openModel });
  }
  const types = (kind: string) => Array(2).fill(`${kind}Block2D`) as string[];
  const config = {
    block_out_channels: [32, 32],
    down_block_types: types("DownEncoder"),
    up_block_types: types("UpDecoder"),
  };
  const vae = originalVae(randomWeights(autoencoderKL(config), 1), { ...config, layers_per_block: 1 });
  const pair = (name: string): [string, HostTensor][] => [
    [`${name}.lora_A.weight`, float32([2, 3], Array(6).fill(1))],
    [`${name}.lora_B.weight`, float32([3, 2], Array(6).fill(1))],
  ];
  const files: [string, Map<string, HostTensor>, (path: string) => Promise<number>][] = [
    [
      "original",
      new Map(under("first_stage_model.", vae)),
      async (path) => (await openSingleFile(path)).parts.vae!.weights.size,
    ],
    [
      "adapter",
      new Map([...pair("unet.a"), ...pair("unet.b")]),
      async (path) => (await openAdapter(path)).layers.length,
    ],
    [
      "embedding",
      new Map([["<x>", float32([2, 3], Array(6).fill(1))]]),
      async (path) => (await openTextEmbedding(path)).vectors,
    ],
  ];
  for (const [name, tensors, open] of files) {
    const folder = join(root, name);
    await writeSafetensors(join(folder, "file.safetensors"), tensors, { format: "pt" });
    found.push({ folder, open: (path) => open(join(path, "file.safetensors")) });
  }
  return found;
}

const OTHER_FILES = [
  "",
  "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n",
  "<!DOCTYPE html><html></html>",
  "PK\u0003\u0004archive",
  "{}",
  "[]",
  "null",
];
const HOSTILE = [
  "null",
  "true",
  "-1",
  "0",
  "1e308",
  "16777216",
  "999999999999",
  '""',
  "[]",
  "{}",
  "[[1]]",
  '"silu"',
  "0.5",
];

const pick = <T>(random: Random, list: readonly T[]) => list[random.integer(0, list.length)]!;

/** The bytes with one damage. */
function damage(bytes: Uint8Array, random: Random, isJson: boolean): Uint8Array {
  // Mostly where the structure is described: the whole of a JSON file, the header of weights.
  const described = isJson
    ? bytes.length
    : Math.min(bytes.length, 8 + Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true)));
  const at = random.integer(0, random.integer(0, 4) === 0 ? bytes.length : described);
  const length = random.integer(1, 40);
  const join3 = (...parts: Uint8Array[]) => Uint8Array.from(parts.flatMap((part) => [...part]));
  switch (random.integer(0, 8)) {
    case 0:
      return bytes.map((byte, i) => (i === at ? random.integer(0, 256) : byte));
    case 1:
      return bytes.subarray(0, at);
    case 2:
      return join3(bytes.subarray(0, at), bytes.subarray(at + length));
    case 3:
      return join3(bytes.subarray(0, at), bytes.subarray(Math.max(0, at - length)));
    case 4:
      return random.integer(0, 4) === 0
        ? new TextEncoder().encode(pick(random, OTHER_FILES))
        : join3(bytes, bytes.subarray(0, length));
    case 5:
      return bytes.map((byte, i) => (i < 8 && i === at % 8 ? random.integer(0, 256) : byte));
    default: {
      // Another value in the text, numbers first: shapes, offsets, widths.
      const text = new TextDecoder("latin1").decode(bytes.subarray(0, described));
      const values = [...text.matchAll(/-?\d+(\.\d+)?|true|false|null|"[^"]*"/g)].filter(
        ({ index }) => isJson || index >= 8,
      );
      const value = values.length > 0 ? pick(random, values) : undefined;
      if (!value) return bytes.subarray(0, at);
      let other = random.integer(0, 2) === 0 ? pick(random, HOSTILE) : String(random.integer(0, 100_000));
      // A header keeps its length, so that what follows is still where it says.
      if (!isJson) other = other.slice(0, value[0].length).padEnd(value[0].length, " ");
      const end = value.index + value[0].length;
      return join3(bytes.subarray(0, value.index), new TextEncoder().encode(other), bytes.subarray(end));
    }
  }
}

test(`${RUNS} damaged models, single files and adapters are each refused by name or load`, async () => {
  const all = await subjects();
  const whole = new Map<Subject, number>();
  for (const subject of all) whole.set(subject, await subject.open(subject.folder));
  const random = seeded(20);
  const before = process.memoryUsage.rss();
  const count = { refused: 0, loaded: 0 };
  const folder = join(root, "damaged");
  let slowest = 0;
  for (let run = 0; run < RUNS; run++) {
    const subject = all[run % all.length]!;
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder);
    const names = await readdir(subject.folder);
    const victim = pick(random, names);
    for (const name of names) {
      const [from, to] = [join(subject.folder, name), join(folder, name)];
      if (name !== victim) await link(from, to).catch(() => copyFile(from, to));
      else await writeFile(to, damage(await readFile(from), random, name.endsWith(".json")));
    }
    const started = performance.now();
    try {
      await subject.open(folder);
      count.loaded++;
    } catch (error) {
      if (!(error instanceof UserError))
        throw new Error(`run ${run} (${victim} of ${subject.folder})`, { cause: error });
      // It says which file or field, not only that something is wrong.
      expect(error.message.length, error.message).toBeGreaterThan(20);
      count.refused++;
    }
    slowest = Math.max(slowest, performance.now() - started);
  }
  expect(slowest).toBeLessThan(SLOWEST_MS);
  expect(process.memoryUsage.rss() - before).toBeLessThan(MOST_BYTES);
  // Damage in numbers alone, or one that another default covers, cannot be seen.
  expect(count.refused).toBeGreaterThan(RUNS / 2);
  expect(count.loaded).toBeGreaterThan(RUNS / 100);
  // The good ones are still good.
  for (const [subject, size] of whole) expect(await subject.open(subject.folder)).toBe(size);
});
