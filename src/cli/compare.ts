import { basename, resolve } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { UserError } from "../core/errors.ts";
import { validated } from "../core/validated.ts";
import { SAMPLERS, type SamplerName } from "../diffusion/index.ts";
import { contactSheet, encodeImage, type HostImage, imageGrid, writeFileAtomically } from "../io/index.ts";
import {
  chooseSampler,
  type UnconditionalPipeline,
  type UnconditionalRequestInput,
  unconditionalPipeline,
  unconditionalRequest,
} from "../pipelines/index.ts";
import { addComputeOptions, type ComputeFlags, computeOptions } from "./compute-options.ts";
import type { Console } from "./console.ts";
import { withDownloads } from "./downloads.ts";
import { duration, short, table } from "./format.ts";
import { interruptible } from "./interrupt.ts";
import { checkNoFolder, pictureFormat } from "./picture-files.ts";
import { bar } from "./progress-line.ts";
import { addSchemaOptions, givenOptions } from "./schema-options.ts";

/** What one comparison draws with all samplers. */
const shared = unconditionalRequest
  .pick({
    ...{ seed: true, class: true, guidance: true, guidanceRescale: true, guidanceInterval: true },
    ...{ count: true, spread: true, size: true },
  })
  .extend({ count: unconditionalRequest.shape.count.unwrap().default(1).describe("pictures in each place") });

interface CompareFlags extends ComputeFlags {
  readonly samplers: string[];
  readonly steps: number[];
  readonly out?: string;
  readonly json?: boolean;
  readonly variant?: string;
  readonly revision?: string;
}

/** One sampler at one number of steps; without pictures where the sampler cannot take so few. */
interface Place {
  readonly sampler: SamplerName;
  readonly steps: number;
  readonly calls?: number;
  readonly seconds?: number;
  readonly image?: HostImage;
  readonly reason?: string;
}

/** About how many pixels wide the longer side of a place is. */
const PLACE_PIXELS = 96;

/** `allegory compare`: the same seed by several samplers and numbers of steps, on one sheet. */
export function compareCommand(program: Command, io: Console): void {
  const command = program
    .command("compare")
    .summary("draw one seed with several samplers and steps, side by side")
    .description("Draw the same seed with several samplers and numbers of steps, as one labelled sheet, and time them.")
    .argument("<model>", "run folder, diffusers folder, or org/name of the hub")
    .option("--samplers <list>", "samplers, each a row", words, ["ddim", "euler-ancestral", "heun", "dpm++2m", "unipc"])
    .option("--steps <list>", "numbers of steps, each a column", numbers, [5, 10, 20, 50]);
  addSchemaOptions(command, shared);
  command
    .option("--out <file>", "picture file")
    .option("--variant <name>", "take the weights of this variant, for example fp16")
    .option("--revision <name>", "branch, tag or commit of a model of the hub (default: main)")
    .option("--json", "print places and times as JSON");
  addComputeOptions(command);
  command.action(async (model: string, flags: CompareFlags) => {
    const request = validated(shared, givenOptions(command, shared));
    const announce = () => io.remark("Stopping; nothing is written. Ctrl-C again ends at once.");
    await interruptible(announce, (signal) => compare(model, request, flags, { io, signal }));
  });
}

type Shared = Pick<UnconditionalRequestInput, keyof typeof shared.shape>;

