import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import { imageGrid, saveGrid, terminalImage } from "../io/index.ts";
import { textToImagePipeline } from "../pipelines/index.ts";
import type { Console } from "./console.ts";
import { duration } from "./format.ts";
import { interruptible } from "./interrupt.ts";
import { bar } from "./progress-line.ts";
import { terminalColours } from "./terminal-colours.ts";

/** The model of this package, which recipes/emoji.json trained. */
const MODEL = fileURLToPath(new URL("../../models/emoji/", import.meta.url));
const COUNT = 8;
const SAMPLING = { sampler: "dpm++2m", spread: "trailing", steps: 25, guidance: 3 } as const;

/** `allegory demo-emoji "a smiling face"`: eight emoji from words, with a model that comes with the package. */
export function demoEmojiCommand(program: Command, io: Console): void {
  program
    .command("demo-emoji")
    .summary("draw emoji from words, in seconds")
    .description(
      "Draw eight emoji from words with the small text-to-image model of this package, trained with recipes/emoji.json.",
    )
    .argument("<words...>", "what to draw")
    .option("--model <folder>", "another model's folder, such as runs/emoji/model (default: the model of the package)")
    .option("--seed <number>", "seed of the first picture", Number, 0)
    .option("--out <file>", "the grid's file (default: after the words, in runs/demo-emoji)")
    .action(async (words: string[], flags: DemoFlags) => {
      await interruptible(
        () => io.remark("Stopping."),
        (signal) => draw(words.join(" "), flags, io, signal),
      );
    });
}

interface DemoFlags {
  readonly model?: string;
  readonly seed: number;
  readonly out?: string;
}

async function draw(
  prompt: string,
  { model = MODEL, seed, out }: DemoFlags,
  io: Console,
  signal: AbortSignal,
): Promise<void> {
  const started = performance.now();
  const pipe = await textToImagePipeline(model, {});
  const progress = io.progress();
  const request = { prompt, seed, count: COUNT, batch: COUNT, ...SAMPLING };
  try {
    for (const { text, dropped } of pipe.dropped(request)) io.remark(`“${dropped}” of “${text}” was not read.`);
    for await (const { done, total, images } of pipe.stream(request, { signal })) {
      progress.update(`${bar(done / total)} step ${done}/${total}`);
      if (!images) continue;
      progress.clear();
      const path = out ?? (await fileFor(prompt));
      await saveGrid(path, images, { columns: 4, scale: 2 });
      const small = await imageGrid(images, { columns: 4, gap: 1 });
      io.print(terminalImage(small, { columns: io.out.columns ?? 80, colour: terminalColours(io.out) }));
      io.print(`${path}, after ${duration((performance.now() - started) / 1000)}`);
    }
  } finally {
    progress.clear();
    await pipe.close();
  }
}

async function fileFor(prompt: string): Promise<string> {
  const folder = "runs/demo-emoji";
  await mkdir(folder, { recursive: true });
  const name = prompt
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-|-$/g, "")
    .slice(0, 60);
  return `${folder}/${name || "drawn"}.png`;
}
