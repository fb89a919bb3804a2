import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { planTraining, type RecipeInput } from "../src/train/index.ts";
import { smallDataset, temporaryFolder } from "./train-small.ts";

const child = fileURLToPath(new URL("./train-memory-child.ts", import.meta.url));

const runs: readonly [Parameters<typeof smallDataset>[0], Partial<RecipeInput>][] = [
  [{ size: 16 }, { channels: [32, 64], batch: 16 }],
  [{ size: 32 }, { channels: [32, 64], batch: 16 }],
  [{ size: 32 }, { channels: [32, 64], batch: 32, accumulate: 4 }],
  [
    { size: 32, channels: 3 },
    { channels: [64, 128, 256], batch: 8 },
  ],
  [{ size: 32 }, { channels: [64, 128], patch: 2, batch: 32, attentionAt: [16] }],
  [
    { size: 64, channels: 3 },
    { channels: [32, 64, 64], batch: 8, attentionAt: [16] },
  ],
];

test.each(runs)("the plan's memory is within a quarter of what a run takes: %j %j", async (data, changes) => {
  const run = await temporaryFolder();
  const recipe = { data: "random", run, steps: 3, sampleEvery: 0, ...changes };
  const plan = await planTraining(recipe, { dataset: smallDataset(data) });
  const arguments_ = ["--import", "tsx", child, JSON.stringify(recipe), JSON.stringify(data)];
  const { stdout } = await promisify(execFile)(process.execPath, arguments_);
  const measured = JSON.parse(stdout) as { peak: number; seconds: number };
  console.log(
    `${JSON.stringify(changes)}: planned ${(plan.memory.peak / 1e6).toFixed(0)} MB, measured ${(measured.peak / 1e6).toFixed(0)} MB; ` +
      `planned ${plan.time.perStep.toFixed(2)} s a step, measured ${measured.seconds.toFixed(2)} s`,
  );
  expect(plan.memory.peak / measured.peak).toBeGreaterThan(0.75);
  expect(plan.memory.peak / measured.peak).toBeLessThan(1.25);
  // Other processes may take turns with either measurement.
  expect(plan.time.perStep / measured.seconds).toBeGreaterThan(1 / 5);
  expect(plan.time.perStep / measured.seconds).toBeLessThan(5);
});
