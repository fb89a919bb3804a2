import { expect, test } from "vitest";
import { train } from "../src/train/index.ts";
import { smallDataset, smallRecipe, temporaryFolder } from "./train-small.ts";

test("memory stays flat over hundreds of steps with checkpoints and sample grids", async () => {
  const run = await temporaryFolder();
  const sizes: number[] = [];
  const recipe = smallRecipe(run, {
    channels: [16, 32],
    batch: 32,
    steps: 900,
    checkpointEvery: 20,
    sampleEvery: 60,
    sampleCount: 4,
    sampleSteps: 5,
  });
  await train(recipe, {
    dataset: smallDataset({ count: 200, size: 16 }),
    onEvent: (event) => {
      if (event.kind === "step" && event.step % 50 === 0) sizes.push(process.memoryUsage().rss / 1e6);
    },
  });
  console.log(`resident MB every 50 steps: ${sizes.map(Math.round).join(" ")}`);
  // Garbage that is not yet collected comes and goes: the lowest of each third is compared.
  const lowest = (from: number) => Math.min(...sizes.slice(from, from + 6));
  expect(lowest(12) - lowest(6)).toBeLessThan(20);
});
