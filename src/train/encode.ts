import { createHash } from "node:crypto";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { UserError } from "../core/errors.ts";
import { type HostTensor, hostTensor } from "../core/host-tensor.ts";
import {
  type Dataset,
  fingerprint,
  imagesAt,
  type LatentScaling,
  latentWriter,
  type MeasuredScaling,
  measureScaling,
  mirror,
  openShards,
} from "../data/index.ts";
import { convertFloat, readJsonObject, readModelFolder, writeJsonObject } from "../io/index.ts";
import type { DeviceName } from "../runtime/index.ts";
import { type AutoencoderSession, openAutoencoder } from "./autoencoder-session.ts";

/** Where the scaling of latents comes from. */
export type ScalingSource = "auto" | "config" | "measured";

export interface EncodeOptions {
  /** Folder of the `AutoencoderKL`. */
  readonly autoencoder: string;
  /** Of its weights, such as `fp16`. */
  readonly variant?: string;
  /** Folder of the latent data set. */
  readonly out: string;
  /** Images the encoder sees at once; default: 16 of 64×64, fewer of larger ones. */
  readonly batch?: number;
  /** Images a shard: an interruption costs at most that many. */
  readonly shard?: number;
  /**
   * `"config"`: the factor that the autoencoder's configuration has; `"measured"`: that which gives these latents
   * deviation 1; `"auto"` (default): the configured one, measured where that is 1, as before anyone has measured it.
   */
  readonly scaling?: ScalingSource;
  /** Where the scaling is measured, also take the mean from the latents. */
  readonly shift?: boolean;
  readonly device?: DeviceName | "auto";
  readonly threads?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: EncodeProgress) => void;
}

/** How far encoding is. */
export interface EncodeProgress {
  /** Images that are encoded, those of earlier times included. */
  readonly done: number;
  readonly total: number;
  /** Undefined before the first batch. */
  readonly secondsLeft: number | undefined;
}

/** What was encoded. */
export interface EncodeResult extends LatentScaling {
  readonly folder: string;
  readonly count: number;
  /** Images encoded now; the others were there already. */
  readonly encoded: number;
  /** Undefined where nothing was measured. */
  readonly measured: MeasuredScaling | undefined;
}

const SHARD = 512;

/** Pixels of a batch: what keeps the sessions of an encoder of ordinary width within some hundred MB each. */
const BATCH_PIXELS = 2 ** 16;
const MOST_AT_ONCE = 16;

/** Autoencoders of more bytes, and larger pictures, are not worked on by a session for each thread: memory. */
const SMALL_BYTES = 200e6;
const SMALL_PIXELS = 256 * 256;

/**
 * Runs a data set through the encoder of an autoencoder, once, and writes the moments of every picture (and of the
 * mirrored one, where the data are to be mirrored) with captions and labels as a latent data set, to be opened with
 * `openLatents`. What is interrupted continues at the next call: finished shards are kept.
 *
 * On the CPU a small autoencoder is run by a session of one thread for each thread, each on batches of its own.
 *
 * @throws UserError when data and autoencoder do not fit, when `out` holds latents of other data or of another
 *   autoencoder, and for latents that half precision cannot hold
 */
