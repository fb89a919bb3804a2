import { basename, resolve } from "node:path";
import { type Command, InvalidArgumentError, Option } from "commander";
import { UserError } from "../core/errors.ts";
import { encodeImage, imageGrid, terminalImage, writeFileAtomically } from "../io/index.ts";
import {
  type OpenedWith,
  REQUEST_KEY,
  type TextToImageOptions,
  type TextToImagePicture,
  type TextToImagePipeline,
  type TextToImageRequestInput,
  type TextToImageState,
  textToImagePipeline,
  textToImageRequest,
} from "../pipelines/index.ts";
import { writeAttention } from "./attention-files.ts";
import { addComputeOptions, type ComputeFlags, computeOptions } from "./compute-options.ts";
import type { Console } from "./console.ts";
import { withDownloads } from "./downloads.ts";
import { checkDrawnPaths, writeDrawn } from "./drawn-files.ts";
import { embeddingsOption } from "./embeddings-option.ts";
import { duration } from "./format.ts";
import { interruptible } from "./interrupt.ts";
import { pictureFormat } from "./picture-files.ts";
import { notesOf } from "./picture-notes.ts";
import { plotSheet } from "./plot-sheet.ts";
import { predictionOption } from "./prediction-option.ts";
import { bar } from "./progress-line.ts";
import { type PlotPlace, plotPlaces, type RequestAxis, readAxis } from "./request-axes.ts";
import { addSchemaOptions, collect, givenOptions } from "./schema-options.ts";
import { terminalColours } from "./terminal-colours.ts";

interface GenerateFlags extends ComputeFlags {
  readonly model?: string;
  readonly like?: string;
  readonly out?: string;
  readonly grid?: string;
  readonly x?: string;
  readonly y?: string;
  readonly terminal?: boolean;
  readonly json?: boolean;
  readonly attentionMaps?: string;
  readonly attentionLevel?: number;
  readonly vae?: string;
  readonly variant?: string;
  readonly controlNet?: string;
  readonly tokenizer?: string;
  readonly prediction?: "epsilon" | "v_prediction";
  readonly refiner?: string;
  readonly embeddings?: readonly string[];
  readonly lowMemory?: boolean;
  readonly quantize?: 4 | 8;
  readonly revision?: string;
}

