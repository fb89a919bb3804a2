/**
 * Whether a text-to-image model answers to words, measured with emoji: it draws pictures for the labels of training
 * pictures at some weights of the prompt, and the retrieval model of models/emoji-retrieval judges them.
 * `npx tsx bench/emoji-judgement.ts [pipeline folder] [options]`
 *
 * Prints a JSON line for each weight and appends it to the output file; what that file has already is not drawn again, so
 * the measurement can be stopped and continued.
 */
import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Command, InvalidArgumentError, Option } from "commander";
import { UserError } from "../src/core/errors.ts";
import { SAMPLERS, type SamplerName } from "../src/diffusion/index.ts";
import { type HostImage, resizeImage, saveImage, tensorFromImages, writeFileAtomically } from "../src/io/index.ts";
import { distancesToHalves, judgeAlignment, NEIGHBOURS, openCaptionRetrieval } from "../src/metrics/index.ts";
import { pipeline } from "../src/pipelines/index.ts";
import { type EmojiReference, emojiReference, flat, summaryOf } from "./emoji-reference.ts";
import { belongsTo, type EmojiComparison, type EmojiRow, emojiTable, withEmojiTable } from "./emoji-table.ts";
import { digestOf, readLines, writeLine } from "./measured-lines.ts";
import { neighbourSheet } from "./neighbour-sheet.ts";

const number = (text: string) => {
  const value = Number(text);
  if (text.trim() === "" || !(value >= 0)) throw new InvalidArgumentError("a number from 0 is needed");
  return value;
};
const numbers = (text: string) => text.split(",").map(number);

const command = new Command("emoji-judgement")
  .argument("[folder]", "a text-to-image pipeline in diffusers' layout; without one, real pictures are judged alone")
  .option("--guidance <list>", "weights of the prompt", numbers, [1, 3, 5, 7.5])
  .option("--pictures <n>", "pictures for each weight, as many for each caption", number, 200)
  .option("--captions <n>", "labels of training pictures, chosen by the seed", number, 100)
  .option("--steps <n>", "steps of the sampler", number, 25)
  .addOption(new Option("--sampler <name>", "sampler").choices(Object.keys(SAMPLERS)).default("dpm++2m"))
  .option("--seed <n>", "chooses the captions, and is the seed of the first picture", number, 0)
  .option("--batch <n>", "pictures the network sees at once", number, 20)
  .option("--threads <n>", "threads (default: one a core)", number)
  .addOption(new Option("--split <name>", "emoji the model was trained on").choices(["train", "all"]).default("train"))
  .option("--skins", "it was trained on pictures of skin tones too", false)
  .option("--judge <folder>", "retrieval model", fileURLToPath(new URL("../models/emoji-retrieval", import.meta.url)))
  .option("--out <file>", "JSON lines", "bench/results/emoji-judgement.jsonl")
  .option("--table <file>", "page to write the table into, between its marks")
  .option("--sheet <file>", "drawn pictures beside their nearest training pictures (.png, .jpg, .webp)")
  .option("--sheet-guidance <n>", "the weight whose pictures the sheet shows", number, 3)
  .parse();

interface Flags {
  readonly guidance: readonly number[];
  readonly pictures: number;
  readonly captions: number;
  readonly steps: number;
  readonly sampler: SamplerName;
  readonly seed: number;
  readonly batch: number;
  readonly threads?: number;
  readonly split: "train" | "all";
  readonly skins: boolean;
  readonly judge: string;
  readonly out: string;
  readonly table?: string;
  readonly sheet?: string;
  readonly sheetGuidance: number;
}

