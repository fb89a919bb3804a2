import { type Command, InvalidArgumentError, Option } from "commander";
import { UserError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import { seeded } from "../core/random.ts";
import { addNoise, BETA_SCHEDULES, type BetaSchedule, namedSchedule, signalToNoise } from "../diffusion/index.ts";
import {
  decodeImage,
  type HostImage,
  imageGrid,
  imagesFromTensor,
  saveAnimation,
  saveImage,
  tensorFromImages,
} from "../io/index.ts";
import type { Console } from "./console.ts";
import { share, short, table } from "./format.ts";
import { checkAnimationFile, checkNoFolder, pictureFormat } from "./picture-files.ts";

interface NoiseFlags {
  readonly out: string;
  readonly animation?: string;
  readonly schedule: BetaSchedule;
  readonly timesteps: number;
  readonly betaStart?: number;
  readonly betaEnd?: number;
  readonly zeroTerminalSnr?: boolean;
  readonly steps: number;
  readonly size: number;
  readonly seed: number;
  readonly json?: boolean;
}

/** Frames of the animation, from the image to noise. */
const FRAMES = 50;

/** `allegory noise`: what the forward process does to an image. */
export function noiseCommand(program: Command, io: Console): void {
  program
    .command("noise")
    .summary("show the forward process on an image of your own")
    .description("Add noise to an image as training does, and show it at several timesteps t with alpha-bar and SNR.")
    .argument("<image>", "PNG, JPEG, WebP, AVIF or GIF")
    .option("--out <file>", "grid of pictures to write", "noise.png")
    .option("--animation <file>", "write the image becoming noise, as .gif or .webp")
    .addOption(
      new Option("--schedule <name>", `shape of the noise schedule (one of ${BETA_SCHEDULES.join(", ")})`)
        .default("squaredcos_cap_v2")
        .argParser(scheduleName),
    )
    .option("--timesteps <number>", "training timesteps T", wholeFrom(2), 1000)
    .option("--beta-start <number>", "first beta of the linear, scaled_linear and sigmoid schedules", positive)
    .option("--beta-end <number>", "last beta of the linear, scaled_linear and sigmoid schedules", positive)
    .option("--zero-terminal-snr", "rescale the schedule so that its last timestep is pure noise")
    .option("--steps <number>", "pictures, evenly spread from t = 0 to T - 1", wholeFrom(2), 10)
    .option("--size <number>", "side of each picture in pixels", wholeFrom(4), 224)
    .option("--seed <number>", "seed of the noise", wholeFrom(0), 0)
    .option("--json", "print the timesteps with alpha-bar and SNR as JSON")
    .action((image: string, flags: NoiseFlags) => noise(image, flags, io));
}

async function noise(path: string, flags: NoiseFlags, io: Console): Promise<void> {
  const { out, animation, schedule: shape, timesteps: T, betaStart, betaEnd, zeroTerminalSnr, size, seed } = flags;
  pictureFormat(out);
  if (animation !== undefined) checkAnimationFile(animation);
  for (const file of [out, animation]) if (file !== undefined) await checkNoFolder(file);
  if ((betaStart ?? betaEnd) !== undefined && !["linear", "scaled_linear", "sigmoid"].includes(shape)) {
    throw new UserError(`The schedule ${shape} has no first and last beta.`, {
      hint: "Leave --beta-start and --beta-end out, or choose linear, scaled_linear or sigmoid.",
    });
  }
  if (flags.steps > T) {
    throw new UserError(`${flags.steps} pictures were asked for; there are ${T} timesteps.`, {
      hint: "Give fewer --steps or more --timesteps.",
    });
  }
  const schedule = namedSchedule(shape, { steps: T, start: betaStart, end: betaEnd, zeroTerminalSnr });
  const x0 = tensorFromImages([await decodeImage(path, { size })]);
  // One draw of noise for all timesteps, so that pictures differ in the share of noise alone.
  const eps = seeded(seed).normal(x0.shape);
  const at = (t: number): HostImage => imagesFromTensor(addNoise(schedule, x0, eps, t))[0]!;
  const levels = spread(flags.steps, T).map((t) => {
    const alphaBar = schedule.alphasCumprod[t]!;
    return { t, alphaBar, snr: signalToNoise(schedule, t) };
  });
  const labels = levels.map(({ t, alphaBar, snr }) => `t ${t} · ᾱ ${share(alphaBar)} · SNR ${short(snr)}`);
  const grid = await imageGrid(
    levels.map(({ t }) => at(t)),
    { labels: fitting(labels, levels, size), columns: columnsFor(levels.length), gap: 6 },
  );
  await saveImage(out, grid, { text: { allegory: JSON.stringify({ noise: flags }) } });
  const files = [out];
  if (animation !== undefined) {
    await saveAnimation(animation, spread(Math.min(FRAMES, T), T).map(at), { fps: 12, hold: 1.5 });
    files.push(animation);
  }
  if (flags.json) {
    io.json({ files, schedule: shape, timesteps: T, levels });
    return;
  }
  const rows = levels.map(({ t, alphaBar, snr }) => [`${t}`, share(alphaBar), short(snr), decibels(snr)]);
  io.print(table([["t", "alpha-bar", "SNR", "dB"], ...rows]));
  for (const file of files) io.print(file);
}

/** Labels of one line under each picture: narrower pictures say less. About 6.2 pixels a letter. */
function fitting(
  labels: readonly string[],
  levels: readonly { readonly t: number; readonly alphaBar: number }[],
  size: number,
): string[] {
  const room = size / 6.2;
  if (labels.every((label) => label.length <= room)) return [...labels];
  const shorter = levels.map(({ t, alphaBar }) => `t ${t} · ᾱ ${short(alphaBar, 2)}`);
  return shorter.every((label) => label.length <= room) ? shorter : levels.map(({ t }) => String(t));
}

/** The number of columns, around 5, that leaves the fewest places of the grid empty. */
function columnsFor(count: number): number {
  if (count <= 5) return count;
  const empty = (columns: number) => (columns - (count % columns)) % columns;
  return [5, 4, 6, 3].reduce((best, columns) => (empty(columns) < empty(best) ? columns : best));
}

/** `count` timesteps from 0 to T − 1, evenly spread. */
function spread(count: number, T: number): number[] {
  return Array.from({ length: count }, (_, i) => Math.round((i * (T - 1)) / Math.max(count - 1, 1)));
}

function decibels(snr: number): string {
  return snr === 0 ? "-∞" : (10 * Math.log10(snr)).toFixed(1);
}

function scheduleName(text: string): BetaSchedule {
  if ((BETA_SCHEDULES as readonly string[]).includes(text)) return text as BetaSchedule;
  const meant = nearest(text, BETA_SCHEDULES);
  throw new InvalidArgumentError(meant ? `Did you mean ${meant}?` : `Accepted are ${BETA_SCHEDULES.join(", ")}.`);
}

function wholeFrom(least: number): (text: string) => number {
  return (text) => {
    if (/^\d+$/.test(text) && Number(text) >= least && Number.isSafeInteger(Number(text))) return Number(text);
    throw new InvalidArgumentError(`A whole number from ${least} on is needed.`);
  };
}

function positive(text: string): number {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (value > 0 && value < 1) return value;
  throw new InvalidArgumentError("A number between 0 and 1 is needed.");
}
