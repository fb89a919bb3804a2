import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import type { HostTensor } from "../src/core/host-tensor.ts";
import type { Dataset } from "../src/data/index.ts";
import { type Checkpoint, checkpointName, type RecipeInput, readCheckpoint, runPaths } from "../src/train/index.ts";
import { smallDataset } from "./train-small-data.ts";

/** A folder that is removed when the test ends. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "allegory-train-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

export { smallDataset };

/** A run that takes a fraction of a second: a network of two levels, one thread, no pictures. */
export function smallRecipe(run: string, changes: Partial<RecipeInput> = {}): RecipeInput {
  return {
    data: "given by the test",
    run,
    channels: [8, 16],
    layers: 1,
    steps: 20,
    batch: 4,
    lr: 1e-3,
    warmup: 4,
    checkpointEvery: 5,
    sampleEvery: 0,
    threads: 1,
    seed: 3,
    ...changes,
  };
}

/** The checkpoint of a step. */
export async function checkpointOf(run: string, step: number): Promise<Checkpoint> {
  return readCheckpoint(runPaths(run).checkpoints, checkpointName(step));
}

/** All that must be equal for two runs to stand at the same place: every number, bit for bit, but not the clock. */
export async function standOf(run: string, step: number) {
  const { progress, tensors } = await checkpointOf(run, step);
  const { seconds: _, ...place } = progress;
  return { place, hashes: hashesOf(tensors) };
}

export function hashesOf(tensors: ReadonlyMap<string, HostTensor>): Record<string, string> {
  return Object.fromEntries(
    [...tensors].map(([name, { data }]) => [
      name,
      createHash("sha256")
        .update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
        .digest("hex"),
    ]),
  );
}

/** The steps that metrics.jsonl lists. */
export async function loggedSteps(run: string): Promise<number[]> {
  const text = await readFile(runPaths(run).metrics, "utf8");
  return text
    .trimEnd()
    .split("\n")
    .map((line) => (JSON.parse(line) as { step: number }).step);
}

/** An event handler that gives the signal when a step is done. */
export function stopAfter(step: number) {
  const controller = new AbortController();
  return {
    signal: controller.signal,
    onEvent: (event: { kind: string; step?: number }) => {
      if (event.kind === "step" && event.step === step) controller.abort();
    },
  };
}

export type { Dataset };
