import type { z } from "zod";
import { UserError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import {
  type AutoencoderRecipeInput,
  autoencoderRecipeSchema,
  type FineTuneRecipeInput,
  fineTune,
  fineTuneRecipeSchema,
  type RecipeInput,
  recipeSchema,
  type TextToImageEvent,
  type TextToImageRecipeInput,
  type TrainingEvent,
  type TrainingResult,
  textToImageRecipeSchema,
  train,
  trainAutoencoder,
  trainTextToImage,
} from "../train/index.ts";

/** What happens while something is trained. */
export type TaskEvent = TrainingEvent | TextToImageEvent;

/** Stops a training and hears of it. */
export interface TaskControl {
  readonly signal: AbortSignal;
  readonly onEvent: (event: TaskEvent) => void;
}

/** Something that `allegory train` trains. */
export interface TrainingTaskKind {
  /** For people, after "a recipe of". */
  readonly title: string;
  /** The fields of its recipes. */
  readonly schema: z.ZodObject;
  /** Trains as a recipe says that has not been checked yet. */
  readonly train: (recipe: Readonly<Record<string, unknown>>, control: TaskControl) => Promise<TrainingResult>;
  /** What can be done with the model of a run, as a sentence; the run as words of a command. */
  readonly next: (run: string) => string;
  /** Whether a dry run can say what it would take. */
  readonly planned: boolean;
}

/** What a recipe without a task is about. */
export const mainTask: TrainingTaskKind = {
  title: "a diffusion model",
  schema: recipeSchema,
  train: (recipe, control) => train(recipe as RecipeInput, control),
  next: (run) => `Draw with: allegory sample ${run}`,
  planned: true,
};

/** The others, by what a recipe's `task` says. */
export const trainingTasks: Readonly<Record<string, TrainingTaskKind>> = {
  autoencoder: {
    title: "an autoencoder",
    schema: autoencoderRecipeSchema,
    train: (recipe, control) => trainAutoencoder(recipe as AutoencoderRecipeInput, control),
    next: (run) => `What it makes of pictures it never saw: ${run}/samples and ${run}/evaluations.jsonl`,
    planned: false,
  },
  "text-to-image": {
    title: "a text-to-image system",
    schema: textToImageRecipeSchema,
    train: (recipe, control) => trainTextToImage(recipe as TextToImageRecipeInput, control),
    next: (run) => `Draw with: allegory generate "…" --model ${run}/model`,
    planned: false,
  },
  "fine-tune": {
    title: "a fine-tuned model",
    schema: fineTuneRecipeSchema,
    train: (recipe, control) => fineTune(recipe as FineTuneRecipeInput, control),
    next: (run) => `What it draws so far: ${run}/samples`,
    planned: false,
  },
};

/**
 * What a recipe is about.
 * @throws UserError for a task that there is not
 */
export function taskOf({ task }: { readonly task?: unknown }, source = "The recipe"): TrainingTaskKind {
  if (task === undefined) return mainTask;
  if (typeof task === "string" && Object.hasOwn(trainingTasks, task)) return trainingTasks[task]!;
  const known = Object.keys(trainingTasks);
  const meant = typeof task === "string" ? nearest(task, known) : undefined;
  throw new UserError(`${source} is about the task ${JSON.stringify(task)}; there is ${known.join(", ")}.`, {
    hint: `${meant ? `Did you mean ${meant}? ` : ""}Leave task out to train ${mainTask.title}.`,
    field: "task",
  });
}
