import { type HostTensor, hostTensor } from "../core/host-tensor.ts";
import type { Random } from "../core/random.ts";
import { type BatchPosition, batches, type Dataset, fingerprint } from "../data/index.ts";
import { sampleTimesteps } from "../diffusion/index.ts";
import { initialize } from "../models/index.ts";
import { writeModel } from "./image-model-folder.ts";
import { lossFor, type TrainedNetwork } from "./network.ts";
import { openPreview } from "./preview.ts";
import { type Recipe, readRecipe } from "./recipe.ts";
import { runPaths } from "./run-folder.ts";
import type { TaskFeeds, TrainingTask } from "./task.ts";

/** The main job: a U-Net learns to take noise out of pictures, with their classes or without. */
export function imageDenoisingTask(recipe: Recipe, dataset: Dataset, trained: TrainedNetwork): TrainingTask {
  const { name, count, warnings, classNames } = dataset;
  return {
    data: { name, count, warnings, fingerprint: () => fingerprint(dataset) },
    readRecipe,
    network: trained.network,
    start: (random) => initialize(trained.network, random),
    lossOf: (images) => lossFor(recipe, dataset, trained, images),
    feeds: (random, from) => imageFeeds(recipe, dataset, trained, random, from),
    preview: (weights) => openPreview(recipe, dataset, trained, weights),
    async write(weights) {
      const { model } = runPaths(recipe.run);
      await writeModel(model, recipe, trained, weights, classNames);
      return model;
    },
  };
}

/** Pictures, noise, timesteps and labels, some of these replaced by "no class". */
function imageFeeds(
  { batch, seed, classDropout }: Recipe,
  dataset: Dataset,
  { schedule, sample, classes, nullClass }: TrainedNetwork,
  random: Random,
  from: BatchPosition | undefined,
): TaskFeeds {
  const data = batches(dataset, { batch, seed, from });
  return {
    next() {
      const { images, labels } = data.next();
      const feeds: Record<string, HostTensor> = {
        images,
        noise: random.normal([batch, ...sample]),
        timesteps: hostTensor("int64", [batch], BigInt64Array.from(sampleTimesteps(schedule, batch, random), BigInt)),
      };
      if (classes > 0) {
        const dropped = nullClass === undefined ? undefined : random.bernoulli(classDropout, [batch]).data;
        const kept = labels!.data.map((label, i) => (dropped?.[i] ? BigInt(nullClass!) : label));
        feeds.labels = hostTensor("int64", [batch], kept);
      }
      return feeds;
    },
    position: data.position,
  };
}