const flags = command.opts<Flags>();
try {
  await measure(command.args[0]);
} catch (error) {
  if (!(error instanceof UserError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 2;
}

async function measure(folder: string | undefined): Promise<void> {
  const { pictures, captions, seed, sampler, steps, split, skins, threads, sheet, sheetGuidance } = flags;
  if (pictures % captions !== 0) {
    throw new UserError(`${pictures} pictures cannot be drawn of ${captions} captions, as many of each.`);
  }
  const comparison: EmojiComparison = {
    ...{ judge: await digestOfFolder(flags.judge), model: folder ? await digestOfFolder(folder) : "" },
    ...{ pictures, captions, seed, sampler, steps, trainedOn: `${split}${skins ? ", with skin tones" : ""}` },
  };
  const rows = (await readLines<EmojiRow>(flags.out)).filter((row) => belongsTo(row, comparison));
  const measured = (guidance: number) => rows.some((row) => row.guidance === guidance);
  const forSheet = (guidance: number) => sheet !== undefined && guidance === sheetGuidance && !existsSync(sheet);
  const todo = folder ? flags.guidance.filter((guidance) => !measured(guidance) || forSheet(guidance)) : [];
  if (folder) process.stderr.write(`${rows.length} weights are measured, ${todo.length} to draw\n`);

  const judge = await openCaptionRetrieval(flags.judge, { threads });
  const reference = await emojiReference(judge, { captions, pictures, seed, split, skins });
  const pipe = folder ? await pipeline("text-to-image", folder, { threads }) : undefined;
  const size = judge.config.image_size;
  const each = pictures / captions;
  const asked = Uint32Array.from({ length: pictures }, (_, i) => Math.floor(i / each));
  try {
    for (const guidance of todo) {
      const started = performance.now();
      const request = { prompt: [...reference.captions], count: each, seed, steps, sampler, guidance };
      const drawn = await pipe!.generate({ ...request, batch: flags.batch });
      const seconds = Number(((performance.now() - started) / 1000).toFixed(1));
      const images = await inSize(drawn, size);
      const { alignment, distances, nearness } = await judged(images, asked, reference);
      if (!measured(guidance)) {
        const row: EmojiRow = { ...comparison, guidance, alignment, ...distances, nearness: nearness.shares, seconds };
        rows.push(row);
        await writeLine(flags.out, row);
      }
      if (forSheet(guidance)) {
        const prompts = drawn.map(({ prompt }) => prompt);
        const title = `Guidance ${guidance}: drawn pictures and their nearest training pictures, from the nearest to the farthest`;
        const shown = { prompts, title, shown: 20 };
        await saveImage(sheet!, await neighbourSheet(images, reference.training, nearness, shown));
      }
    }
  } finally {
    await judge.close();
    await pipe?.close();
  }
  const table = emojiTable(rows, reference.real);
  process.stderr.write(`\n${table}\n`);
  if (flags.table) await writeFileAtomically(flags.table, withEmojiTable(await readFile(flags.table, "utf8"), table));

  async function judged(images: readonly HostImage[], asked: Uint32Array, real: EmojiReference) {
    const tensor = tensorFromImages(images);
    const { top1, top5, top10, features } = await judgeAlignment(judge, tensor, { captions: real.captions, asked });
    const found = real.nearness({ features, pixels: flat(tensor) });
    const own = asked.filter(
      (caption, i) => found.features.neighbours.indices[i * NEIGHBOURS] === real.owners[caption],
    );
    return {
      alignment: { top1, top5, top10 },
      distances: distancesToHalves(features, real.features),
      nearness: { ...found, shares: { own: own.length / asked.length, ...summaryOf(found) } },
    };
  }
}

/** Pictures of another size scaled to that of the judge. */
async function inSize(images: readonly HostImage[], size: number): Promise<HostImage[]> {
  const other = images.find(({ width, height }) => width !== size || height !== size);
  if (!other) return [...images];
  process.stderr.write(`pictures of ${other.width}×${other.height} are judged at ${size}×${size}\n`);
  return Promise.all(images.map((image) => resizeImage(image, size)));
}

/** What the weights, configurations and vocabularies of a folder and its sub-folders hold. */
async function digestOfFolder(folder: string): Promise<string> {
  if (!existsSync(folder)) throw new UserError(`There is no folder ${folder}.`);
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile() && /\.(safetensors|json|txt)$/.test(entry.name));
  return digestOf(files.map((entry) => join(entry.parentPath, entry.name)).sort());
}
