import { closeSync, openSync, readSync } from "node:fs";
import { invariant, messageOf, UserError } from "../core/errors.ts";
import { type HostTensor, hostTensor, sameShape } from "../core/host-tensor.ts";
import { float16Value } from "../io/half-precision.ts";
import { readSafetensorsHeader } from "../io/safetensors.ts";
import type { TensorEntry } from "../io/safetensors-format.ts";
import { type BatchImages, type BatchOptions, chosenImages } from "./batches.ts";
import {
  type LatentIndex,
  type LatentScaling,
  latentFingerprint,
  NOTES_KEY,
  readLatentIndex,
  type ShardNotes,
  shardFile,
  shardRanges,
} from "./latent-format.ts";
import type { BatchPosition } from "./shuffled.ts";

/**
 * Images as an autoencoder encoded them, once: of each the moments of its posterior, from which training draws another
 * latent every epoch. The moments stay on disk and are read batch by batch.
 */
export interface LatentDataset extends LatentScaling {
  /** For people: what was encoded. */
  readonly name: string;
  readonly count: number;
  /** Of a latent; moments have twice as many channels. */
  readonly channels: number;
  readonly height: number;
  readonly width: number;
  /** What was encoded and what decoding gives. */
  readonly image: { readonly channels: number; readonly height: number; readonly width: number };
  /** Whether batches take the moments of the mirrored image with probability 1/2. */
  readonly flip: boolean;
  readonly labels?: Int32Array;
  readonly classNames?: readonly string[];
  readonly captions?: readonly (readonly string[])[];
  /** A hash of the autoencoder that encoded them. */
  readonly autoencoder: string;
  /** A hash of everything a batch is made of. */
  readonly fingerprint: string;
  /**
   * Reads the moments of one image into `target`, 2·channels·height·width numbers as binary16: means, then logarithms of
   * variances.
   */
  read(image: number, mirrored: boolean, target: Uint16Array): void;
  /** Closes the files. */
  close(): void;
}

/** One batch of a latent data set. */
export interface LatentBatch extends BatchImages {
  /** [batch, 2·channels, height, width]: means, then logarithms of variances, unscaled. */
  readonly moments: HostTensor<"float32">;
  /** The class of each, where the set has labels. */
  readonly labels?: readonly number[];
}

/**
 * Opens a folder that `allegory encode` has written.
 *
 * @throws UserError when there is none, when it is not finished, and for shards that are missing, damaged or of another set
 */
export async function openLatents(folder: string): Promise<LatentDataset> {
  const index = await readLatentIndex(folder);
  if (!index.complete) {
    throw new UserError(`${folder} is not finished: not all images are encoded.`, {
      hint: "Give the same `allegory encode` again; it goes on where it was stopped.",
      field: "data",
    });
  }
  return openShards(folder, index);
}

/** Opens the shards of a set whose index is at hand, finished or not. */
export async function openShards(folder: string, index: LatentIndex): Promise<LatentDataset> {
  const shards: { path: string; file: number; tensors: ReadonlyMap<string, TensorEntry> }[] = [];
  const close = () => {
    for (const { file } of shards.splice(0)) closeSync(file);
  };
  const captions: (readonly string[])[] = [];
  const labels = new Int32Array(index.labels ? index.count : 0);
  try {
    for (const [i, range] of shardRanges(index).entries()) {
      const path = shardFile(folder, i);
      const { tensors, notes } = await shardHeader(path, range, index);
      shards.push({ path, file: openSync(path, "r"), tensors });
      if (index.captions) for (const own of notes.captions!) captions.push(own);
      if (index.labels) labels.set(notes.labels!, range.from);
    }
  } catch (error) {
    close();
    throw error;
  }
  const { name, count, channels, height, width, image, flip, classNames, scalingFactor, shiftFactor } = index;
  const size = 2 * channels * height * width;
  return {
    name,
    count,
    channels,
    height,
    width,
    image,
    flip,
    scalingFactor,
    shiftFactor,
    autoencoder: index.autoencoder,
    fingerprint: latentFingerprint(index),
    ...(index.labels ? { labels } : {}),
    ...(classNames ? { classNames } : {}),
    ...(index.captions ? { captions } : {}),
    read(image, mirrored, target) {
      invariant(image >= 0 && image < count && target.length === size, `no moments ${image} of ${count}`);
      invariant(flip || !mirrored, "the set has no mirrored images");
      const shard = shards[Math.floor(image / index.shard)];
      invariant(shard, "the latent data set is closed");
      const { offset } = shard.tensors.get(mirrored ? "mirrored" : "moments")!;
      const bytes = new Uint8Array(target.buffer, target.byteOffset, target.byteLength);
      readExactly(shard, bytes, offset + (image % index.shard) * bytes.length);
    },
    close,
  };
}

