/**
 * Draws digits with a model and judges them by the digit classifier: how many can be read, which occur, and how far they
 * are from the 10,000 real test digits: `npx tsx bench/judge-digits.ts <run or pipeline folder> [options]`, JSON.
 */
import { Command, InvalidArgumentError } from "commander";
import { UserError } from "../src/core/errors.ts";
import { type Dataset, mnistDigits, picturesAt } from "../src/data/index.ts";
import { type HostImage, saveGrid, tensorFromImages } from "../src/io/index.ts";
import { judgeDigits, openDigitClassifier } from "../src/metrics/index.ts";
import { pipeline, type UnconditionalRequestInput } from "../src/pipelines/index.ts";

const number = (text: string) => {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("a number is needed");
  return value;
};

const command = new Command("judge-digits")
  .argument("<folder>", "a run, or a pipeline folder in diffusers' layout")
  .option("--count <n>", "pictures to draw", number, 256)
  .option("--steps <n>", "steps of the sampler (default: the pipeline's)", number)
  .option("--sampler <name>", "sampler (default: the model's)")
  .option("--spread <name>", "how the steps of a named sampler are spread")
  .option("--eta <n>", "share of fresh noise in a step of ddim", number)
  .option("--guidance <n>", "weight of classifier-free guidance", number)
  .option("--seed <n>", "seed of the first picture", number, 0)
  .option("--batch <n>", "pictures the network sees at once", number, 64)
  .option("--threads <n>", "threads (default: one a core)", number)
  .option("--grid <file>", "saves the pictures as one (.png, .jpg, .webp)")
  .parse();

try {
  process.stdout.write(`${JSON.stringify(await judged(command.args[0]!), null, 2)}\n`);
} catch (error) {
  if (!(error instanceof UserError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 2;
}

async function judged(folder: string) {
  const { threads, grid, ...request } = command.opts<
    UnconditionalRequestInput & { readonly threads?: number; readonly grid?: string }
  >();
  const model = await pipeline("unconditional-image-generation", folder, { threads });
  const started = performance.now();
  const drawn = await model.generate(request);
  const seconds = (performance.now() - started) / 1000;
  await model.close();
  if (grid) await saveGrid(grid, drawn, { scale: 2 });

  const classifier = await openDigitClassifier(undefined, { threads });
  const test = await mnistDigits({ split: "test", padTo: 32 });
  const train = await mnistDigits({ split: "train", padTo: 32 });
  const { features } = await classifier.classify(tensorFromImages(first(test, test.count)));
  const names = model.folder.classes?.names;
  // Classes called by their digit, as those of MNIST are.
  const asked = names?.every((name) => /^\d$/.test(name)) ? drawn.map((image) => Number(image.class)) : undefined;
  const figures = await judgeDigits(classifier, tensorFromImages(drawn), features, { asked });
  // As many real digits that the test set does not have: about the best that can be reached.
  const real = await judgeDigits(classifier, tensorFromImages(first(train, drawn.length)), features, {
    asked: train.labels,
  });
  await classifier.close();
  return { folder, request, seconds: Number(seconds.toFixed(1)), ...figures, real };
}

function first(dataset: Dataset, count: number): HostImage[] {
  return picturesAt(
    dataset,
    Array.from({ length: count }, (_, i) => i),
  );
}