async function compare(
  model: string,
  request: Shared,
  flags: CompareFlags,
  { io, signal }: { readonly io: Console; readonly signal: AbortSignal },
): Promise<void> {
  const name = basename(resolve(model));
  const out = flags.out ?? `${name}-samplers.png`;
  const format = pictureFormat(out);
  await checkNoFolder(out);
  const samplers = flags.samplers.map(knownSampler);
  const { variant, revision } = flags;
  const pipe = await withDownloads({ io, signal, revision }, (hub) =>
    unconditionalPipeline(model, { ...computeOptions(flags), variant, hub }),
  );
  const places: Place[] = [];
  const notes = new Map<SamplerName, string>();
  try {
    for (const warning of pipe.folder.warnings) io.remark(`note: ${warning}`);
    const planned = samplers.flatMap((sampler) =>
      flags.steps.map((steps) => plannedPlace(pipe, sampler, steps, request)),
    );
    const possible = planned.find(({ calls }) => calls !== undefined);
    if (!possible) throw new UserError(`None of these can be drawn: ${planned[0]!.reason}`);
    // The first session is opened outside of the times.
    await pipe.generate({ ...request, sampler: "euler", steps: 1, spread: undefined }, { signal });
    const total = planned.reduce((sum, { calls = 0 }) => sum + calls, 0);
    const progress = io.progress();
    let done = 0;
    for (const place of planned) {
      progress.update(`${bar(done / total)} ${place.sampler}, ${place.steps} steps`);
      places.push(place.calls === undefined ? place : await drawn(pipe, place, request, { signal, notes }));
      done += place.calls ?? 0;
    }
    progress.clear();
    for (const note of notes.values()) io.remark(`note: ${note}`);
  } finally {
    await pipe.close();
  }
  const facts = { model: name, ...request, samplers, steps: flags.steps };
  const sheet = await sheetOf(places, samplers, flags.steps, `${name}, seed ${request.seed}`);
  await writeFileAtomically(out, await encodeImage(sheet, format, { text: { allegory: JSON.stringify(facts) } }));
  if (flags.json) {
    io.json({ file: out, ...facts, places: places.map(({ image: _, ...rest }) => rest), device: pipe.device()?.name });
    return;
  }
  const rows = places.map(({ sampler, steps, calls, seconds, reason }) =>
    seconds === undefined ? [sampler, steps, "-", reason!] : [sampler, steps, calls!, `${short(seconds)} s`],
  );
  io.print(table([["sampler", "steps", "calls", "time"], ...rows]));
  io.print(`all in ${duration(places.reduce((sum, { seconds = 0 }) => sum + seconds, 0))}`);
  io.print(`  ${out}`);
}

/** The calls of a place; the reason where a sampler cannot take so few steps. Other mistakes are thrown. */
function plannedPlace(pipe: UnconditionalPipeline, sampler: SamplerName, steps: number, { spread }: Shared): Place {
  const configured = chooseSampler(pipe.folder.scheduler, sampler, spread);
  try {
    return { sampler, steps, calls: configured.plan({ steps }).timesteps.length };
  } catch (error) {
    if (!(error instanceof UserError) || error.options.field !== "steps") throw error;
    return { sampler, steps, reason: error.message.split("\n")[0]! };
  }
}

/** Draws a place; of what is noted about a sampler, the first is kept. */
async function drawn(
  pipe: UnconditionalPipeline,
  place: Place,
  request: Shared,
  { signal, notes }: { readonly signal: AbortSignal; readonly notes: Map<SamplerName, string> },
): Promise<Place> {
  const { sampler, steps } = place;
  const onNote = (note: string) => void (notes.has(sampler) || notes.set(sampler, note));
  const started = performance.now();
  const images = await pipe.generate({ ...request, sampler, steps }, { signal, onNote });
  const seconds = (performance.now() - started) / 1000;
  return { ...place, seconds, image: images.length === 1 ? images[0]! : await imageGrid(images, { gap: 1 }) };
}

function sheetOf(
  places: readonly Place[],
  samplers: readonly string[],
  steps: readonly number[],
  title: string,
): Promise<HostImage> {
  const { width, height, channels } = places.find(({ image }) => image)!.image!;
  return contactSheet(
    places.map(({ image }) => image),
    {
      rows: samplers,
      columns: steps.map((count) => `${count} ${count === 1 ? "step" : "steps"}`),
      title,
      scale: Math.max(1, Math.floor(PLACE_PIXELS / Math.max(width, height))),
      background: channels === 1 ? "#404040" : "#ffffff",
    },
  );
}

function knownSampler(name: string): SamplerName {
  if (Object.hasOwn(SAMPLERS, name)) return name as SamplerName;
  throw new UserError(`There is no sampler "${name}".`, {
    hint: `There are ${Object.keys(SAMPLERS).join(", ")}; \`allegory samplers\` says more.`,
    field: "samplers",
  });
}

function words(text: string): string[] {
  const list = text.split(",").map((word) => word.trim());
  if (list.some((word) => word === "")) throw new InvalidArgumentError("A list such as a,b,c is needed.");
  return list;
}

function numbers(text: string): number[] {
  return words(text).map((word) => {
    if (!/^[1-9]\d*$/.test(word)) throw new InvalidArgumentError("A list of whole numbers from 1 on is needed.");
    return Number(word);
  });
}
