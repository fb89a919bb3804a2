import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { seeded } from "../src/core/random.ts";
import { type Dataset, type LatentDataset, learnVocabulary } from "../src/data/index.ts";
import { float16Bits } from "../src/io/index.ts";
import { autoencoderTask } from "../src/train/autoencoder.ts";
import { readAutoencoderRecipe } from "../src/train/autoencoder-recipe.ts";
import { denoiserFor, latentDenoisingTask } from "../src/train/latent-denoising.ts";
import type { RunOptions } from "../src/train/run-options.ts";
import type { TrainingTask } from "../src/train/task.ts";
import { trainedText } from "../src/train/text-condition.ts";
import { readTextToImageRecipe } from "../src/train/text-to-image-recipe.ts";
import { openTrainer } from "../src/train/trainer.ts";
import { type BenchOptions, throughput, timed } from "./measure.ts";
import { projectFile } from "./root.ts";

// The stages of recipes/emoji.json on random numbers: a training step of each, data and all.

const COUNT = 256;
const WORDS = ["a red heart", "a smiling cat", "pizza", "a house with a garden, building, home"];

function recipe() {
  const path = projectFile("recipes/emoji.json");
  const { $schema: _, ...fields } = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  return readTextToImageRecipe(fields);
}

/** The autoencoder on pictures. */
export async function benchAutoencoderTrain(options: BenchOptions): Promise<object> {
  const { autoencoder, data, size } = recipe();
  const { flip: _, ...stage } = autoencoder as Exclude<typeof autoencoder, string>;
  const own = readAutoencoderRecipe({ task: "autoencoder", data, size, run: "", ...stage, batch: options.batch });
  const pictures = randomPictures(size!);
  return measured(options, own, await autoencoderTask(own, { training: pictures, heldOut: pictures }));
}

/** The denoiser on the autoencoder's latents, 16×16 with 4 channels. */
export function benchLatentTrain(options: BenchOptions): Promise<object> {
  return benchDenoiser(options, { channels: 4, height: 16, width: 16 }, [8]);
}

/** The same network on the pixels of pictures of the same size: its levels and attention lie where they did. */
export function benchPixelTrain(options: BenchOptions): Promise<object> {
  return benchDenoiser(options, { channels: 3, height: 64, width: 64 }, [32]);
}

async function benchDenoiser(
  options: BenchOptions,
  sample: Pick<LatentDataset, "channels" | "height" | "width">,
  attentionAt: number[],
): Promise<object> {
  const { denoiser: stage, text } = recipe();
  if (typeof text === "string") throw new Error("the recipe's text encoder is one that learns");
  const random = seeded(0);
  const moments = random.normal([COUNT, 2 * sample.channels, sample.height, sample.width]).data;
  const size = moments.length / COUNT;
  const latents: LatentDataset = {
    ...sample,
    ...{ name: "random latents", count: COUNT, scalingFactor: 1, shiftFactor: 0, fingerprint: "" },
    ...{ image: { channels: 3, height: 64, width: 64 }, flip: false, autoencoder: "" },
    read(image, _mirrored, target) {
      for (let i = 0; i < size; i++) target[i] = float16Bits(moments[image * size + i]!);
    },
    close() {},
    captions: Array.from({ length: COUNT }, (_, i) => [WORDS[i % WORDS.length]!]),
  };
  const condition = trainedText({ ...text, vocabulary: learnVocabulary(WORDS, { size: text.vocabulary }) });
  const own = { ...stage, attentionAt, batch: options.batch, run: "", device: "cpu" as const, threads: undefined };
  const denoiser = denoiserFor(own, latents, condition);
  const nothing = () => Promise.reject(new Error("a benchmark draws and writes nothing"));
  const task = latentDenoisingTask(own, { latents, condition, denoiser }, { preview: nothing, write: nothing });
  return measured(options, own, task);
}

async function measured(options: BenchOptions, run: RunOptions, task: TrainingTask): Promise<object> {
  const threads = options.threads ?? availableParallelism();
  const trainer = await openTrainer({ ...run, threads, device: options.device === "cpu" ? "cpu" : "auto" }, task);
  const times = await timed(() => trainer.next(), options.seconds);
  const { size } = trainer.layout;
  await trainer.close();
  return throughput(options, times, size);
}

function randomPictures(size: number): Dataset {
  const images = Uint8Array.from(seeded(1).uniform([COUNT * 3 * size * size], { high: 256 }).data);
  return { name: "random", images, count: COUNT, channels: 3, height: size, width: size, flip: false, warnings: [] };
}
