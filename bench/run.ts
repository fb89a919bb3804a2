/**
 * The benchmarks: `npm run bench -- <what> [--batch N] [--seconds S] [--threads 2] [--device cpu]`, one JSON line each.
 *
 * `unet-train` and `unet-infer` are the networks and steps of a PyTorch script for the same measurement: images a
 * second, median and best of the repeats. 'train' is one whole step: forward, MSE loss, backward, gradient clipping at
 * 1.0, AdamW, EMA.
 *
 * `autoencoder-train` and `latent-train` are the stages of recipes/emoji.json, `pixel-train` the second one's network on
 * pixels instead of latents.
 *
 * `sd15-unet` and `sd15-vae` are Stable Diffusion 1.5 in full size with random weights (3.4 GB, written the first time):
 * seconds to load, seconds a step, peak memory of the process; `sd15-generate` is two whole pictures. `quantization` is its U-Net with linear layers in few bits.
 */
import { availableParallelism } from "node:os";
import { Command, InvalidArgumentError } from "commander";
import { benchQuantization } from "./quantization.ts";
import { benchSd15Generate, benchSd15Unet, benchSd15Vae, type Sd15Options } from "./sd15.ts";
import { benchAutoencoderTrain, benchLatentTrain, benchPixelTrain } from "./text-to-image.ts";
import { benchUNetInfer, benchUNetTrain } from "./unet.ts";

interface Benchmark {
  readonly run: (options: Sd15Options) => Promise<object>;
  /** Images a step unless another number is asked for. */
  readonly batch: number;
}

const BENCHMARKS: Readonly<Record<string, Benchmark>> = {
  "unet-train": { run: benchUNetTrain, batch: 64 },
  "unet-infer": { run: benchUNetInfer, batch: 64 },
  "sd15-unet": { run: benchSd15Unet, batch: 2 },
  "sd15-vae": { run: benchSd15Vae, batch: 1 },
  "sd15-generate": { run: benchSd15Generate, batch: 1 },
  "autoencoder-train": { run: benchAutoencoderTrain, batch: 16 },
  "latent-train": { run: benchLatentTrain, batch: 16 },
  "pixel-train": { run: benchPixelTrain, batch: 16 },
  quantization: { run: benchQuantization, batch: 2 },
};

const number = (text: string) => {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError("a positive number is needed");
  return value;
};

const dtype = (text: string) => {
  if (text !== "fp32" && text !== "fp16") throw new InvalidArgumentError("fp32 or fp16 is needed");
  return text;
};

const command = new Command("bench")
  .argument("<what>", Object.keys(BENCHMARKS).join(" | "))
  .option("--batch <n>", "images a step", number)
  .option("--seconds <s>", "how long to measure", number, 10)
  .option("--threads <n>", "threads", number, availableParallelism())
  .option("--device <name>", "what to compute on", "cpu")
  .option("--profile", "print where the time goes, to stderr")
  .option("--dtype <name>", "sd15: how the weights are stored, fp32 or fp16", dtype, "fp32")
  .option("--repeats <n>", "sd15: steps measured after the first", number, 5)
  .option("--as-small", "sd15: load as small networks are loaded, for comparison")
  .option("--folder <path>", "sd15: where the weights are kept")
  .option("--tiny", "sd15: the same blocks with a few channels")
  .parse();
const [what] = command.args as [string];
const benchmark = BENCHMARKS[what];
if (!benchmark) command.error(`There is no benchmark ${what}; there are ${Object.keys(BENCHMARKS).join(", ")}.`);
const options = command.opts<Sd15Options>();
console.log(
  JSON.stringify({ what, ...(await benchmark!.run({ ...options, batch: options.batch ?? benchmark!.batch })) }),
);
