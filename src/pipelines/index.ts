import { UserError } from "../core/errors.ts";
import type { ComputeOptions } from "./part-sessions.ts";
import { type UnconditionalPipeline, unconditionalPipeline } from "./unconditional.ts";

export { chooseSampler } from "./choose-sampler.ts";
export type { ComputeOptions } from "./part-sessions.ts";
export { isPicturePath, type PictureInput } from "./picture-input.ts";
export {
  type ResolvedRequest,
  type StableDiffusionOptions,
  type StableDiffusionPipeline,
  stableDiffusionPipeline,
  type TextToImagePicture,
  type TextToImageRunOptions,
  type TextToImageState,
} from "./stable-diffusion/index.ts";
export {
  type TextToImageRequest,
  type TextToImageRequestInput,
  textToImageRequest,
} from "./stable-diffusion/request.ts";
export {
  type GeneratedImage,
  type GenerateOptions,
  type GenerationState,
  type UnconditionalPipeline,
  unconditionalPipeline,
} from "./unconditional.ts";
export {
  type Classes,
  PATCHED_PIPELINE,
  readUnconditionalFolder,
  type UnconditionalFolder,
} from "./unconditional-folder.ts";
export {
  type UnconditionalRequest,
  type UnconditionalRequestInput,
  unconditionalRequest,
} from "./unconditional-request.ts";

/** What each task's pipeline is. */
interface Pipelines {
  "unconditional-image-generation": UnconditionalPipeline;
  /** The same for a model with classes. */
  "class-to-image": UnconditionalPipeline;
}

/** A task that `pipeline` knows. */
export type Task = keyof Pipelines;

/**
 * Opens a model for a task.
 *
 * @param path a run folder, or a folder in diffusers' layout
 * @param options where to compute
 * @throws UserError for an unknown task, or a folder that holds no model for it
 */
export async function pipeline<T extends Task>(
  task: T,
  path: string,
  options: ComputeOptions = {},
): Promise<Pipelines[T]> {
  if (task !== "unconditional-image-generation" && task !== "class-to-image") {
    throw new UserError(`There is no task "${String(task)}".`, {
      hint: "The tasks are unconditional-image-generation and class-to-image.",
      field: "task",
    });
  }
  const opened = await unconditionalPipeline(path, options);
  if (task === "class-to-image" && !opened.folder.classes) {
    throw new UserError(`${path} has no classes.`, {
      hint: "Its task is unconditional-image-generation.",
      field: "task",
    });
  }
  return opened;
}
