import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { open } from "node:fs/promises";
import { dirname, join } from "node:path";
import { UserError } from "../core/errors.ts";
import { float32, hostTensor, int64 } from "../core/host-tensor.ts";
import { cast, input, type Tensor, toOnnx } from "../graph/index.ts";
import {
  type ModelWeights,
  openTokenizer,
  placedWeights,
  readJsonObject,
  readModelFolder,
  type TextTokenizer,
} from "../io/index.ts";
import {
  bindWeights,
  type Config,
  clipText,
  clipTextWithProjection,
  t5Encoder,
  type Weighted,
} from "../models/index.ts";
import { inferenceTarget, openSession } from "../runtime/index.ts";
import type { EncodedCaption } from "./caption-cache.ts";

/** A text encoder of a folder, its weights not read yet. */
export interface FrozenEncoder {
  readonly className: string;
  readonly config: Config;
  readonly weights: ModelWeights;
  readonly network: Weighted;
  readonly width: number;
  /** Undefined for encoders that give no vector for the whole text. */
  readonly pooledWidth: number | undefined;
  /** Whether padding is to be left out by a mask, as T5's is; CLIP's is part of what is seen. */
  readonly masked: boolean;
  encode(ids: Tensor, mask: Tensor): { readonly states: Tensor; readonly pooled?: Tensor };
}

/** Where the files of an encoder lie. */
export interface EncoderPaths {
  readonly encoder: string;
  readonly tokenizer: string;
  /** Python's name of the tokenizer's class. */
  readonly tokenizerClass: string;
}

/**
 * Opens the text encoder and the tokenizer of a folder: of transformers, with the tokenizer inside, in `tokenizer` or beside
 * it, or a pipeline's.
 *
 * @throws UserError where one of them is missing, and for kinds of encoders that cannot be used
 */
export async function openFrozenEncoder(
  folder: string,
  { variant }: { readonly variant?: string } = {},
): Promise<{ encoder: FrozenEncoder; tokenizer: TextTokenizer; paths: EncoderPaths }> {
  const path = existsSync(join(folder, "text_encoder")) ? join(folder, "text_encoder") : folder;
  const { config, weights, className = "unnamed" } = await readModelFolder(path, { variant });
  const encoder = { className, config, weights, ...networkOf(className, config, path) };
  const tokenizerPath =
    [join(folder, "tokenizer"), join(dirname(path), "tokenizer"), path].find(
      (place) => existsSync(join(place, "tokenizer.json")) || existsSync(join(place, "merges.txt")),
    ) ?? path;
  const tokenizer = await openTokenizer(tokenizerPath);
  const file = join(tokenizerPath, "tokenizer_config.json");
  const named = existsSync(file) ? (await readJsonObject(file)).tokenizer_class : undefined;
  const tokenizerClass = typeof named === "string" ? named : encoder.masked ? "T5Tokenizer" : "CLIPTokenizer";
  return { encoder, tokenizer, paths: { encoder: path, tokenizer: tokenizerPath, tokenizerClass } };
}

function networkOf(
  className: string,
  config: Config,
  path: string,
): Pick<FrozenEncoder, "network" | "width" | "pooledWidth" | "masked" | "encode"> {
  switch (className) {
    case "CLIPTextModel":
    case "CLIPTextModelWithProjection": {
      const projected = className === "CLIPTextModelWithProjection";
      const network = projected ? clipTextWithProjection(config) : clipText(config);
      const { hidden_size: width, projection_dim } = network.config;
      return {
        network,
        width,
        pooledWidth: projected ? projection_dim : width,
        masked: false,
        encode(ids) {
          const { last, pooled } = network(ids);
          return { states: last, pooled };
        },
      };
    }
    case "T5EncoderModel": {
      const network = t5Encoder(config);
      return {
        network,
        width: network.config.d_model,
        pooledWidth: undefined,
        masked: true,
        encode: (ids, mask) => ({ states: network(ids, mask).last }),
      };
    }
    default:
      throw new UserError(`The ${className} of ${path} cannot be used as a text encoder.`, {
        hint: "CLIPTextModel, CLIPTextModelWithProjection and T5EncoderModel can.",
        field: "textEncoder",
      });
  }
}