export async function encodeDataset(dataset: Dataset, options: EncodeOptions): Promise<EncodeResult> {
  const { autoencoder, out, shard = SHARD, signal, onProgress, scaling = "auto", shift = false } = options;
  const { count, flip, height, width, channels, labels, classNames, captions } = dataset;
  const sessions = await openEncoders(dataset, options);
  const [{ config, factor }] = sessions as [AutoencoderSession, ...AutoencoderSession[]];
  try {
    requireFitting(dataset, sessions[0]!, autoencoder);
    const writer = await latentWriter(out, {
      ...{
        name: dataset.name,
        source: fingerprint(dataset),
        autoencoder: await encoderHash(autoencoder, options.variant),
      },
      ...{ count, channels: config.latent_channels, height: height / factor, width: width / factor, flip, shard },
      image: { channels, height, width },
      ...{ labels: labels !== undefined, captions: captions !== undefined },
      ...(classNames ? { classNames: [...classNames] } : {}),
    });
    const missing = writer.missing.reduce((sum, { from, to }) => sum + to - from, 0);
    const progress = progressOf(count, missing, onProgress);
    for (const { from, to } of writer.missing) {
      const encode = (mirrored: boolean) =>
        encodeRange(dataset, { from, to, mirrored }, sessions, options, (images) => progress(images / (flip ? 2 : 1)));
      await writer.write(from, {
        moments: await encode(false),
        ...(flip ? { mirrored: await encode(true) } : {}),
        ...(captions ? { captions: captions.slice(from, to) } : {}),
        ...(labels ? { labels: labels.subarray(from, to) } : {}),
      });
    }
    signal?.throwIfAborted();
    const configured = { scalingFactor: config.scaling_factor, shiftFactor: config.shift_factor ?? 0 };
    const measures = scaling === "measured" || (scaling === "auto" && configured.scalingFactor === 1);
    const measured = measures ? await measuredIn(out, writer.index) : undefined;
    const chosen = measured
      ? { scalingFactor: measured.scalingFactor, shiftFactor: shift ? measured.mean : 0 }
      : configured;
    await writer.finish(chosen);
    return { folder: out, count, encoded: missing, measured, ...chosen };
  } finally {
    await Promise.all(sessions.map((session) => session.close()));
  }
}

/**
 * Writes the scaling of latents into an autoencoder's configuration, where pipelines look for it.
 * @throws UserError when the folder has no configuration
 */
export async function recordScaling(folder: string, { scalingFactor, shiftFactor }: LatentScaling): Promise<void> {
  const path = join(folder, "config.json");
  const config = await readJsonObject(path);
  const shift = shiftFactor === 0 ? null : shiftFactor;
  if (config.scaling_factor === scalingFactor && (config.shift_factor ?? null) === shift) return;
  await writeJsonObject(path, { ...config, scaling_factor: scalingFactor, shift_factor: shift });
}

async function openEncoders(
  { width, height }: Dataset,
  { autoencoder, variant, device = "cpu", threads = availableParallelism() }: EncodeOptions,
): Promise<AutoencoderSession[]> {
  const { weights } = await readModelFolder(autoencoder, { variant });
  const bytes = [...weights.tensors.values()].reduce((sum, { length }) => sum + length, 0);
  const shared = device === "cpu" && bytes <= SMALL_BYTES && width * height <= SMALL_PIXELS;
  const open = (own: number) => openAutoencoder(autoencoder, { device, threads: own, variant });
  return shared ? Promise.all(Array.from({ length: threads }, () => open(1))) : [await open(threads)];
}

interface Range {
  readonly from: number;
  readonly to: number;
  readonly mirrored: boolean;
}

/** The moments of images `from` to `to - 1`, [n, 2·c, h, w]; every session takes batches as long as there are any. */
async function encodeRange(
  dataset: Dataset,
  { from, to, mirrored }: Range,
  sessions: readonly AutoencoderSession[],
  { signal, batch: asked }: EncodeOptions,
  encoded: (images: number) => void,
): Promise<HostTensor<"float16">> {
  const fitting = Math.max(1, Math.min(MOST_AT_ONCE, Math.floor(BATCH_PIXELS / (dataset.height * dataset.width))));
  const batch = Math.min(asked ?? fitting, dataset.count);
  const parts = new Map<number, HostTensor<"float16">>();
  let next = from;
  const work = async (session: AutoencoderSession) => {
    while (next < to) {
      signal?.throwIfAborted();
      const first = next;
      next += batch;
      // The last batch is filled up with its last image, so that one graph serves all.
      const indices = Uint32Array.from({ length: batch }, (_, i) => Math.min(first + i, to - 1));
      const images = imagesAt(dataset, indices);
      const given = mirrored ? mirroredImages(images) : images;
      const moments = convertFloat(await session.encode(given), "float16");
      requireFinite(moments, dataset, first);
      parts.set(first, moments);
      encoded(Math.min(batch, to - first));
    }
  };
  const ended = await Promise.allSettled(sessions.map(work));
  // Nobody works on when this throws: sessions may be closed then.
  for (const end of ended) if (end.status === "rejected") throw end.reason;
  const [, ...shape] = parts.get(from)!.shape;
  const size = shape.reduce((product, axis) => product * axis, 1);
  const data = new Uint16Array((to - from) * size);
  for (const [first, moments] of parts) {
    data.set(moments.data.subarray(0, Math.min(batch, to - first) * size), (first - from) * size);
  }
  return hostTensor("float16", [to - from, ...shape], data);
}

