/**
 * Trains the captioned-image retrieval model that src/metrics opens on emoji and their words, writes it to
 * models/emoji-retrieval, and measures it; prints JSON. On one thread, so the same seed on the same kind of processor gives
 * the same weights. With `--no-train` it measures what is there.
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Command, InvalidArgumentError, Option } from "commander";
import type { HostTensor } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { batches, type Dataset, emoji, learnVocabulary, picturesAt } from "../src/data/index.ts";
import { input } from "../src/graph/index.ts";
import {
  type HostImage,
  openTokenizer,
  resizeImage,
  tensorFromImages,
  writeClipTokenizer,
  writeModelFolder,
} from "../src/io/index.ts";
import {
  CAPTION_RETRIEVAL,
  type CaptionRetrieval,
  captionRanks,
  captionRetrievalNetwork,
  contrastiveLoss,
  distancesToHalves,
  expectedShareWithin,
  openCaptionRetrieval,
  shareWithin,
  tokenIds,
} from "../src/metrics/index.ts";
import { parameterCount } from "../src/nn/index.ts";
import { normalizedPixels } from "../src/train/objective.ts";
import { jittered } from "./picture-jitter.ts";
import { trainSmall } from "./small-training.ts";

const number = (text: string) => {
  const value = Number(text);
  if (!(value >= 0)) throw new InvalidArgumentError("a number from 0 is needed");
  return value;
};

const flags = new Command("retrieval")
  .option("--out <folder>", "where to write it", fileURLToPath(new URL("../models/emoji-retrieval", import.meta.url)))
  .addOption(new Option("--split <name>", "emoji to train on").choices(["train", "all"]).default("train"))
  .option("--epochs <n>", "passes over the emoji", number, 60)
  .option("--batch <n>", "pictures with captions a step", number, 128)
  .option("--lr <n>", "highest learning rate", number, 2e-3)
  .option("--seed <n>", "seed of weights, order, captions and jitter", number, 0)
  .option("--no-train", "only measure")
  .parse()
  .opts<{
    out: string;
    split: "train" | "all";
    epochs: number;
    batch: number;
    lr: number;
    seed: number;
    train: boolean;
  }>();

const SIZE = 64;
/** Tokens a caption may have, start and end included; the longest lists of tags have more and are left out. */
const TOKENS = 32;
const JITTER = { shift: 4, scale: 0.15, turn: 0.15, gain: 0.1, blur: 1 };

const training = flags.train ? await train() : undefined;
// What is measured is what was written.
const model = await openCaptionRetrieval(flags.out, { threads: 1 });
const trained = await emoji({ size: SIZE });
const accuracy = {
  "held-in": await retrieved(model, trained),
  "held-out": await retrieved(model, await emoji({ size: SIZE, split: "held-out" })),
};
const { features } = await model.see(tensorFromImages(picturesAt(trained, indicesOf(trained))));
const shrunk = await Promise.all([SIZE, 32, 16, 8, 4].map((side) => retrievedShrunk(model, trained, features, side)));
await model.close();
process.stdout.write(`${JSON.stringify({ ...training, accuracy, shrunk }, null, 2)}\n`);

async function train() {
  const { out, split, epochs, batch, lr, seed } = flags;
  const data = await emoji({ size: SIZE, split });
  const vocabulary = learnVocabulary(data.captions!.flat(), { size: 2048 });
  await writeClipTokenizer(join(out, "tokenizer"), vocabulary, { maxLength: TOKENS });
  const tokenizer = await openTokenizer(join(out, "tokenizer"));
  const captions = data.captions!.map((all) => all.filter((text) => tokenizer.encode(text).length <= TOKENS));

  const network = captionRetrievalNetwork({
    image_size: SIZE,
    text_config: {
      vocab_size: vocabulary.tokens.length,
      hidden_size: 128,
      intermediate_size: 256,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      max_position_embeddings: TOKENS,
      eos_token_id: tokenizer.end,
    },
  });
  const pictures = input("pictures", [batch, 3, SIZE, SIZE], "uint8");
  const ids = input("ids", [batch, TOKENS], "int64");
  const loss = contrastiveLoss(
    network.picture(normalizedPixels(pictures)).embedding,
    network.caption(ids),
    network.parts.logit_scale.tensor,
  );
  const steps = Math.ceil((epochs * data.count) / batch);
  const random = seeded(seed);
  const order = batches(data, { batch, seed });
  const result = await trainSmall(network, loss, {
    ...{ steps, lr, weightDecay: 0.1, random, every: 50 },
    batch() {
      const { images, indices } = order.next();
      const said = Array.from(indices, (i) => captions[i]![random.integer(0, captions[i]!.length)]!);
      return { pictures: jittered(images, random, JITTER), ids: tokenIds(tokenizer, said, TOKENS) };
    },
  });
  const written = { config: network.config, className: CAPTION_RETRIEVAL, tensors: result.tensors };
  await writeModelFolder(out, written, { library: "transformers", dtype: "float16" });
  const count = captions.flat().length;
  return {
    ...{ split, epochs, batch, lr, seed, steps },
    parameters: parameterCount(network),
    captions: count,
    tooLong: data.captions!.flat().length - count,
    loss: Number(result.loss.toFixed(4)),
    logitScale: round(Math.exp(result.tensors.get("logit_scale")!.data[0]!)),
    seconds: Math.round(result.seconds),
  };
}

/** How often pictures find their label, the first of their captions: among 100 labels of the set, and among all. */
async function retrieved(model: CaptionRetrieval, set: Dataset) {
  const indices = indicesOf(set);
  const { embeddings } = await model.see(tensorFromImages(picturesAt(set, indices)));
  const labels = await model.read(set.captions!.map(([label]) => label!));
  const ranks = captionRanks(embeddings, labels, indices);
  const among = (top: number) => round(expectedShareWithin(ranks, top, { of: set.count, among: 100 }));
  return {
    count: set.count,
    among100: { top1: among(1), top5: among(5), top10: among(10) },
    amongAll: { top1: round(shareWithin(ranks, 1)), top10: round(shareWithin(ranks, 10)) },
  };
}

/**
 * What is left of 200 pictures that were made smaller and large again: how often they find their labels, and how far they
 * are from half of all pictures.
 */
async function retrievedShrunk(model: CaptionRetrieval, set: Dataset, all: HostTensor<"float32">, side: number) {
  const chosen = seeded(0).permutation(set.count).subarray(0, 200);
  const images = picturesAt(set, chosen);
  const resized = (of: readonly HostImage[], to: number) => Promise.all(of.map((image) => resizeImage(image, to)));
  const large = side === SIZE ? images : await resized(await resized(images, side), SIZE);
  const { embeddings, features } = await model.see(tensorFromImages(large));
  const labels = await model.read(Array.from(chosen, (i) => set.captions![i]![0]!));
  const asked = chosen.map((_, i) => i);
  const ranks = captionRanks(embeddings, labels, asked);
  const among = (top: number) => round(expectedShareWithin(ranks, top, { of: chosen.length, among: 100 }));
  const { frechet, kernel } = distancesToHalves(features, all);
  return { side, top1: among(1), top10: among(10), frechet: round(frechet.mean), kernel: round(kernel.mean) };
}

function indicesOf({ count }: Dataset): Uint32Array {
  return Uint32Array.from({ length: count }, (_, i) => i);
}

function round(value: number): number {
  return Number(value.toFixed(4));
}
