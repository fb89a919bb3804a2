import { existsSync } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { UserError } from "../core/errors.ts";
import {
  chosenVariants,
  isPipelineFolder,
  type JsonObject,
  type PipelineComponent,
  readJsonObject,
  readPipelineFolder,
  UNUSED_COMPONENTS,
} from "../io/index.ts";
import { networks } from "../models/index.ts";
import { ADAPTER_FILES, EMBEDDING_FILE } from "../pipelines/adapters.ts";
import { checkpointFiles, readProgress, runPaths } from "../train/index.ts";
import { inspectFile } from "./inspected-file.ts";
import { type ModelFacts, modelFacts, type TensorFacts } from "./model-facts.ts";
import { type ScheduleFacts, scheduleFacts } from "./schedule-facts.ts";

/** A training run. */
export interface RunFacts {
  readonly recipe: JsonObject;
  readonly step: number;
  readonly steps: number;
  readonly seconds: number;
  readonly loss: number | undefined;
  readonly checkpoints: readonly string[];
}

/** What lies at a path. */
export interface Inspection {
  readonly what: string;
  readonly path: string;
  /** Metadata and the like, in words. */
  readonly notes: Readonly<Record<string, string>>;
  readonly run?: RunFacts;
  readonly models: readonly ModelFacts[];
  readonly schedule?: ScheduleFacts;
  readonly tensors?: readonly TensorFacts[];
  /** Why it cannot be used as it is: parts that are missing, and weights that do not make their networks. */
  readonly problems: readonly string[];
}

export interface InspectOptions {
  /** Of the weights, such as `fp16`. Default: those without one, or the only ones that there are. */
  readonly variant?: string;
}

/**
 * Finds out what lies at a path: headers and configurations are read, weights are not.
 * @throws UserError for anything but a run, a checkpoint, a safetensors file, a model, a pipeline, a LoRA or learned words
 */
export async function inspectPath(path: string, options: InspectOptions = {}): Promise<Inspection> {
  const { variant } = options;
  const kind = await stat(path);
  if (!kind.isDirectory()) {
    if (kind.isFile()) return inspectFile(path);
    throw new UserError(`${path} is neither a file nor a folder.`);
  }
  if (existsSync(runPaths(path).recipe)) return inspectRun(path, options);
  if (isPipelineFolder(path)) return { path, ...(await inspectPipeline(path, options)) };
  if (existsSync(join(path, "config.json"))) {
    const model = await modelFacts(path, basename(path), variant);
    return { what: "model folder", path, notes: {}, models: [model], problems: misfits([model]) };
  }
  if (existsSync(join(path, "scheduler_config.json"))) {
    const schedule = await scheduleFacts(path);
    return { what: "scheduler folder", path, notes: {}, models: [], schedule, problems: [] };
  }
  const learned = learnedFile(path);
  if (learned) return { ...(await inspectFile(learned)), path };
  throw new UserError(`${path} is neither a run, nor a model, nor a pipeline, nor a LoRA.`, {
    hint: `A run has recipe.json, a model config.json and weights, a pipeline model_index.json, what was learned beside a model ${[...ADAPTER_FILES, EMBEDDING_FILE].join(" or ")}.`,
  });
}

/** The file of a LoRA or of learned words in a folder. */
function learnedFile(folder: string): string | undefined {
  return [...ADAPTER_FILES, EMBEDDING_FILE].map((name) => join(folder, name)).find((file) => existsSync(file));
}

/** The networks whose weights do not make them. */
function misfits(models: readonly ModelFacts[]): string[] {
  return models
    .filter(({ built, problem }) => built && problem !== undefined)
    .map(({ name }) => `${name} cannot be built from its files`);
}

async function inspectRun(path: string, options: InspectOptions): Promise<Inspection> {
  const paths = runPaths(path);
  const recipe = await readJsonObject(paths.recipe);
  const checkpoints = await checkpointFiles(paths.checkpoints);
  const newest = checkpoints.at(-1);
  const progress = newest ? await readProgress(join(paths.checkpoints, newest)) : undefined;
  const run: RunFacts = {
    recipe,
    step: progress?.step ?? 0,
    steps: Number(recipe.steps),
    seconds: progress?.seconds ?? 0,
    loss: await lastLoss(paths.metrics),
    checkpoints,
  };
  const learned = learnedFile(paths.model);
  const model = isPipelineFolder(paths.model)
    ? await inspectPipeline(paths.model, options)
    : learned
      ? await inspectFile(learned)
      : { notes: {}, models: [], problems: [] };
  return { ...model, what: "training run", path, run };
}

async function lastLoss(file: string): Promise<number | undefined> {
  const text = await readFile(file, "utf8").catch(() => "");
  // The last line may be half written while the run goes on.
  for (const line of text.trimEnd().split("\n").slice(-2).reverse()) {
    try {
      return (JSON.parse(line) as { loss: number }).loss;
    } catch {}
  }
  return undefined;
}

async function inspectPipeline(path: string, { variant }: InspectOptions): Promise<Omit<Inspection, "path">> {
  const { className, components, options } = await readPipelineFolder(path);
  const index = await readJsonObject(join(path, "model_index.json"));
  const models: ModelFacts[] = [];
  const problems: string[] = [];
  const notes: Record<string, string> = {};
  let schedule: ScheduleFacts | undefined;
  // A list of two names is one of classes.
  const listed = [...components].filter(([name]) => name !== "classes");
  const folders = listed.flatMap(([name, component]) => folderOf(path, name, component) ?? []);
  const variants = await chosenVariants(folders, variant);
  for (const [name, component] of listed) {
    const folder = folderOf(path, name, component);
    try {
      if (name === "scheduler" && folder) schedule = await scheduleFacts(folder);
      else if (folder && existsSync(join(folder, "config.json")))
        models.push(await modelFacts(folder, name, variants.of(folder)));
      else {
        notes[name] = component.className;
        if (folder && Object.hasOwn(networks, component.className)) problems.push(`${name} has no config.json`);
        else if (!folder && !UNUSED_COMPONENTS.includes(name)) problems.push(`${component.path} is missing`);
      }
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      notes[name] = component.className;
      problems.push(`${name}: ${error.message}`);
    }
  }
  if (Array.isArray(index.classes)) notes.classes = index.classes.join(", ");
  for (const [name, value] of Object.entries(options)) if (name !== "classes") notes[name] = JSON.stringify(value);
  const what = `pipeline folder (${className})`;
  return { what, notes, models, problems: [...problems, ...misfits(models)], ...(schedule ? { schedule } : {}) };
}

/** Where a component's files are. The first published pipelines have them beside model_index.json. */
function folderOf(pipeline: string, name: string, { path }: PipelineComponent): string | undefined {
  if (existsSync(path)) return path;
  const file = name === "scheduler" ? "scheduler_config.json" : "config.json";
  return existsSync(join(pipeline, file)) ? pipeline : undefined;
}
