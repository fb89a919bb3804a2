import { createHash } from "node:crypto";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { validated } from "../core/validated.ts";
import { readJsonObject, writeJsonObject } from "../io/json-file.ts";

// A latent data set on disk: `latents.json`, which says what it is, and shards `latents-00000.safetensors` … with the
// moments of so many images each. Everything is of files that Python reads too.

const whole = (minimum: number) => z.number().int().min(minimum);

const scalingFields = {
  scalingFactor: z.number().positive().describe("latents are (z - shiftFactor) * scalingFactor"),
  shiftFactor: z.number().describe("what is subtracted of every latent number"),
};

const indexSchema = z.object({
  format: z.literal("allegory latents 1"),
  name: z.string(),
  /** Hash of the autoencoder's weights and shape. */
  autoencoder: z.string(),
  /** Hash of the images, captions and labels that were encoded. */
  source: z.string(),
  count: whole(1),
  channels: whole(1),
  height: whole(1),
  width: whole(1),
  image: z.object({ channels: whole(1), height: whole(1), width: whole(1) }),
  /** Whether the mirrored images were encoded too. */
  flip: z.boolean(),
  labels: z.boolean(),
  captions: z.boolean(),
  classNames: z.array(z.string()).optional(),
  /** Images a shard; the last may have fewer. */
  shard: whole(1),
  ...scalingFields,
  complete: z.boolean(),
});

/** How latents are scaled before a denoiser sees them. */
export interface LatentScaling {
  readonly scalingFactor: number;
  readonly shiftFactor: number;
}

/** What `latents.json` holds. */
export type LatentIndex = z.output<typeof indexSchema>;

/** The index file of a latent data set. */
export const INDEX_FILE = "latents.json";

/** The file of shard `i`, from 0. */
export function shardFile(folder: string, i: number): string {
  return join(folder, `latents-${String(i).padStart(5, "0")}.safetensors`);
}

/** The images of each shard: from (inclusive) and to (exclusive). */
export function shardRanges({ count, shard }: Pick<LatentIndex, "count" | "shard">): { from: number; to: number }[] {
  return Array.from({ length: Math.ceil(count / shard) }, (_, i) => ({
    from: i * shard,
    to: Math.min((i + 1) * shard, count),
  }));
}

/** What a shard's metadata say: words of its images, and what makes it a shard of this set and no other. */
export interface ShardNotes {
  readonly autoencoder: string;
  readonly source: string;
  readonly from: number;
  readonly captions?: readonly (readonly string[])[];
  readonly labels?: readonly number[];
}

/** The key of {@link ShardNotes} in the metadata of a shard. */
export const NOTES_KEY = "allegory";

/**
 * Reads `latents.json`.
 * @throws UserError when it is missing or says something else
 */
export async function readLatentIndex(folder: string): Promise<LatentIndex> {
  const path = join(folder, INDEX_FILE);
  return validated(indexSchema, await readJsonObject(path), {
    what: path,
    hint: "Write it with `allegory encode`.",
  });
}

export async function writeLatentIndex(folder: string, index: LatentIndex): Promise<void> {
  await writeJsonObject(join(folder, INDEX_FILE), { ...index });
}

/**
 * Changes how the latents of a set are scaled, which is written in its `latents.json` alone.
 * @throws UserError when there is no latent data set in the folder, or for factors that cannot be
 */
export async function rescaleLatents(folder: string, scaling: LatentScaling): Promise<void> {
  const { scalingFactor, shiftFactor } = validated(z.object(scalingFields), scaling, { what: "The scaling" });
  await writeLatentIndex(folder, { ...(await readLatentIndex(folder)), scalingFactor, shiftFactor });
}

/** A hash of everything that a batch of latents is made of. */
export function latentFingerprint(index: LatentIndex): string {
  const { format, autoencoder, source, count, flip, scalingFactor, shiftFactor } = index;
  const parts = [format, autoencoder, source, count, flip, scalingFactor, shiftFactor];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex");
}

/** UserError for a folder of latents that belong together with something else. */
export function otherLatents(folder: string, changes: readonly string[]): UserError {
  return new UserError(`${folder} holds latents of something else:\n${changes.map((line) => `  ${line}`).join("\n")}`, {
    hint: "Encode into another folder, or remove this one to begin anew.",
    field: "out",
  });
}
