import { createHash } from "node:crypto";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, UserError } from "../core/errors.ts";
import type { HostTensor } from "../core/host-tensor.ts";
import type { RandomState } from "../core/random.ts";
import type { BatchPosition } from "../data/index.ts";
import { readSafetensors, readSafetensorsHeader, writeSafetensors } from "../io/index.ts";

/** All that a run remembers besides its vectors: plain data. */
export interface Progress {
  /** Optimizer steps done. */
  readonly step: number;
  /** Seconds spent training, over all sessions. */
  readonly seconds: number;
  readonly position: BatchPosition;
  readonly random: RandomState;
  /** The data's fingerprint, so that a run is not continued on other data by mistake. */
  readonly data: string;
}

/** A moment of a run. Resuming from it gives what the run would have given. */
export interface Checkpoint {
  readonly progress: Progress;
  /** By `parameters/NAME`, `mean/NAME`, `square/NAME` and `average/NAME`. */
  readonly tensors: ReadonlyMap<string, HostTensor<"float32">>;
}

const FORMAT = "allegory-checkpoint-1";
const PATTERN = /^step-(\d{8})\.safetensors$/;

/** The file name of a step's checkpoint. */
export function checkpointName(step: number): string {
  return `step-${String(step).padStart(8, "0")}.safetensors`;
}

/**
 * Writes a checkpoint into `folder` (to a temporary file, synced, renamed) and deletes all but the newest `keep`.
 * @returns the file's path
 */
export async function saveCheckpoint(folder: string, checkpoint: Checkpoint, keep: number): Promise<string> {
  await mkdir(folder, { recursive: true });
  const path = join(folder, checkpointName(checkpoint.progress.step));
  const progress = JSON.stringify(checkpoint.progress);
  const sha256 = checksum(progress, checkpoint.tensors);
  await writeSafetensors(path, checkpoint.tensors, { format: FORMAT, progress, sha256 });
  const old = (await checkpointFiles(folder)).slice(0, -keep);
  for (const name of old) await rm(join(folder, name));
  return path;
}

/** Names of the checkpoints in a folder, oldest first; none where there is no such folder. */
export async function checkpointFiles(folder: string): Promise<string[]> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  return names.filter((name) => PATTERN.test(name)).sort();
}

/** What a checkpoint remembers, without its tensors. */
export async function readProgress(path: string): Promise<Progress> {
  const { metadata } = await readSafetensorsHeader(path);
  if (metadata.format !== FORMAT || metadata.progress === undefined) {
    throw new UserError(`${path} is not a checkpoint of a training run.`, {
      hint: "Checkpoints lie in the `checkpoints` folder of a run.",
    });
  }
  try {
    return JSON.parse(metadata.progress) as Progress;
  } catch (error) {
    throw new UserError(`${path} does not say where its run stood.`, { cause: error });
  }
}

/**
 * Reads a checkpoint.
 * @throws UserError where it is damaged, naming the checkpoint before it
 */
export async function readCheckpoint(folder: string, name: string): Promise<Checkpoint> {
  const path = join(folder, name);
  try {
    const progress = await readProgress(path);
    const tensors = (await readSafetensors(path)) as Map<string, HostTensor<"float32">>;
    const { metadata } = await readSafetensorsHeader(path);
    if (checksum(metadata.progress!, tensors) !== metadata.sha256)
      throw new UserError("Its numbers do not have the checksum it names.");
    return { progress, tensors };
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    const before = (await checkpointFiles(folder)).filter((other) => other < name).at(-1);
    throw new UserError(`The checkpoint ${path} is damaged: ${messageOf(error)}`, {
      hint: before
        ? `Delete it to continue from ${before}, the one before it.`
        : "There is no checkpoint before it: delete it to start again.",
    });
  }
}

function checksum(progress: string, tensors: ReadonlyMap<string, HostTensor>): string {
  const hash = createHash("sha256").update(progress);
  for (const [name, { dtype, shape, data }] of [...tensors].sort(([a], [b]) => (a < b ? -1 : 1))) {
    hash.update(`${name}:${dtype}[${shape}];`);
    hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return hash.digest("hex");
}
