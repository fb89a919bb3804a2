import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { readSafetensors } from "../src/io/index.ts";
import { type Checkpoint, runPaths, train } from "../src/train/index.ts";
import { checkpointOf, smallDataset, smallRecipe, temporaryFolder } from "./train-small.ts";

/** A state's numbers by parameter, such as `mean/`. */
function vectors({ tensors }: Checkpoint, state: string): Map<string, Float32Array> {
  const own = [...tensors].filter(([name]) => name.startsWith(state));
  return new Map(own.map(([name, { data }]) => [name.slice(state.length), data]));
}

describe("gradients accumulated over parts of a batch", () => {
  test.each([2, 4, 8])("are those of the whole batch (%i parts)", async (accumulate) => {
    const whole = await temporaryFolder();
    const parts = await temporaryFolder();
    const dataset = smallDataset({ classes: 3 });
    // The gradient is clipped: it is the norm of the sum that counts.
    const changes = { batch: 8, steps: 3, clip: 0.5, classes: true, checkpointEvery: 1 } as const;
    const one = await train(smallRecipe(whole, changes), { dataset });
    const several = await train(smallRecipe(parts, { ...changes, accumulate }), { dataset });
    one.metrics.forEach(({ loss, gradientNorm }, i) => {
      expect(gradientNorm).toBeGreaterThan(0.5);
      expect(Math.abs(several.metrics[i]!.loss / loss - 1)).toBeLessThan(1e-5);
      expect(Math.abs(several.metrics[i]!.gradientNorm / gradientNorm - 1)).toBeLessThan(1e-4);
    });
    const found = vectors(await checkpointOf(parts, 1), "mean/");
    for (const [name, expected] of vectors(await checkpointOf(whole, 1), "mean/")) {
      const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const off = expected.reduce((most, value, i) => Math.max(most, Math.abs(value - found.get(name)![i]!)), 0);
      expect(off, name).toBeLessThanOrEqual(1e-4 * largest + 1e-8);
    }
  });
});

test("two sessions that share every batch take the steps of one, before and after a checkpoint is read", async () => {
  const one = await temporaryFolder();
  const two = await temporaryFolder();
  const dataset = smallDataset({ classes: 3 });
  const changes = { batch: 8, steps: 5, clip: 0.5, classes: true, checkpointEvery: 2, keep: 9 } as const;
  const alone = await train(smallRecipe(one, changes), { dataset });
  const shared = await train(smallRecipe(two, { ...changes, threads: 2 }), { dataset });
  alone.metrics.forEach(({ loss, gradientNorm }, i) => {
    expect(Math.abs(shared.metrics[i]!.loss / loss - 1)).toBeLessThan(1e-4);
    expect(Math.abs(shared.metrics[i]!.gradientNorm / gradientNorm - 1)).toBeLessThan(1e-3);
  });
  for (const state of ["mean/", "square/", "average/"]) {
    const found = vectors(await checkpointOf(two, 4), state);
    for (const [name, expected] of vectors(await checkpointOf(one, 4), state)) {
      // Softmax does not see this bias: what its gradient holds is rounding.
      if (name.endsWith("to_k.bias")) continue;
      const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const off = expected.reduce((most, value, i) => Math.max(most, Math.abs(value - found.get(name)![i]!)), 0);
      expect(off, state + name).toBeLessThanOrEqual(1e-3 * largest + 1e-8);
    }
  }
});

describe("the moving average", () => {
  test.each([
    ["with warm-up follows (1 + n)/(10 + n) and starts at the first step's weights", true],
    ["without warm-up starts at the initial weights", false],
  ])("%s", async (_, emaWarmup) => {
    const run = await temporaryFolder();
    const changes = { steps: 8, checkpointEvery: 1, keep: 10, ema: 0.3, emaWarmup, lr: 1e-2 };
    await train(smallRecipe(run, changes), { dataset: smallDataset() });
    // By hand: decays 0, 2/11, 3/12 and, from where (1 + n)/(10 + n) exceeds it, 0.3.
    const decays = [0, 2 / 11, 3 / 12, 0.3, 0.3, 0.3, 0.3, 0.3];
    const name = "conv_in.weight";
    let expected: Float64Array | undefined;
    for (let step = 1; step <= 8; step++) {
      const checkpoint = await checkpointOf(run, step);
      const weights = vectors(checkpoint, "parameters/").get(name)!;
      const found = vectors(checkpoint, "average/").get(name)!;
      const decay = emaWarmup ? decays[step - 1]! : 0.3;
      if (expected) expected = expected.map((value, i) => decay * value + (1 - decay) * weights[i]!);
      else {
        // Step 1: with warm-up the weights themselves; without, what 0.7 of the first move gives is checked from step 2.
        expected = Float64Array.from(emaWarmup ? weights : found);
        if (!emaWarmup) expect(found).not.toEqual(weights);
      }
      const off = found.reduce((most, value, i) => Math.max(most, Math.abs(value - expected![i]!)), 0);
      expect(off, `step ${step}`).toBeLessThan(1e-6);
    }
  });

  test("is what the run's model folder holds", async () => {
    const run = await temporaryFolder();
    const { model } = await train(smallRecipe(run, { steps: 5 }), { dataset: smallDataset() });
    const stored = await readSafetensors(`${model}/unet/diffusion_pytorch_model.safetensors`);
    const average = vectors(await checkpointOf(run, 5), "average/");
    expect(stored.size).toBe(average.size);
    for (const [name, { data }] of stored) expect(data).toEqual(average.get(name));
  });
});

test("the learning rate rises linearly and falls along a half cosine, and metrics.jsonl has it", async () => {
  const run = await temporaryFolder();
  const result = await train(smallRecipe(run, { steps: 8, warmup: 4, lr: 1 / 64, lrSchedule: "cosine" }), {
    dataset: smallDataset(),
  });
  const lines = (await readFile(runPaths(run).metrics, "utf8")).trimEnd().split("\n");
  const rates = lines.map((line) => (JSON.parse(line) as { learningRate: number }).learningRate * 64);
  const root = Math.SQRT1_2 / 2;
  [0.25, 0.5, 0.75, 1, 1, 0.5 + root, 0.5, 0.5 - root].forEach((expected, i) => {
    expect(rates[i]).toBeCloseTo(expected, 12);
  });
  expect(result.metrics.map(({ learningRate }) => learningRate * 64)).toEqual(rates);
});

test("labels are dropped as often as asked for: never, always", async () => {
  const dataset = smallDataset({ classes: 3 });
  const rows: Record<number, number[]> = {};
  for (const classDropout of [0, 1]) {
    const run = await temporaryFolder();
    await train(smallRecipe(run, { steps: 4, warmup: 0, classes: true, classDropout, weightDecay: 0 }), { dataset });
    const table = vectors(await checkpointOf(run, 4), "square/").get("class_embedding.weight")!;
    const width = table.length / (classDropout > 0 ? 4 : 3);
    rows[classDropout] = Array.from({ length: table.length / width }, (_, row) =>
      table.subarray(row * width, (row + 1) * width).reduce((a, b) => a + b, 0),
    );
  }
  // Every class was asked for, and there is no row for none.
  expect(rows[0]).toHaveLength(3);
  expect(rows[0]!.every((sum) => sum > 0)).toBe(true);
  // Only the row for no class was.
  expect(rows[1]!.map((sum) => sum > 0)).toEqual([false, false, false, true]);
});
