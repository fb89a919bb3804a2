import { stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import type { Command } from "commander";
import { UserError } from "../core/errors.ts";
import { validated } from "../core/validated.ts";
import {
  encodeImage,
  type HostImage,
  imageGrid,
  saveAnimation,
  terminalImage,
  writeFileAtomically,
} from "../io/index.ts";
import {
  type GeneratedImage,
  type UnconditionalPipeline,
  unconditionalRequest,
  wordlessPipeline,
} from "../pipelines/index.ts";
import { addComputeOptions, type ComputeFlags, computeOptions } from "./compute-options.ts";
import type { Console } from "./console.ts";
import { withDownloads } from "./downloads.ts";
import { duration, short } from "./format.ts";
import { interruptible } from "./interrupt.ts";
import { checkAnimationFile, checkNoFolder, isPictureFile, pictureFormat } from "./picture-files.ts";
import { bar } from "./progress-line.ts";
import { addSchemaOptions, givenOptions } from "./schema-options.ts";
import { terminalColours } from "./terminal-colours.ts";

interface SampleFlags extends ComputeFlags {
  readonly out?: string;
  readonly grid?: string;
  readonly animation?: string;
  readonly terminal?: boolean;
  readonly json?: boolean;
  readonly variant?: string;
  readonly revision?: string;
}

/** Frames of an animation; more steps than these are thinned out evenly. */
const FRAMES = 60;
/** Grids of small pictures are enlarged so that their longer side has about this many pixels. */
const GRID_PIXELS = 640;

/** `allegory sample`: draws pictures from a run or a model folder. */
export function sampleCommand(program: Command, io: Console): void {
  const command = program
    .command("sample")
    .summary("draw pictures with a trained model")
    .description("Draw pictures with a run of `allegory train`, or a UNet2DModel or DiT in diffusers' layout.")
    .argument("<model>", "run folder, diffusers folder, or org/name of the hub");
  addSchemaOptions(command, unconditionalRequest);
  command
    .option("--out <path>", "picture file (a grid of several pictures), or a folder for a file each")
    .option("--grid <file>", "write a grid, besides what --out says")
    .option("--animation <file>", "write noise becoming pictures, as .gif or .webp")
    .option("--terminal", "show the grid in the terminal")
    .option("--variant <name>", "take the weights of this variant, for example fp16")
    .option("--revision <name>", "branch, tag or commit of a model of the hub (default: main)")
    .option("--json", "print what was drawn as JSON");
  addComputeOptions(command);
  command.action(async (model: string, flags: SampleFlags) => {
    const request = givenOptions(command, unconditionalRequest);
    const status = () => io.remark("Stopping; nothing is written. Ctrl-C again ends at once.");
    await interruptible(status, (signal) => sample(model, request, flags, { io, signal }));
  });
}

async function sample(
  model: string,
  given: Record<string, unknown>,
  flags: SampleFlags,
  { io, signal }: { readonly io: Console; readonly signal: AbortSignal },
): Promise<void> {
  const request = validated(unconditionalRequest, given);
  await checkOutputs(flags);
  const pipe = await withDownloads({ io, signal, revision: flags.revision }, (hub) =>
    wordlessPipeline(model, { ...computeOptions(flags), variant: flags.variant, hub }),
  );
  const onNote = (note: string) => io.remark(`note: ${note}`);
  pipe.folder.warnings.forEach(onNote);
  const started = performance.now();
  const progress = io.progress();
  const images: GeneratedImage[] = [];
  const frames = new Map<number, HostImage[]>();
  try {
    for await (const state of pipe.stream(request, { signal, onNote })) {
      images.push(...(state.images ?? []));
      if (flags.animation && isFrame(state.step, state.steps)) {
        frames.set(state.step, [...(frames.get(state.step) ?? []), ...state.noisy()]);
      }
      const elapsed = (performance.now() - started) / 1000;
      const left = (elapsed / state.done) * (state.total - state.done);
      progress.update(`${bar(state.done / state.total)} step ${state.done}/${state.total}, ${duration(left)} left`);
    }
  } finally {
    progress.clear();
    await pipe.close();
  }
  // From here on everything is computed: writing is short and not interrupted.
  const seconds = (performance.now() - started) / 1000;
  const files = await writeOutputs(images, frames, flags, { model: basename(resolve(model)), ...request });
  if (flags.terminal) io.print(await inTerminal(images, io));
  if (flags.json) {
    const pictures = images.map(({ data: _, channels: __, ...facts }) => facts);
    io.json({ files, pictures, device: pipe.device()?.name, seconds });
    return;
  }
  const { length } = images;
  io.print(`${length} ${length === 1 ? "picture" : "pictures"} in ${duration(seconds)}${onDevice(pipe)}`);
  for (const file of files) io.print(`  ${file}`);
}

/** Says what cannot be written before anything is computed. */
async function checkOutputs({ out, grid, animation }: SampleFlags): Promise<void> {
  if (grid !== undefined) pictureFormat(grid);
  if (animation !== undefined) checkAnimationFile(animation);
  for (const file of [grid, animation, out !== undefined && isPictureFile(out) ? out : undefined]) {
    if (file !== undefined) await checkNoFolder(file);
  }
  if (out === undefined || isPictureFile(out)) return;
  if (/\.\w{2,5}$/.test(basename(out))) pictureFormat(out);
  const found = await stat(out).catch(() => undefined);
  if (found && !found.isDirectory()) throw new UserError(`${out} is a file; a folder or a picture's path is needed.`);
}

async function writeOutputs(
  images: readonly GeneratedImage[],
  frames: ReadonlyMap<number, readonly HostImage[]>,
  { out, grid, animation }: SampleFlags,
  notes: { readonly model: string } & Readonly<Record<string, unknown>>,
): Promise<string[]> {
  const write = async (path: string, image: HostImage, facts: object) => {
    const text = { allegory: JSON.stringify(facts) };
    await writeFileAtomically(path, await encodeImage(image, pictureFormat(path), { text }));
    return path;
  };
  const seeds = images.map(({ seed }) => seed);
  const files: string[] = [];
  if (out !== undefined && !isPictureFile(out)) {
    for (const image of images) {
      const path = join(out, `${notes.model}-seed${nameOfSeed(image)}.png`);
      const { count: _, seeds: __, ...rest } = notes;
      files.push(await write(path, image, { ...rest, seed: image.seed, toward: image.toward, class: image.class }));
    }
  } else if (out !== undefined || (grid === undefined && animation === undefined)) {
    const path = out ?? `${notes.model}-seed${seeds[0]}.png`;
    files.push(await write(path, images.length === 1 ? images[0]! : await gridOf(images), { ...notes, seeds }));
  }
  if (grid !== undefined) files.push(await write(grid, await gridOf(images), { ...notes, seeds }));
  if (animation !== undefined) {
    const pictures: HostImage[] = [];
    for (const step of [...frames.keys()].sort((a, b) => a - b)) pictures.push(await gridOf(frames.get(step)!));
    await saveAnimation(animation, pictures, { fps: 15, hold: 2 });
    files.push(animation);
  }
  return files;
}

/** `3`, or `3-to-8-at-0.25` of pictures between two seeds. */
function nameOfSeed({ seed, toward }: GeneratedImage): string {
  return toward ? `${seed}-to-${toward.seed}-at-${short(toward.share)}` : String(seed);
}

/** Whether a step is shown in the animation: the last always is. */
function isFrame(step: number, steps: number): boolean {
  if (steps <= FRAMES) return true;
  return Math.floor((step * FRAMES) / steps) > Math.floor(((step - 1) * FRAMES) / steps);
}

async function gridOf(images: readonly HostImage[]): Promise<HostImage> {
  const { width, height } = images[0]!;
  const side = Math.ceil(Math.sqrt(images.length)) * Math.max(width, height);
  const dark = images[0]!.channels === 1;
  return imageGrid(images, {
    scale: Math.max(1, Math.floor(GRID_PIXELS / side)),
    background: dark ? "#404040" : "#ffffff",
  });
}

async function inTerminal(images: readonly HostImage[], io: Console): Promise<string> {
  const grid = await imageGrid(images, { gap: 1, background: "#404040" });
  return terminalImage(grid, { columns: io.out.columns ?? 80, colour: terminalColours(io.out) });
}

function onDevice(pipe: UnconditionalPipeline): string {
  const device = pipe.device();
  return device && device.name !== "cpu" ? ` on ${device.name} (${device.reason})` : "";
}