function mirroredImages({ shape, data }: HostTensor<"uint8">): HostTensor<"uint8"> {
  const target = new Uint8Array(data.length);
  mirror(data, target, shape[3]!);
  return hostTensor("uint8", shape, target);
}

/** Infinities and NaN, whose exponent bits are all set: what half precision cannot hold became one. */
function requireFinite({ data, shape }: HostTensor<"float16">, dataset: Dataset, first: number): void {
  const at = data.findIndex((bits) => (bits & 0x7c00) === 0x7c00);
  if (at < 0) return;
  const image = first + Math.floor(at / (data.length / shape[0]!));
  throw new UserError(
    `Image ${Math.min(image, dataset.count - 1)} of ${dataset.name} has latents beyond half precision.`,
    {
      hint: "The autoencoder gives numbers over 65504 or none at all: it is damaged, or its training has diverged.",
      field: "autoencoder",
    },
  );
}

function requireFitting(
  { name, channels, height, width }: Dataset,
  { config, factor }: AutoencoderSession,
  folder: string,
): void {
  if (config.in_channels !== channels) {
    throw new UserError(`${name} has images of ${channels} channels, the autoencoder takes ${config.in_channels}.`, {
      hint: 'Choose the colour "rgb" or "gray".',
      field: "colour",
    });
  }
  if (height % factor !== 0 || width % factor !== 0) {
    throw new UserError(`Images of ${width}×${height} pixels cannot be encoded: ${factor} pixels become one.`, {
      hint: `Choose a size that ${factor} divides.`,
      field: "size",
    });
  }
  if (config.latents_mean || config.latents_std) {
    throw new UserError(`${folder} scales each channel of its latents on its own (latents_mean, latents_std).`, {
      hint: "Latent data sets have one factor for all channels; take another autoencoder.",
      field: "autoencoder",
    });
  }
}

/** Fields of an autoencoder's configuration that do not change what it encodes. */
const NOT_ENCODING = /^_|^(?:scaling_factor|shift_factor|sample_size|force_upcast|up_block_types|out_channels)$/;

/** A hash of the half of an autoencoder that encodes: a new decoder or scaling leaves latents as they are. */
async function encoderHash(folder: string, variant: string | undefined): Promise<string> {
  const { config, weights } = await readModelFolder(folder, { variant });
  const own = Object.entries(config).filter(([key]) => !NOT_ENCODING.test(key));
  const hash = createHash("sha256").update(JSON.stringify(own.sort(([a], [b]) => (a < b ? -1 : 1))));
  const names = [...weights.tensors.keys()].filter((name) => /^(?:encoder|quant_conv)\./.test(name)).sort();
  for (const name of names) {
    const { dtype, shape, data } = await weights.read(name);
    hash
      .update(JSON.stringify([name, dtype, shape]))
      .update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return hash.digest("hex");
}

async function measuredIn(...[folder, index]: Parameters<typeof openShards>): Promise<MeasuredScaling> {
  const latents = await openShards(folder, index);
  try {
    return measureScaling(latents);
  } finally {
    latents.close();
  }
}

/** Counts images and tells of them, with the time that is left by the speed so far. */
function progressOf(total: number, missing: number, tell: EncodeOptions["onProgress"]): (images: number) => void {
  const start = performance.now();
  let now = 0;
  tell?.({ done: total - missing, total, secondsLeft: missing === 0 ? 0 : undefined });
  return (images) => {
    now += images;
    const seconds = (performance.now() - start) / 1000;
    tell?.({ done: Math.floor(total - missing + now), total, secondsLeft: ((missing - now) / now) * seconds });
  };
}
