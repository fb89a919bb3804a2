import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { float32 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { type Dataset, mnistDigits, picturesAt } from "../data/index.ts";
import { tensorFromImages, writeModelFolder } from "../io/index.ts";
import { initialize } from "../models/index.ts";
import {
  DIGIT_CLASSIFIER,
  type DigitClassifier,
  digitClassifierNetwork,
  frechetDistance,
  judgeDigits,
  likeliest,
  openDigitClassifier,
} from "./index.ts";

const digits = (dataset: Dataset, from: number, count: number) =>
  tensorFromImages(
    picturesAt(
      dataset,
      Array.from({ length: count }, (_, i) => from + i),
    ),
  );

describe("the classifier of the package", () => {
  let classifier: DigitClassifier;
  let real: Dataset;
  beforeAll(async () => {
    classifier = await openDigitClassifier(undefined, { threads: 1 });
    real = await mnistDigits({ split: "test", padTo: 32 });
  });
  afterAll(() => classifier.close());

  test("reads at least 98.5 % of 2,000 digits it was not trained on", async () => {
    // The first half of the test set was collected from clean writers, so one from each half.
    let right = 0;
    for (const from of [0, 5000]) {
      const { probabilities } = await classifier.classify(digits(real, from, 1000));
      right += likeliest(probabilities).filter(({ index }, i) => index === real.labels![from + i]).length;
    }
    expect(right / 2000).toBeGreaterThanOrEqual(0.985);
  });

  test("gives probabilities that add up to one, and features of the width its configuration says", async () => {
    const { probabilities, features } = await classifier.classify(digits(real, 0, 3));
    expect(features.shape).toEqual([3, classifier.config.features]);
    for (let row = 0; row < 3; row++) {
      const sum = probabilities.data.slice(10 * row, 10 * row + 10).reduce((a, b) => a + b);
      expect(sum).toBeCloseTo(1, 5);
    }
  });

  test("sees every image apart from those it comes with", async () => {
    const all = await classifier.classify(digits(real, 0, 70)); // more than a batch, and not a multiple of one
    const alone = await classifier.classify(digits(real, 69, 1));
    const width = classifier.config.features;
    const last = all.features.data.slice(69 * width);
    expect(last.length).toBe(width);
    last.forEach((value, i) => {
      expect(value).toBeCloseTo(alone.features.data[i]!, 5);
    });
    expect((await classifier.classify(float32([0, 1, 32, 32], []))).probabilities.shape).toEqual([0, 10]);
  });

  test("tells digits from noise, and good digits from worse ones", async () => {
    const { features } = await classifier.classify(digits(real, 0, 500));
    const clean = digits(real, 5000, 300);
    const noise = seeded(0).normal(clean.shape).data;
    const noisy = (amount: number) => ({
      ...clean,
      data: clean.data.map((value, i) => value + amount * noise[i]!),
    });
    const judged = await Promise.all(
      [0, 0.5, 1].map((amount) =>
        judgeDigits(classifier, noisy(amount), features, { asked: real.labels!.slice(5000) }),
      ),
    );
    const [good, worse, worst] = judged as [(typeof judged)[0], (typeof judged)[0], (typeof judged)[0]];
    expect(good.frechet).toBeLessThan(worse.frechet);
    expect(worse.frechet).toBeLessThan(worst.frechet);
    expect(good.kernel).toBeLessThan(worse.kernel);
    expect(good.confident).toBeGreaterThan(0.95);
    expect(worst.confident).toBeLessThan(good.confident);
    expect(good.asked).toBeGreaterThan(0.97);
    expect(frechetDistance(features, features)).toBeCloseTo(0, 6);
  });

  test("refuses images of another size", async () => {
    await expect(classifier.classify(float32([1, 1, 28, 28], new Float32Array(784)))).rejects.toThrow(
      "Images of shape [1, 1, 28, 28] were given; the classifier takes [n, 1, 32, 32].",
    );
  });
});

describe("a classifier of one's own", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "classifier-"));
  });
  afterAll(() => rm(folder, { recursive: true }));

  test("is opened from its folder, with its sizes", async () => {
    const network = digitClassifierNetwork({ image_size: 8, channels: [4, 8], groups: 2, features: 5, classes: 3 });
    const tensors = initialize(network, seeded(0));
    const written = { config: network.config, className: DIGIT_CLASSIFIER, tensors };
    await writeModelFolder(folder, written, { library: "transformers" });
    const classifier = await openDigitClassifier(folder, { threads: 1 });
    const said = await classifier.classify(seeded(1).normal([2, 1, 8, 8]));
    await classifier.close();
    expect([said.probabilities.shape, said.features.shape]).toEqual([
      [2, 3],
      [2, 5],
    ]);
  });

  test("has sizes that fit", () => {
    expect(() => digitClassifierNetwork({ image_size: 20, channels: [8, 8, 8] })).toThrow(UserError);
    expect(() => digitClassifierNetwork({ width: 20 })).toThrow(/"width": no such field is known/);
  });

  test("is not a folder of another network", async () => {
    const other = join(folder, "other");
    const tensors = new Map([["w", float32([1], [1])]]);
    await writeModelFolder(other, { config: {}, className: "UNet2DModel", tensors });
    await expect(openDigitClassifier(other)).rejects.toThrow(
      /is a model of class UNet2DModel; DigitClassifier is needed/,
    );
  });
});