/**
 * Endless batches of a latent data set, by the rules of `batches`: from the same seed come the same images in the same
 * order, mirrored or not and with the same captions as from the pictures themselves.
 *
 * @throws UserError for a batch size that is no whole number >= 1 or a position outside the data
 */
export function latentBatches(
  latents: LatentDataset,
  options: BatchOptions,
): { next(): LatentBatch; position(): BatchPosition } {
  const { batch } = options;
  const { channels, height, width, labels } = latents;
  const order = chosenImages(latents, options);
  const size = 2 * channels * height * width;
  const bits = new Uint16Array(size);
  return {
    next() {
      const data = new Float32Array(batch * size);
      const chosen = order.next();
      chosen.indices.forEach((image, at) => {
        latents.read(image, chosen.flipped[at] === 1, bits);
        for (let i = 0; i < size; i++) data[at * size + i] = float16Value(bits[i]!);
      });
      return {
        moments: hostTensor("float32", [batch, 2 * channels, height, width], data),
        ...(labels ? { labels: Array.from(chosen.indices, (image) => labels[image]!) } : {}),
        ...chosen,
      };
    },
    position: order.position,
  };
}

/** How the numbers of latents are distributed, and the scaling that gives them deviation 1. */
export interface MeasuredScaling {
  readonly mean: number;
  readonly deviation: number;
  /** 1 / deviation. */
  readonly scalingFactor: number;
}

/**
 * Measures the scaling factor 1/σ of latent diffusion (Rombach et al. 2022, appendix G): σ is the deviation of all numbers
 * of the latents about their mean. It is not estimated from samples but follows from the moments: the variance of
 * z = μ + s·ε is that of μ plus the mean of s².
 *
 * @throws UserError for latents that do not vary, which no factor can scale
 */
export function measureScaling(latents: LatentDataset): MeasuredScaling {
  const { count, channels, height, width } = latents;
  const half = channels * height * width;
  const bits = new Uint16Array(2 * half);
  let sum = 0;
  let squares = 0;
  const sides = latents.flip ? [false, true] : [false];
  for (let image = 0; image < count; image++) {
    for (const mirrored of sides) {
      latents.read(image, mirrored, bits);
      for (let i = 0; i < half; i++) {
        const mean = float16Value(bits[i]!);
        // The range to which diagonalGaussian keeps them.
        const logVariance = Math.min(Math.max(float16Value(bits[half + i]!), -30), 20);
        sum += mean;
        squares += mean * mean + Math.exp(logVariance);
      }
    }
  }
  const numbers = count * sides.length * half;
  const mean = sum / numbers;
  const deviation = Math.sqrt(squares / numbers - mean * mean);
  if (!(deviation > 1e-6)) {
    throw new UserError(`The latents of ${latents.name} do not vary: their deviation is ${deviation}.`, {
      hint: "The autoencoder gives the same latent for every picture; train it longer, or with a smaller klWeight.",
      field: "autoencoder",
    });
  }
  return { mean, deviation, scalingFactor: 1 / deviation };
}

async function shardHeader(
  path: string,
  { from, to }: { from: number; to: number },
  index: LatentIndex,
): Promise<{ tensors: ReadonlyMap<string, TensorEntry>; notes: ShardNotes }> {
  const { tensors, metadata } = await readSafetensorsHeader(path);
  const shape = [to - from, 2 * index.channels, index.height, index.width];
  const wanted = index.flip ? ["moments", "mirrored"] : ["moments"];
  const fits = wanted.every((name) => {
    const entry = tensors.get(name);
    return entry?.dtype === "float16" && sameShape(entry.shape, shape);
  });
  const notes = notesOf(metadata[NOTES_KEY]);
  const own = notes?.from === from && notes.autoencoder === index.autoencoder && notes.source === index.source;
  const worded =
    (!index.captions || notes?.captions?.length === to - from) &&
    (!index.labels || notes?.labels?.length === to - from);
  if (!notes || !fits || !own || !worded) {
    throw new UserError(`${path} is not the shard of images ${from} to ${to - 1} that latents.json speaks of.`, {
      hint: "Give the same `allegory encode` again: it replaces what does not belong.",
      field: "data",
    });
  }
  return { tensors, notes };
}

function notesOf(text: string | undefined): ShardNotes | undefined {
  try {
    return text === undefined ? undefined : (JSON.parse(text) as ShardNotes);
  } catch {
    return undefined;
  }
}

function readExactly({ path, file }: { path: string; file: number }, bytes: Uint8Array, offset: number): void {
  for (let at = 0; at < bytes.length; ) {
    let read = 0;
    try {
      read = readSync(file, bytes, at, bytes.length - at, offset + at);
    } catch (error) {
      throw new UserError(`${path} cannot be read: ${messageOf(error)}.`, { cause: error });
    }
    if (read === 0) throw new UserError(`${path} became shorter while it was being read.`);
    at += read;
  }
}
