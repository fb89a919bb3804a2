/**
 * How good digits are by sampler and number of network calls: the Fréchet distance between drawn and real digits in the
 * features of the digit classifier. `npx tsx bench/sampler-frechet.ts <run or pipeline folder> [options]`
 *
 * Prints a JSON line for each place and appends it to the output file; what that file has already is not drawn again, so
 * the measurement can be stopped and continued. Cheap places go first, but for the reference: DDPM with its most calls.
 */
import { readFile } from "node:fs/promises";
import { Command, InvalidArgumentError } from "commander";
import { messageOf, UserError } from "../src/core/errors.ts";
import { type Dataset, mnistDigits, picturesAt } from "../src/data/index.ts";
import { GRIDS, type GridName, SAMPLERS, type SamplerName } from "../src/diffusion/index.ts";
import { type HostImage, tensorFromImages, writeFileAtomically } from "../src/io/index.ts";
import { type DigitClassifier, judgeDigits, openDigitClassifier } from "../src/metrics/index.ts";
import { chooseSampler, type UnconditionalPipeline, unconditionalPipeline } from "../src/pipelines/index.ts";
import {
  belongs,
  type Column,
  type Comparison,
  type FrechetRow,
  frechetTable,
  isIn,
  nameOf,
  type RealRow,
  withTable,
} from "./frechet-table.ts";
import { digestOf, readLines, writeLine } from "./measured-lines.ts";

/** All but those for distilled networks; and two with another spread of their steps. */
const DEFAULT_SAMPLERS = [
  ...Object.keys(SAMPLERS).filter((name) => name !== "lcm" && name !== "tcd"),
  ...["dpm++2m:karras", "heun:karras"],
];

const number = (text: string) => {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError("a positive number is needed");
  return value;
};
/** `250`, or `1000:200` for another number of digits. */
const columnsOf = (text: string) =>
  text.split(",").map((column): Partial<Column> & Pick<Column, "calls"> => {
    const [calls, count] = column.split(":").map(number) as [number, number?];
    return count === undefined ? { calls } : { calls, count };
  });

const command = new Command("sampler-frechet")
  .argument("<folder>", "a run, or a pipeline folder in diffusers' layout")
  .option(
    "--samplers <list>",
    "samplers, with another spread as name:spread",
    (text) => text.split(","),
    DEFAULT_SAMPLERS,
  )
  .option(
    "--calls <list>",
    "network calls, with another number of digits as calls:digits",
    columnsOf,
    columnsOf("5,10,20,50,100,250,1000"),
  )
  .option("--count <n>", "digits in a place", number, 512)
  .option("--guidance <n>", "weight of classifier-free guidance", number, 1)
  .option("--seed <n>", "seed of the first digit", Number, 0)
  .option("--batch <n>", "digits the network sees at once", number, 64)
  .option("--threads <n>", "threads (default: one a core)", number)
  .option("--minutes <n>", "begin nothing that would end later than this", number, Number.POSITIVE_INFINITY)
  .option("--shared", "other work shares the machine: leave the times out of the table")
  .option("--out <file>", "JSON lines", "bench/results/sampler-frechet.jsonl")
  .option("--table <file>", "page to write the table into, between its marks")
  .parse();

interface Flags {
  readonly samplers: readonly string[];
  readonly calls: ReturnType<typeof columnsOf>;
  readonly count: number;
  readonly guidance: number;
  readonly seed: number;
  readonly batch: number;
  readonly threads?: number;
  readonly minutes: number;
  readonly shared?: boolean;
  readonly out: string;
  readonly table?: string;
}

/** A place that can be drawn: the most steps whose calls are not more than allowed. */
interface Place extends Column {
  readonly sampler: SamplerName;
  readonly spread?: GridName;
  readonly steps: number;
  readonly used: number;
}

/** What the drawn digits are compared with. */
interface Judge {
  readonly classifier: DigitClassifier;
  readonly features: Awaited<ReturnType<DigitClassifier["classify"]>>["features"];
}

