/**
 * Trains the digit classifier that src/metrics opens and writes it to models/digit-classifier; prints JSON. On one
 * thread, so the same seed on the same kind of processor gives the same weights.
 */
import { fileURLToPath } from "node:url";
import { Command, InvalidArgumentError } from "commander";
import { type HostTensor, hostTensor } from "../src/core/host-tensor.ts";
import { type Random, seeded } from "../src/core/random.ts";
import { batches, mnistDigits, picturesAt } from "../src/data/index.ts";
import { input, logSoftmax, mul, oneHot, sum, type Tensor } from "../src/graph/index.ts";
import { tensorFromImages, writeModelFolder } from "../src/io/index.ts";
import { DIGIT_CLASSIFIER, digitClassifierNetwork, likeliest, openDigitClassifier } from "../src/metrics/index.ts";
import { parameterCount } from "../src/nn/index.ts";
import { normalizedPixels } from "../src/train/objective.ts";
import { trainSmall } from "./small-training.ts";

const number = (text: string) => {
  const value = Number(text);
  if (!(value >= 0)) throw new InvalidArgumentError("a number from 0 is needed");
  return value;
};

const { out, epochs, batch, lr, seed } = new Command("digit-classifier")
  .option("--out <folder>", "where to write it", fileURLToPath(new URL("../models/digit-classifier", import.meta.url)))
  .option("--epochs <n>", "passes over the 60,000 digits", number, 6)
  .option("--batch <n>", "digits a step", number, 128)
  .option("--lr <n>", "highest learning rate", number, 3e-3)
  .option("--seed <n>", "seed of weights, order and shifts", number, 0)
  .parse()
  .opts<{ out: string; epochs: number; batch: number; lr: number; seed: number }>();

/** The most pixels an image is shifted along each axis; the digits are padded by as many. */
const SHIFT = 2;

const train = await mnistDigits({ padTo: 32 });
const network = digitClassifierNetwork();
const steps = Math.ceil((epochs * train.count) / batch);

const images = input("images", [batch, 1, train.height, train.width], "uint8");
const labels = input("labels", [batch], "int64");
const random = seeded(seed);
const data = batches(train, { batch, seed });
const { tensors, loss, seconds } = await trainSmall(network, crossEntropy(network(normalizedPixels(images)).logits), {
  ...{ steps, lr, weightDecay: 0.05, random, every: 200 },
  batch() {
    const { images, labels } = data.next();
    return { images: shifted(images, random), labels: labels! };
  },
});

const { config } = network;
const written = { config, className: DIGIT_CLASSIFIER, tensors };
await writeModelFolder(out, written, { library: "transformers", dtype: "float16" });

// What is measured is what was written.
const test = await mnistDigits({ split: "test", padTo: 32 });
const all = Uint32Array.from({ length: test.count }, (_, i) => i);
const classifier = await openDigitClassifier(out, { threads: 1 });
const { probabilities } = await classifier.classify(tensorFromImages(picturesAt(test, all)));
await classifier.close();
const found = likeliest(probabilities);
const share = (holds: (picture: (typeof found)[number], i: number) => boolean) =>
  found.filter(holds).length / test.count;
const figures = {
  accuracy: share(({ index }, i) => index === test.labels![i]),
  confident: share(({ probability }) => probability >= 0.9),
  parameters: parameterCount(network),
  epochs,
  batch,
  lr,
  seed,
  steps,
  loss: Number(loss.toFixed(5)),
  seconds: Math.round(seconds),
};
process.stdout.write(`${JSON.stringify(figures, null, 2)}\n`);

/** The mean of −ln p of the right class. */
function crossEntropy(logits: Tensor): Tensor {
  return mul(sum(mul(logSoftmax(logits), oneHot(labels, logits.shape[1]!))), -1 / batch);
}

/** Images moved by up to SHIFT pixels along each axis, black where nothing was. */
function shifted({ shape, data }: HostTensor<"uint8">, random: Random): HostTensor<"uint8"> {
  const [n, , h, w] = shape as [number, number, number, number];
  const moves = random.integers(-SHIFT, SHIFT + 1, [n, 2]).data;
  const out = new Uint8Array(data.length);
  for (let i = 0; i < n; i++) {
    const [down, right] = [Number(moves[2 * i]!), Number(moves[2 * i + 1]!)];
    for (let y = Math.max(0, down); y < Math.min(h, h + down); y++) {
      const from = (i * h + y - down) * w;
      out.set(
        data.subarray(from + Math.max(0, -right), from + Math.min(w, w - right)),
        (i * h + y) * w + Math.max(0, right),
      );
    }
  }
  return hostTensor("uint8", shape, out);
}