/** Texts hold commas: each has a flag that may be given several times, and not a list. */
const TEXTS = {
  negativePrompt: ["--negative-prompt <text>", "what to draw away from; once for all prompts, or once for each"],
  prompt2: ["--prompt2 <text>", "prompt for the second text encoder, where there are two (default: the prompt)"],
  negativePrompt2: ["--negative-prompt2 <text>", "the same for the negative prompt"],
  prompt3: ["--prompt3 <text>", "prompt for the third text encoder of Stable Diffusion 3 (default: the prompt)"],
  negativePrompt3: ["--negative-prompt3 <text>", "the same for the negative prompt"],
  loras: [
    "--loras <path:scale>",
    "LoRA file, folder or org/name, with its scale (default: 1); may be given several times",
  ],
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
    command.addOption(new Option(flags, description).argParser(collect));
  }
  // Latents are handed over by programs.
  addSchemaOptions(command, textToImageRequest, ["prompt", "denoisingStart", "denoisingEnd", ...Object.keys(TEXTS)]);
  command
    .option("--out <path>", "picture file, or a folder for a file each (default: the present folder)")
    .option("--grid <file>", "write a grid of all pictures too; with --x or --y a plot with headings")
    .option("--x <field=values>", "draw with each of these values, as columns of a plot: --x steps=10,20,30")
    .option("--y <field=values>", "the same as rows: --y 'prompt=a cat, sitting; a dog'")
    .option("--terminal", "show the pictures in the terminal")
    .option(
      "--attention-maps <folder>",
      "write where each token of the prompt was looked at, a folder for each picture",
    )
    .option(
      "--attention-level <number>",
      "halvings of the latents in the layers that are looked at (default: most)",
      level,
    )
    .option("--vae <path>", "take another autoencoder, for example an AutoencoderTiny: a folder, file or org/name")
    .option("--control-net <path>", "let a ControlNetModel steer, by --control-image: a folder or org/name")
    .option("--variant <name>", "take the weights of this variant, for example fp16")
    .option("--tokenizer <folder>", "the tokenizer's folder, for a model in a single file")
    .addOption(predictionOption())
    .option("--refiner <path>", "let another model, as SDXL's refiner, go on from --refine-from")
    .addOption(embeddingsOption())
    .option("--revision <name>", "branch, tag or commit of a model of the hub (default: main)")
    .option("--low-memory", "free each network before the next one is loaded")
    .addOption(
      new Option(
        "--quantize <bits>",
        "round the weights of the denoising network's linear layers (and T5's) to 8 or 4 bits",
      ).argParser(bits),
    )
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
  const axes = {
    x: flags.x === undefined ? undefined : readAxis(flags.x, "x"),
    y: flags.y === undefined ? undefined : readAxis(flags.y, "y"),
  };
  const plots = axes.x !== undefined || axes.y !== undefined;
  if (plots && flags.grid === undefined && !flags.terminal) {
    throw new UserError("--x and --y make a plot; it needs a file.", { hint: "Give --grid plot.png.", field: "grid" });
  }
  if (flags.attentionLevel !== undefined && flags.attentionMaps === undefined) {
    throw new UserError("--attention-level was given without --attention-maps.", { field: "attentionLevel" });
  }
  const like = flags.like === undefined ? undefined : await notesOf(flags.like);
  const base = { ...like?.request, ...given } as TextToImageRequestInput;
  // A seed on the command line is meant, not the picture's own.
  if (given.seed !== undefined || given.count !== undefined || Array.isArray(given.prompt)) delete base.seeds;
  if (given.seeds !== undefined) base.seeds = given.seeds as number[];
  const model = flags.model ?? like?.model;
  if (model === undefined) {
    throw new UserError("No model was given.", {
      hint: "Give --model with a folder in diffusers' layout, or --like with a picture that was drawn here.",
      field: "model",
    });
  }
  // A picture's own parts belong to its own model.
  const own = flags.model === undefined || flags.model === like?.model ? like?.opened : undefined;
  const opened: OpenedWith = { ...own, ...openedWith(flags) };
  const switchableLoras = lorasOf([axes.x, axes.y]);
  const pipe = await openModel(model, { ...flags, ...opened, switchableLoras }, { io, signal });
  const progress = io.progress();
  const started = performance.now();
  // Of a plot a file for each picture is written only where that is asked for.
  const out = plots ? flags.out : (flags.out ?? ".");
  const attention = flags.attentionMaps === undefined ? undefined : { level: flags.attentionLevel };
  const drawn: (PlotPlace & { readonly images: TextToImagePicture[] })[] = [];
  const files: string[] = [];
  try {
    const places = plotPlaces(base, axes).map((place) => {
      const request = place.request as TextToImageRequestInput;
      const resolved = pipe.resolve(request);
      const pictures = resolved.seeds?.length ?? [resolved.prompt].flat().length * resolved.count;
      return { ...place, request, resolved, pictures, work: pictures * resolved.steps };
    });
    const sum = (of: readonly number[]) => of.reduce((all, one) => all + one, 0);
    const paths = { out, grid: flags.grid, attention: flags.attentionMaps };
    await checkDrawnPaths(paths, sum(places.map(({ pictures }) => pictures)));
    // The estimate needs sizes and reads pictures: what is wrong with the last place is said before the first is drawn.
    for (const { request } of plots ? places : []) await pipe.memory(request);
    for (const warning of pipe.model.warnings) io.remark(`note: ${warning}`);
    const lost = new Set(places.flatMap(({ request }) => pipe.dropped(request).map(({ dropped }) => dropped)));
    for (const text of lost) io.remark(`note: too long, not seen: ${JSON.stringify(text)}`);
    progress.update("loading");
    const allWork = sum(places.map(({ work }) => work));
    for (const [i, { work, request, resolved, ...place }] of places.entries()) {
      const images: TextToImagePicture[] = [];
      drawn.push({ ...place, request, images });
      const where = plots ? { place: i, places: places.length, ...valuesAt(place, axes) } : {};
      const before = sum(places.slice(0, i).map((other) => other.work));
      for await (const state of pipe.stream(request, { signal, attention })) {
        const { done, total, step, steps, seeds } = state;
        const seconds = (performance.now() - started) / 1000;
        const share = (before + work * (done / total)) / allWork;
        const left = (seconds / share) * (1 - share);
        const of = plots ? `picture ${i + 1}/${places.length}, ` : "";
        progress.update(`${bar(share)} ${of}step ${done}/${total}, ${duration(left)} left`);
        if (flags.json) io.json({ event: "step", ...where, done, total, step, steps, seeds, seconds, left });
        const size = drawnSize(state, pipe.model.factor, request);
        // A finished picture is kept, whatever becomes of the next ones.
        for (const [n, image] of (state.images ?? []).entries()) {
          images.push(image);
          const from = { model, opened, request, resolved, drawn: size };
          const file = out === undefined ? undefined : await writeDrawn(image, out, from);
          const looks = state.attention?.[n];
          const maps = looks && (await writeAttention(flags.attentionMaps!, image, looks));
          const { seed, prompt, width, height } = image;
          if (flags.json) io.json({ event: "picture", ...where, file, attention: maps, seed, prompt, width, height });
          files.push(...[file, maps].filter((path) => path !== undefined));
        }
      }
    }
  } finally {
    progress.clear();
    await pipe.close();
  }
  const seconds = (performance.now() - started) / 1000;
  const images = drawn.flatMap((place) => place.images);
  const title = [basename(resolve(model)), ...(given.prompt === undefined ? [] : [String(given.prompt)])].join(": ");
  const wantsGrid = flags.grid !== undefined || flags.terminal;
  const grid = !wantsGrid ? undefined : plots ? await plotSheet(drawn, { ...axes, title }) : await imageGrid(images);
  if (flags.grid !== undefined) {
    const text = plots ? { [REQUEST_KEY]: JSON.stringify({ model, opened, request: base, ...axes }) } : undefined;
    await writeFileAtomically(flags.grid, await encodeImage(grid!, pictureFormat(flags.grid), { text }));
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

function level(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError("A whole number from 0 on is needed.");
  return Number(text);
}

function bits(text: string): 4 | 8 {
  if (text !== "4" && text !== "8") throw new InvalidArgumentError("8 or 4 is needed.");
  return Number(text) as 4 | 8;
}

/** What the flags say of it, in the form in which pictures keep it. */
function openedWith(flags: GenerateFlags): OpenedWith {
  const { vae, controlNet, tokenizer, prediction, refiner, variant, revision, embeddings, quantize } = flags;
  const parts = { vae, controlNet, tokenizer, prediction, refiner, embeddings };
  const all = Object.entries({ ...parts, variant, revision, quantize });
  return Object.fromEntries(all.filter(([, value]) => value !== undefined));
}

function openModel(
  model: string,
  flags: GenerateFlags & Pick<TextToImageOptions, "switchableLoras">,
  console: { readonly io: Console; readonly signal: AbortSignal },
): Promise<TextToImagePipeline> {
  const { vae, controlNet, tokenizer, prediction, refiner, embeddings, variant, lowMemory, quantize, revision } = flags;
  const parts = {
    vae,
    controlNet,
    tokenizer,
    prediction,
    refiner,
    embeddings,
    variant,
    switchableLoras: flags.switchableLoras,
  };
  return withDownloads({ ...console, revision }, (hub) =>
    textToImagePipeline(model, { ...computeOptions(flags), ...parts, hub, lowMemory, quantize }),
  );
}

/** The LoRAs of a plot of LoRAs: it goes from one to the next without loading the network again. */
function lorasOf(axes: readonly (RequestAxis | undefined)[]): string[] {
  const values = axes.flatMap((axis) => (axis?.field === "loras" ? axis.values.map(({ value }) => value) : []));
  return values.flat() as string[];
}

/** The values of the axes at a place. */
function valuesAt(
  { column, row }: Pick<PlotPlace, "column" | "row">,
  { x, y }: { readonly x?: RequestAxis; readonly y?: RequestAxis },
): { readonly x?: unknown; readonly y?: unknown } {
  return { ...(x && { x: x.values[column]!.value }), ...(y && { y: y.values[row]!.value }) };
}

/** [width, height] in pixels that a state's latents stand for, before they were enlarged. */
function drawnSize({ x: { shape } }: TextToImageState, factor: number, { enlarge = 1 }: TextToImageRequestInput) {
  const side = (latents: number) => Math.round((latents * factor) / enlarge);
  return [side(shape[3]!), side(shape[2]!)] as const;
}