/** Bytes of each weight that tell one encoder from another. */
const SAMPLED_BYTES = 1024;

/**
 * Tells encoders apart: a hash of the configuration, of the tokenizer and of the beginning of every weight. Training changes
 * all numbers of the weights that it changes.
 */
export async function encoderFingerprint(
  { config, weights }: FrozenEncoder,
  tokenizer: TextTokenizer,
  maxLength: number,
): Promise<string> {
  const hash = createHash("sha256").update(JSON.stringify({ config, maxLength }));
  for (let id = 0; id < tokenizer.vocabularySize; id++) hash.update(`${tokenizer.tokenOf(id)}\n`);
  const files = await Promise.all(weights.files.map(async (path) => [path, await open(path)] as const));
  try {
    const byPath = new Map(files);
    for (const [name, { dtype, shape, path, offset, length }] of [...weights.tensors].sort(([a], [b]) =>
      a < b ? -1 : 1,
    )) {
      const bytes = new Uint8Array(Math.min(SAMPLED_BYTES, length));
      await byPath.get(path)!.read(bytes, 0, bytes.length, offset);
      hash.update(`${name}:${dtype}[${shape}];`).update(bytes);
    }
  } finally {
    await Promise.all(files.map(([, file]) => file.close()));
  }
  return hash.digest("hex");
}

/** Texts that are encoded at once. */
const BATCH = 8;

/** Encodes texts, cut and padded to `maxLength` tokens. */
export async function encodeTexts(
  encoder: FrozenEncoder,
  tokenizer: TextTokenizer,
  texts: readonly string[],
  {
    maxLength,
    threads,
    signal,
    onProgress,
  }: {
    readonly maxLength: number;
    readonly threads?: number;
    readonly signal?: AbortSignal;
    readonly onProgress?: (done: number, of: number) => void;
  },
): Promise<Map<string, EncodedCaption>> {
  const count = Math.min(BATCH, texts.length);
  const { weights, externalData } = await placedWeights(encoder.weights);
  const outputs = encoder.encode(input("ids", [count, maxLength], "int64"), input("mask", [count, maxLength]));
  const half = Object.entries(outputs).map(([name, tensor]) => [name, cast(tensor, "float16")] as const);
  const graph = toOnnx(Object.fromEntries(half), {
    bind: bindWeights(encoder.network, weights, { what: encoder.weights.source }),
    target: inferenceTarget(),
  });
  const session = await openSession(graph.bytes, { name: "text encoder", threads, externalData });
  const encoded = new Map<string, EncodedCaption>();
  try {
    for (let start = 0; start < texts.length; start += count) {
      signal?.throwIfAborted();
      // The last batch is as large as the others, its last text standing in for those that are missing.
      const batch = Array.from({ length: count }, (_, i) => texts[Math.min(start + i, texts.length - 1)]!);
      const prompts = batch.map((text) => tokenizer.encodePadded(text, maxLength));
      const mask = prompts.flatMap(({ used }) => Array.from({ length: maxLength }, (_, i) => (i < used ? 1 : 0)));
      const ids = int64(
        [count, maxLength],
        prompts.flatMap((prompt) => prompt.ids),
      );
      const feeds = { ids, ...(encoder.masked ? { mask: float32([count, maxLength], mask) } : {}) };
      const { states, pooled } = await session.run(feeds);
      batch.forEach((text, i) => {
        const tokens = encoder.masked ? prompts[i]!.used : maxLength;
        encoded.set(text, {
          states: row(states!.data as Uint16Array, i * maxLength * encoder.width, [tokens, encoder.width]),
          pooled: pooled && row(pooled.data as Uint16Array, i * encoder.pooledWidth!, [encoder.pooledWidth!]),
        });
      });
      onProgress?.(Math.min(start + count, texts.length), texts.length);
    }
  } finally {
    await session.close();
  }
  return encoded;
}

/** A copy of its own, so that a batch's memory is not kept for one of its texts. */
function row(data: Uint16Array, start: number, shape: readonly number[]): EncodedCaption["states"] {
  const size = shape.reduce((product, axis) => product * axis, 1);
  return hostTensor("float16", shape, data.slice(start, start + size));
}
