import { mkdir, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { type Command, Option } from "commander";
import { UserError } from "../core/errors.ts";
import { encodeImage, type HubProgress, imageGrid, terminalImage, writeFileAtomically } from "../io/index.ts";
import {
  type PictureRecord,
  pictureNotes,
  type TextToImagePicture,
  type TextToImagePipeline,
  type TextToImageRequestInput,
  textToImagePipeline,
  textToImageRequest,
} from "../pipelines/index.ts";
import { addComputeOptions, type ComputeFlags, computeOptions } from "./compute-options.ts";
import type { Console } from "./console.ts";
import { duration } from "./format.ts";
import { interruptible } from "./interrupt.ts";
import { checkNoFolder, isPictureFile, pictureFormat } from "./picture-files.ts";
import { notesOf } from "./picture-notes.ts";
import { bar } from "./progress-line.ts";
import { addSchemaOptions, givenOptions } from "./schema-options.ts";
import { terminalColours } from "./terminal-colours.ts";

interface GenerateFlags extends ComputeFlags {
  readonly model?: string;
  readonly like?: string;
  readonly out?: string;
  readonly grid?: string;
  readonly terminal?: boolean;
  readonly json?: boolean;
  readonly vae?: string;
  readonly variant?: string;
  readonly controlNet?: string;
  readonly tokenizer?: string;
  readonly lowMemory?: boolean;
  readonly revision?: string;
}

/** Texts hold commas: each has a flag that may be given several times, and not a list. */
const TEXTS = {
  negativePrompt: ["--negative-prompt <text>", "what to draw away from; once for all prompts, or once for each"],
  prompt2: ["--prompt2 <text>", "prompt for the second text encoder, where there are two (default: the prompt)"],
  negativePrompt2: ["--negative-prompt2 <text>", "the same for the negative prompt"],
  prompt3: ["--prompt3 <text>", "prompt for the third text encoder of Stable Diffusion 3 (default: the prompt)"],
  negativePrompt3: ["--negative-prompt3 <text>", "the same for the negative prompt"],
  loras: ["--loras <path:scale>", "LoRA file or folder, with its scale (default: 1); may be given several times"],
} as const;

/** `allegory generate`: draws pictures from words. */
export function generateCommand(program: Command, io: Console): void {
  const command = program
    .command("generate")
    .summary("draw pictures from words")
    .description("Draw pictures from words with Stable Diffusion 1.x, 2.x, XL, 3 or 3.5, PixArt or FLUX.1.")
    .argument("[prompt...]", "what to draw; several prompts are drawn one after the other")
    .option(
      "--model <path>",
      "the model's folder, a safetensors file, or org/name of the hub (default: that of the picture of --like)",
    )
    .option("--like <picture>", "take what is not said from the request in a picture's file");
  for (const [flags, description] of Object.values(TEXTS)) {
    const collect = (text: string, before: string[] = []) => [...before, text];
    command.addOption(new Option(flags, description).argParser(collect));
  }
  addSchemaOptions(command, textToImageRequest, ["prompt", ...Object.keys(TEXTS)]);
  command
    .option("--out <path>", "picture file, or a folder for a file each (default: the present folder)")
    .option("--grid <file>", "write a grid of all pictures too")
    .option("--terminal", "show the pictures in the terminal")
    .option("--vae <folder>", "take another autoencoder, for example an AutoencoderTiny")
    .option("--control-net <folder>", "let a ControlNetModel steer, by --control-image")
    .option("--variant <name>", "take the weights of this variant, for example fp16")
    .option("--tokenizer <folder>", "the tokenizer's folder, for a model in a single file")
    .option("--revision <name>", "branch, tag or commit of a model of the hub (default: main)")
    .option("--low-memory", "free each network before the next one is loaded")
    .option("--json", "print a line of JSON for each step and picture");
  addComputeOptions(command);
  command.action(async (prompts: string[], flags: GenerateFlags) => {
    const given = givenOptions(command, textToImageRequest);
    delete given.prompt;
    for (const name of Object.keys(TEXTS)) {
      const list = given[name];
      if (name !== "loras" && Array.isArray(list) && list.length === 1) given[name] = list[0];
    }
    if (prompts.length > 0) given.prompt = prompts.length === 1 ? prompts[0] : prompts;
    const status = () => io.remark("Stopping; nothing more is written. Ctrl-C again ends at once.");
    await interruptible(status, (signal) => generate(given, flags, { io, signal }));
  });
}

async function generate(
  given: Record<string, unknown>,
  flags: GenerateFlags,
  { io, signal }: { readonly io: Console; readonly signal: AbortSignal },
): Promise<void> {
  const like = flags.like === undefined ? undefined : await notesOf(flags.like);
  const request = { ...like?.request, ...given } as TextToImageRequestInput;
  // A seed on the command line is meant, not the picture's own.
  if (given.seed !== undefined || given.count !== undefined || Array.isArray(given.prompt)) delete request.seeds;
  if (given.seeds !== undefined) request.seeds = given.seeds as number[];
  const model = flags.model ?? like?.model;
  if (model === undefined) {
    throw new UserError("No model was given.", {
      hint: "Give --model with a folder in diffusers' layout, or --like with a picture that was drawn here.",
      field: "model",
    });
  }
  const progress = io.progress();
  const onProgress = ({ file, totalReceived, totalSize }: HubProgress) =>
    progress.update(`${bar(totalReceived / totalSize)} downloading ${file}`);
  const opening = textToImagePipeline(model, {
    ...computeOptions(flags),
    hub: { revision: flags.revision, onProgress, onWarning: io.remark, signal },
    vae: flags.vae,
    controlNet: flags.controlNet,
    tokenizer: flags.tokenizer,
    variant: flags.variant,
    lowMemory: flags.lowMemory ?? false,
  });
  const pipe = await opening.catch((error) => {
    progress.clear();
    throw error;
  });
  const started = performance.now();
  const images: TextToImagePicture[] = [];
  const files: string[] = [];
  try {
    const resolved = pipe.resolve(request);
    const prompts = [resolved.prompt].flat().length;
    await checkOutputs(flags, resolved.seeds?.length ?? prompts * resolved.count);
    for (const warning of pipe.model.warnings) io.remark(`note: ${warning}`);
    for (const { dropped } of pipe.dropped(request)) io.remark(`note: too long, not seen: ${JSON.stringify(dropped)}`);
    progress.update("loading");
    for await (const state of pipe.stream(request, { signal })) {
      const { done, total, step, steps, seeds } = state;
      const seconds = (performance.now() - started) / 1000;
      const left = (seconds / done) * (total - done);
      progress.update(`${bar(done / total)} step ${done}/${total}, ${duration(left)} left`);
      if (flags.json) io.json({ event: "step", done, total, step, steps, seeds, seconds, left });
      // A finished picture is kept, whatever becomes of the next ones.
      for (const image of state.images ?? []) {
        images.push(image);
        const file = await writePicture(image, pipe, { flags, request, model });
        const { seed, prompt, width, height } = image;
        if (flags.json) io.json({ event: "picture", file, seed, prompt, width, height });
        files.push(file);
      }
    }
  } finally {
    progress.clear();
    await pipe.close();
  }
  const seconds = (performance.now() - started) / 1000;
  const grid = flags.grid === undefined && !flags.terminal ? undefined : await imageGrid(images);
  if (flags.grid !== undefined) {
    await writeFileAtomically(flags.grid, await encodeImage(grid!, pictureFormat(flags.grid)));
  }
  if (flags.terminal) {
    io.print(await terminalImage(grid!, { columns: io.out.columns ?? 80, colour: terminalColours(io.out) }));
  }
  if (flags.json) {
    io.json({ event: "end", pictures: images.length, grid: flags.grid, seconds });
    return;
  }
  io.print(`${images.length} ${images.length === 1 ? "picture" : "pictures"} in ${duration(seconds)}`);
  for (const file of [...files, ...(flags.grid === undefined ? [] : [flags.grid])]) io.print(`  ${file}`);
}

/** Says what cannot be written before anything is computed. */
async function checkOutputs({ out, grid }: GenerateFlags, pictures: number): Promise<void> {
  if (grid !== undefined) {
    pictureFormat(grid);
    await checkNoFolder(grid);
  }
  if (out === undefined) return;
  if (isPictureFile(out)) {
    await checkNoFolder(out);
    if (pictures === 1) return;
    throw new UserError(`${pictures} pictures cannot be written to one file, ${out}.`, {
      hint: "Give a folder; --grid writes all into one file.",
      field: "out",
    });
  }
  if (/\.\w{2,5}$/.test(basename(out))) pictureFormat(out);
  const found = await stat(out).catch(() => undefined);
  if (found && !found.isDirectory()) throw new UserError(`${out} is a file; a folder or a picture's path is needed.`);
}

async function writePicture(
  image: TextToImagePicture,
  pipe: TextToImagePipeline,
  { flags, request, model }: { readonly flags: GenerateFlags; readonly request: object; readonly model: string },
): Promise<string> {
  const { prompt, seed, width, height } = image;
  const { steps, guidance } = pipe.resolve(request as TextToImageRequestInput);
  const own = request as TextToImageRequestInput;
  const { count: _, batch: __, seed: ___, ...rest } = own;
  // The size of the request is that before it was enlarged.
  const by = own.enlarge ?? 1;
  const record: PictureRecord = {
    model,
    request: {
      ...rest,
      ...{ prompt, steps, guidance, seeds: [seed], width: Math.round(width / by), height: Math.round(height / by) },
      negativePrompt: own.negativePrompt === undefined ? undefined : image.negative,
      prompt2: own.prompt2 === undefined ? undefined : image.prompt2,
      negativePrompt2: own.negativePrompt2 === undefined ? undefined : image.negative2,
      prompt3: own.prompt3 === undefined ? undefined : image.prompt3,
      negativePrompt3: own.negativePrompt3 === undefined ? undefined : image.negative3,
    },
    size: [width, height],
  };
  const path = await pathFor(image, flags, basename(resolve(model)));
  await writeFileAtomically(path, await encodeImage(image, pictureFormat(path), { text: pictureNotes(record) }));
  return path;
}

/** The file of a picture; in a folder, one that is not there yet. */
async function pathFor({ seed }: TextToImagePicture, { out = "." }: GenerateFlags, model: string): Promise<string> {
  if (isPictureFile(out)) return out;
  await mkdir(out, { recursive: true });
  for (let i = 1; ; i++) {
    const path = join(out, `${model}-seed${seed}${i === 1 ? "" : `-${i}`}.png`);
    if (!(await stat(path).catch(() => undefined))) return path;
  }
}
