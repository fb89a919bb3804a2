/**
 * The benchmarks: `npm run bench -- <what> [--batch N] [--seconds S] [--threads 2] [--device cpu]`, one JSON line each.
 *
 * `unet-train` and `unet-infer` are the networks and steps of a PyTorch script for the same measurement: images a
 * second, median and best of the repeats. 'train' is one whole step: forward, MSE loss, backward, gradient clipping at
 * 1.0, AdamW, EMA.
 */
import { availableParallelism } from "node:os";
import { Command, InvalidArgumentError } from "commander";
import type { BenchOptions } from "./measure.ts";
import { benchUNetInfer, benchUNetTrain } from "./unet.ts";

const BENCHMARKS: Readonly<Record<string, (options: BenchOptions) => Promise<object>>> = {
  "unet-train": benchUNetTrain,
  "unet-infer": benchUNetInfer,
};

const number = (text: string) => {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError("a positive number is needed");
  return value;
};

const command = new Command("bench")
  .argument("<what>", Object.keys(BENCHMARKS).join(" | "))
  .option("--batch <n>", "images a step", number, 64)
  .option("--seconds <s>", "how long to measure", number, 10)
  .option("--threads <n>", "threads", number, availableParallelism())
  .option("--device <name>", "what to compute on", "cpu")
  .option("--profile", "print where the time goes, to stderr")
  .parse();
const [what] = command.args as [string];
const benchmark = BENCHMARKS[what];
if (!benchmark) command.error(`There is no benchmark ${what}; there are ${Object.keys(BENCHMARKS).join(", ")}.`);
console.log(JSON.stringify({ what, ...(await benchmark!(command.opts<BenchOptions>())) }));
