import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import { type HostImage, imageGrid, saveAnimation, saveGrid, terminalImage } from "../io/index.ts";
import { type GeneratedImage, unconditionalPipeline } from "../pipelines/index.ts";
import { readRecipe } from "../train/index.ts";
import type { Console } from "./console.ts";
import { duration } from "./format.ts";
import { Interrupted, interruptible } from "./interrupt.ts";
import { bar } from "./progress-line.ts";
import { readRecipeFile } from "./recipe-file.ts";
import { terminalColours } from "./terminal-colours.ts";
import { trainWithProgress } from "./train.ts";

/** The recipe that the demo trains; it lies beside the package's `dist` and the repository's `src`. */
const RECIPE = fileURLToPath(new URL("../../recipes/demo.json", import.meta.url));
/** How the command is given where this runs: from a clone of the repository, or installed. */
const COMMAND = import.meta.url.endsWith(".ts") ? "npm run allegory --" : "npx allegory";
const DIGITS = 64;
const SAMPLING = { steps: 25, guidance: 1.5, seed: 0 } as const;

/** `allegory demo`: the main job on real images, from nothing to new digits in minutes. */
export function demoCommand(program: Command, io: Console): void {
  program
    .command("demo")
    .summary("learn handwritten digits and draw new ones, in about five minutes")
    .description("Train a small diffusion model on the MNIST digits, then draw digits that nobody wrote.")
    .option("--run <folder>", "run folder; continues if it holds a checkpoint", "runs/demo")
    .option("--minutes <number>", "minutes of training at the most")
    .action(async ({ run, minutes }: { run: string; minutes?: string }) => {
      const given = { ...(await readRecipeFile(RECIPE)), run, ...(minutes ? { minutes: Number(minutes) } : {}) };
      const announce = () => io.remark("Stopping. Ctrl-C again ends at once; the same command continues.");
      await interruptible(announce, (signal) => demo(given, io, signal));
    });
}

async function demo(given: Record<string, unknown>, io: Console, signal: AbortSignal): Promise<void> {
  const recipe = readRecipe(given);
  io.print("Training a diffusion model on 60,000 handwritten digits. It starts from random numbers.");
  const { result } = await trainWithProgress(recipe, {}, io, signal);
  if (result.ended === "stopped") throw new Interrupted("stopped");
  const { images, frames } = await draw(recipe.run, io, signal);
  const folder = `${recipe.run}/drawn`;
  await mkdir(folder, { recursive: true });
  const [grid, animation] = [`${folder}/digits.png`, `${folder}/noise-to-digits.gif`];
  const look = { columns: 8, scale: 3, background: "#404040" };
  await saveGrid(grid, images, look);
  const pictures = await Promise.all(frames.map((frame) => imageGrid(frame, { ...look, scale: 2 })));
  await saveAnimation(animation, pictures, { fps: 12, hold: 2 });
  const small = await imageGrid(images.slice(0, 16), { columns: 8, gap: 1, background: "#404040" });
  io.print(terminalImage(small, { columns: io.out.columns ?? 80, colour: terminalColours(io.out) }));
  for (const line of closing(recipe.run, { grid, animation, seconds: result.seconds })) io.print(line);
}

/** Draws the digits with the trained model, keeping every step of the way. */
async function draw(
  run: string,
  io: Console,
  signal: AbortSignal,
): Promise<{ images: GeneratedImage[]; frames: HostImage[][] }> {
  const pipe = await unconditionalPipeline(run, {});
  const progress = io.progress();
  const images: GeneratedImage[] = [];
  const frames: HostImage[][] = [];
  try {
    for await (const state of pipe.stream({ count: DIGITS, batch: DIGITS, ...SAMPLING }, { signal })) {
      images.push(...(state.images ?? []));
      frames.push([...state.noisy()]);
      progress.update(`${bar(state.done / state.total)} drawing: step ${state.done}/${state.total}`);
    }
  } finally {
    progress.clear();
    await pipe.close();
  }
  return { images, frames };
}

function closing(
  run: string,
  { grid, animation, seconds }: { readonly grid: string; readonly animation: string; readonly seconds: number },
): string[] {
  return [
    "",
    `${DIGITS} digits that nobody wrote, after ${duration(seconds)} of training:`,
    `  ${grid}`,
    `  ${animation}   noise becoming digits`,
    `  ${run}/loss.svg, ${run}/samples/   how it learned`,
    "Next:",
    `  ${COMMAND} sample ${run} --class 7 --count 16 --seed 1 --terminal`,
    `  ${COMMAND} train --data your-pictures/ --size 32 --run runs/mine`,
    "  docs/train-on-your-own-images.md",
  ];
}