const flags = command.opts<Flags>();
const columns = flags.calls.map(({ calls, count = flags.count }): Column => ({ calls, count }));
try {
  await measure(command.args[0]!);
} catch (error) {
  if (!(error instanceof UserError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 2;
}

async function measure(folder: string): Promise<void> {
  const { seed, guidance, threads } = flags;
  const started = performance.now();
  const minutes = () => (performance.now() - started) / 60_000;
  const pipe = await unconditionalPipeline(folder, { threads });
  const comparison: Comparison = { model: await digestOf(pipe.folder.weights.files), seed, guidance };
  const lines = await readLines<FrechetRow | RealRow>(flags.out);
  const rows = lines.filter((line): line is FrechetRow => !("real" in line) && belongs(line, comparison));
  const reals = lines.filter((line): line is RealRow => "real" in line);
  const todo = missingOf(pipe, rows);
  process.stderr.write(`${rows.length} places are there, ${todo.length} to draw\n`);
  const judge = await openJudge(threads);
  try {
    for (const count of new Set(columns.map((column) => column.count))) {
      if (reals.some((real) => real.count === count)) continue;
      const real = { real: true, count, frechet: (await judged(judge, judge.training(count))).frechet } as const;
      reals.push(real);
      await writeLine(flags.out, real);
    }
    if (todo[0]) await pipe.generate({ ...drawing(todo[0]), sampler: "euler", steps: 1 }); // opens the session
    let secondsPerDigit = 0;
    for (const [i, place] of todo.entries()) {
      const left = flags.minutes - minutes();
      if ((place.used * place.count * secondsPerDigit) / 60 > left || left <= 0) continue;
      process.stderr.write(`[${i + 1}/${todo.length}] ${nameOf(place)}, ${place.used} calls, ${place.count} digits\n`);
      const row = await draw(pipe, judge, place, comparison);
      if (!row) continue;
      secondsPerDigit = row.seconds / row.used / row.count;
      rows.push(row);
      await writeLine(flags.out, row);
    }
  } finally {
    await judge.classifier.close();
    await pipe.close();
  }
  const missing = missingOf(pipe, rows).length;
  if (missing > 0) process.stderr.write(`${missing} places are left; the same command continues\n`);
  const table = frechetTable(rows, reals, columns);
  process.stderr.write(`\n${table}\n`);
  if (flags.table) await writeFileAtomically(flags.table, withTable(await readFile(flags.table, "utf8"), table));
}

/** What a place is drawn with: the classes in turn. */
function drawing({ count }: Place) {
  const { seed, guidance, batch } = flags;
  return { count, seed, guidance, batch };
}

async function draw(
  pipe: UnconditionalPipeline,
  judge: Judge,
  place: Place,
  comparison: Comparison,
): Promise<FrechetRow | undefined> {
  const { sampler, spread, steps } = place;
  const started = performance.now();
  try {
    const images = await pipe.generate({ ...drawing(place), sampler, spread, steps });
    const seconds = Number(((performance.now() - started) / 1000).toFixed(2));
    const shared = flags.shared ? { shared: true } : {};
    return { ...comparison, ...place, ...(await judged(judge, images)), seconds, ...shared };
  } catch (error) {
    // A network that overflows at few steps is a finding about the sampler; the others go on.
    process.stderr.write(`  ${messageOf(error)}\n`);
    return undefined;
  }
}

async function judged({ classifier, features }: Judge, images: readonly HostImage[]) {
  const { frechet, kernel, confident } = await judgeDigits(classifier, tensorFromImages(images), features);
  return { frechet, kernel, confident };
}

async function openJudge(threads: number | undefined) {
  const classifier = await openDigitClassifier(undefined, { threads });
  const first = (dataset: Dataset, count: number) =>
    picturesAt(
      dataset,
      Array.from({ length: count }, (_, i) => i),
    );
  const test = await mnistDigits({ split: "test", padTo: 32 });
  const train = await mnistDigits({ split: "train", padTo: 32 });
  const { features } = await classifier.classify(tensorFromImages(first(test, test.count)));
  return { classifier, features, training: (count: number) => first(train, count) };
}

/** The places that are not measured yet. */
function missingOf(pipe: UnconditionalPipeline, rows: readonly FrechetRow[]): Place[] {
  return placesOf(pipe).filter((place) => !rows.some((row) => nameOf(row) === nameOf(place) && isIn(row, place)));
}

/** Every place that the samplers can draw, in the order they are drawn in. */
function placesOf(pipe: UnconditionalPipeline): Place[] {
  const places = flags.samplers.flatMap((text): Place[] => {
    const [sampler, spread] = text.split(":") as [SamplerName, GridName?];
    if (!Object.hasOwn(SAMPLERS, sampler)) throw new UserError(`There is no sampler "${sampler}".`);
    if (spread && !GRIDS.includes(spread)) throw new UserError(`There is no spread "${spread}".`);
    const configured = chooseSampler(pipe.folder.scheduler, sampler, spread);
    const callsOf = (steps: number) => {
      try {
        return configured.plan({ steps }).timesteps.length;
      } catch (error) {
        if (error instanceof UserError && error.options.field === "steps") return undefined;
        throw error;
      }
    };
    return columns.flatMap(({ calls, count }): Place[] => {
      const { callsPerStep } = SAMPLERS[sampler];
      // One step more than fits by its calls a step: the last step of some has one call less.
      for (let steps = Math.floor(calls / callsPerStep) + 1; steps > 0; steps--) {
        const used = callsOf(steps);
        if (used !== undefined && used <= calls)
          return [{ sampler, ...(spread ? { spread } : {}), calls, count, steps, used }];
      }
      return [];
    });
  });
  const most = Math.max(...columns.map(({ calls }) => calls));
  const turn = ({ sampler, spread, calls }: Place) =>
    sampler === "ddpm" && spread === undefined && calls === most ? 20.5 : calls;
  return places.sort((a, b) => turn(a) - turn(b));
}
