import { cp } from "node:fs/promises";
import { basename } from "node:path";
import { UserError } from "../core/errors.ts";
import { float32, type HostTensor, hostTensor } from "../core/host-tensor.ts";
import { cast, input, reshape, split } from "../graph/index.ts";
import { type EncodedCaption, readCaptionCache, writeCaptionCache } from "./caption-cache.ts";
import type { Condition } from "./condition.ts";
import { encoderFingerprint, encodeTexts, openFrozenEncoder } from "./frozen-encoder.ts";
import { cutCaptions } from "./text-condition.ts";

/** Options of {@link frozenText}. */
export interface FrozenTextOptions {
  /** Every text that will be asked for: the captions of the data, and prompts of previews. */
  readonly captions: Iterable<string>;
  /** Tokens of a text, start and end included; default: as many as the tokenizer says, 77 for CLIP. */
  readonly maxLength?: number;
  /** A safetensors file that keeps what was encoded for the next time. */
  readonly cache?: string;
  /** Of the encoder's weights, such as `fp16`. */
  readonly variant?: string;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  /** Called with how many of the texts that the cache does not hold are encoded. */
  readonly onProgress?: (done: number, of: number) => void;
}

/**
 * Captions through a text encoder that is not trained: CLIP's (Radford et al. 2021) as Stable Diffusion has it, or T5's
 * (Raffel et al. 2020) as PixArt has it. Every distinct text, and the empty one that stands for no text, is encoded once,
 * here, and kept in memory as float16: for CLIP 118 kB a text at 77 tokens of 768 numbers, for T5 only as many tokens as
 * the text has. The last normalized states are taken; of CLIP also the pooled ones.
 *
 * @param folder a text encoder of transformers with its tokenizer inside, in `tokenizer` or beside it, or a pipeline's folder
 * @throws UserError for folders without them, other kinds of encoders, and a cache of another encoder
 */
export async function frozenText(folder: string, options: FrozenTextOptions): Promise<Condition> {
  const { encoder, tokenizer, paths } = await openFrozenEncoder(folder, options);
  const { maxLength = tokenizer.maxLength, cache } = options;
  if (maxLength === undefined) {
    throw new UserError(`The tokenizer ${paths.tokenizer} does not say how many tokens a text may have.`, {
      hint: "Give a number, for example 77.",
      field: "maxLength",
    });
  }
  const { width, pooledWidth, masked } = encoder;
  // States and pooled states are one input: a graph that has no use for one of them would refuse an input of its own.
  const size = maxLength * width;
  const fingerprint = await encoderFingerprint(encoder, tokenizer, maxLength);
  const known = await readCaptionCache(cache, fingerprint);
  const missing = [...new Set(["", ...options.captions])].filter((text) => !known.has(text));
  if (missing.length > 0) {
    const fresh = await encodeTexts(encoder, tokenizer, missing, { ...options, maxLength });
    for (const [text, encoded] of fresh) known.set(text, encoded);
    if (cache !== undefined) await writeCaptionCache(cache, fingerprint, known);
  }
  const find = (text: string): EncodedCaption => {
    const encoded = known.get(text);
    if (encoded) return encoded;
    throw new UserError(`The text “${text}” was not encoded when the training was opened.`, {
      hint: "Name it among the captions.",
    });
  };

  return {
    shape: { text: { tokens: maxLength, width, pooledWidth, masked } },
    parts: {},
    none: "",
    states(count) {
      const row = cast(input("captions", [count, size + (pooledWidth ?? 0)], "float16"), "float32");
      const [states, pooled] = split(row, pooledWidth === undefined ? [size] : [size, pooledWidth], 1);
      return {
        sequence: reshape(states!, [count, maxLength, width]),
        mask: masked ? input("captions.mask", [count, maxLength]) : undefined,
        pooled,
      };
    },
    feeds(captions) {
      const rows = captions.map(find);
      const length = size + (pooledWidth ?? 0);
      const data = new Uint16Array(rows.length * length);
      rows.forEach(({ states, pooled }, i) => {
        data.set(states.data, i * length);
        if (pooled) data.set(pooled.data, i * length + size);
      });
      const feeds: Record<string, HostTensor> = { captions: hostTensor("float16", [rows.length, length], data) };
      if (masked) {
        const mask = new Float32Array(rows.length * maxLength);
        rows.forEach((row, i) => {
          mask.fill(1, i * maxLength, i * maxLength + row.states.shape[0]!);
        });
        feeds["captions.mask"] = float32([rows.length, maxLength], mask);
      }
      return feeds;
    },
    warnings: (captions) => cutCaptions(tokenizer, maxLength, captions),
    components: () => ({
      text_encoder: {
        className: encoder.className,
        library: "transformers",
        write: (target) => cp(paths.encoder, target, { recursive: true, filter: (path) => !isTokenizer(path) }),
      },
      tokenizer: {
        className: paths.tokenizerClass,
        library: "transformers",
        write: (target) => cp(paths.tokenizer, target, { recursive: true, filter: (path) => !isModel(path) }),
      },
    }),
  };
}

/** Where encoder and tokenizer share a folder, each takes its own files along. */
const isModel = (path: string) => /^config\.json$|\.(safetensors|bin|msgpack|h5)$|\.index\.json$/.test(basename(path));
const isTokenizer = (path: string) => /^tokenizer|^vocab\.json$|^merges\.txt$|^spiece\.model$/.test(basename(path));
