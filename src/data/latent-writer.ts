import { existsSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { invariant, UserError } from "../core/errors.ts";
import { type HostTensor, hostTensor } from "../core/host-tensor.ts";
import { readSafetensorsHeader, writeSafetensors } from "../io/safetensors.ts";
import {
  INDEX_FILE,
  type LatentIndex,
  type LatentScaling,
  NOTES_KEY,
  otherLatents,
  readLatentIndex,
  type ShardNotes,
  shardFile,
  shardRanges,
  writeLatentIndex,
} from "./latent-format.ts";

/** What a latent data set is, known before anything is encoded. */
export type LatentDescription = Omit<LatentIndex, "format" | "scalingFactor" | "shiftFactor" | "complete">;

/** The moments of a shard's images. */
export interface LatentShard {
  /** [n, 2·channels, h, w]: means, then logarithms of variances. */
  readonly moments: HostTensor<"float16">;
  /** Those of the mirrored images, where the set has them. */
  readonly mirrored?: HostTensor<"float16">;
  readonly captions?: readonly (readonly string[])[];
  readonly labels?: Int32Array;
}

/** Writes a latent data set, shard by shard. */
export interface LatentWriter {
  /** What is written, not complete yet. */
  readonly index: LatentIndex;
  /** The shards that are still to be written: their images from (inclusive) and to (exclusive). */
  readonly missing: readonly { readonly from: number; readonly to: number }[];
  /** Writes the shard that begins at image `from`; it is there as a whole or not at all. */
  write(from: number, shard: LatentShard): Promise<void>;
  /** Says that all shards are there, and how latents are to be scaled. */
  finish(scaling: LatentScaling): Promise<void>;
}

/** What must be the same for the shards that are there to be kept, and how a change of it is told. */
const SAME: readonly { readonly key: keyof LatentDescription; readonly changed: string }[] = [
  { key: "autoencoder", changed: "another autoencoder: other weights or another configuration" },
  { key: "source", changed: "other data: other images, captions or labels, or another order, size or background" },
  { key: "count", changed: "another number of images" },
  { key: "image", changed: "images of another size" },
  { key: "flip", changed: "with or without mirrored images" },
  { key: "shard", changed: "another number of images a shard" },
];

/**
 * Begins to write a latent data set into a folder, or goes on where that was interrupted: shards that are finished are
 * kept, what was interrupted is done again.
 *
 * @throws UserError when the folder holds something else, or latents of other data or of another autoencoder
 */
export async function latentWriter(folder: string, description: LatentDescription): Promise<LatentWriter> {
  const unscaled = { scalingFactor: 1, shiftFactor: 0 };
  const index: LatentIndex = { format: "allegory latents 1", ...description, ...unscaled, complete: false };
  if (existsSync(join(folder, INDEX_FILE))) await requireSame(folder, description);
  else await requireEmpty(folder);
  await mkdir(folder, { recursive: true });
  await writeLatentIndex(folder, index);
  const ranges = shardRanges(index);
  const present = await Promise.all(ranges.map((range, i) => isWritten(shardFile(folder, i), range, index)));
  return {
    index,
    missing: ranges.filter((_, i) => !present[i]),
    async write(from, shard) {
      const { captions, labels } = shard;
      const range = ranges[from / index.shard];
      invariant(range, `no shard begins at image ${from}`);
      const shape = [range.to - from, 2 * index.channels, index.height, index.width];
      invariant(String(shard.moments.shape) === String(shape), `moments of shape ${shard.moments.shape}, not ${shape}`);
      invariant(index.flip === (shard.mirrored !== undefined), "mirrored moments do not go with the set");
      const tensors = new Map([["moments", shard.moments]]);
      if (shard.mirrored) tensors.set("mirrored", hostTensor("float16", shape, shard.mirrored.data));
      const notes: ShardNotes = {
        autoencoder: index.autoencoder,
        source: index.source,
        from,
        ...(captions ? { captions } : {}),
        ...(labels ? { labels: Array.from(labels) } : {}),
      };
      await writeSafetensors(shardFile(folder, from / index.shard), tensors, { [NOTES_KEY]: JSON.stringify(notes) });
    },
    finish: ({ scalingFactor, shiftFactor }) =>
      writeLatentIndex(folder, { ...index, scalingFactor, shiftFactor, complete: true }),
  };
}

async function requireSame(folder: string, description: LatentDescription): Promise<void> {
  const there = await readLatentIndex(folder);
  const changes = SAME.filter(({ key }) => JSON.stringify(there[key]) !== JSON.stringify(description[key]));
  if (changes.length > 0) {
    throw otherLatents(
      folder,
      changes.map(({ changed }) => changed),
    );
  }
}

async function requireEmpty(folder: string): Promise<void> {
  const present = existsSync(folder) ? await readdir(folder) : [];
  if (present.length === 0) return;
  throw new UserError(`${folder} is not empty and holds no ${INDEX_FILE}.`, {
    hint: "Name a folder that does not exist yet, or one that was begun.",
    field: "out",
  });
}

/** Whether a shard is there, whole, and one of this set. Anything else is written again. */
async function isWritten(
  path: string,
  { from, to }: { from: number; to: number },
  index: LatentIndex,
): Promise<boolean> {
  if (!existsSync(path)) return false;
  try {
    const { tensors, metadata } = await readSafetensorsHeader(path);
    const notes = JSON.parse(metadata[NOTES_KEY]!) as ShardNotes;
    return (
      tensors.get("moments")?.shape[0] === to - from &&
      tensors.has("mirrored") === index.flip &&
      notes.from === from &&
      notes.autoencoder === index.autoencoder &&
      notes.source === index.source
    );
  } catch {
    return false;
  }
}
