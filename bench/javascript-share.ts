/**
 * The share of a training step that JavaScript takes on the main thread: putting batches together, drawing noise and
 * timesteps, packing feeds.
 *
 *   npx tsx bench/javascript-share.ts [--batch 64] [--size 32] [--channels 64,128,256] [--patch 1] [--seconds 20]
 *
 * Prints JSON. `busyShare` is the share of the time in which the main thread is not idle. Most of that is no loss: the
 * next batch is put together while the worker computes the present one.
 */
import { Command } from "commander";
import { seeded } from "../src/core/random.ts";
import type { Dataset } from "../src/data/index.ts";
import { imageDenoisingTask, networkFor, openTrainer, readRecipe } from "../src/train/index.ts";

const command = new Command("javascript-share")
  .option("--batch <n>", "images a step", Number, 64)
  .option("--size <n>", "height and width of the images", Number, 32)
  .option("--channels <list>", "channels of the U-Net at each level", "64,128,256")
  .option("--patch <n>", "side of the patches", Number, 1)
  .option("--seconds <n>", "how long to measure", Number, 20)
  .option("--threads <n>", "threads", Number)
  .parse();
const { batch, size, channels, patch, seconds, threads } = command.opts<{
  batch: number;
  size: number;
  channels: string;
  patch: number;
  seconds: number;
  threads?: number;
}>();

const dataset: Dataset = {
  name: "random images",
  images: Uint8Array.from(seeded(0).uniform([1024 * size * size], { high: 256 }).data),
  count: 1024,
  channels: 1,
  height: size,
  width: size,
  flip: true,
  warnings: [],
};
const recipe = readRecipe({
  data: "random",
  run: "none",
  batch,
  patch,
  channels: channels.split(",").map(Number),
  ...(threads === undefined ? {} : { threads }),
});
const trainer = await openTrainer(recipe, imageDenoisingTask(recipe, dataset, networkFor(recipe, dataset)));
await trainer.next();
await trainer.next();

const before = performance.eventLoopUtilization();
const started = performance.now();
let steps = 0;
while (performance.now() - started < 1000 * seconds) {
  await trainer.next();
  steps++;
}
const wall = performance.now() - started;
const { active } = performance.eventLoopUtilization(before);
await trainer.close();
console.log(
  JSON.stringify({
    batch,
    size,
    channels: recipe.channels,
    patch,
    steps,
    imagesPerSecond: (steps * batch * 1000) / wall,
    stepMilliseconds: wall / steps,
    busyMilliseconds: active / steps,
    busyShare: active / wall,
  }),
);
