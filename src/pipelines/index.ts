import { UserError } from "../core/errors.ts";
import { wordlessPipeline } from "./dit.ts";
import { textToImagePipeline } from "./text-to-image/index.ts";
import type { TextToImageOptions, TextToImagePipeline } from "./text-to-image/pipeline-types.ts";
import { type UnconditionalOptions, type UnconditionalPipeline, unconditionalPipeline } from "./unconditional.ts";

export { chooseSampler } from "./choose-sampler.ts";
export { wordlessPipeline } from "./dit.ts";
export type { ComputeOptions } from "./part-sessions.ts";
export { isPicturePath, type PictureInput } from "./picture-input.ts";
export { openSingleFile, type SingleFile } from "./single-file.ts";
export { type WriteSingleFileOptions, writeSingleFileAsFolder } from "./single-file-folder.ts";
export type { AttentionOptions, TokenAttention } from "./text-to-image/attention-maps.ts";
export { textToImagePipeline } from "./text-to-image/index.ts";
export {
  type OpenedWith,
  PARAMETERS_KEY,
  type PictureNotes,
  type PictureRecord,
  parametersText,
  parseParameters,
  pictureNotes,
  REQUEST_KEY,
  readPictureNotes,
} from "./text-to-image/parameters.ts";
export type {
  ResolvedRequest,
  TextToImageOptions,
  TextToImagePicture,
  TextToImagePipeline,
  TextToImageRunOptions,
  TextToImageState,
} from "./text-to-image/pipeline-types.ts";
export type { PromptTable, PromptToken } from "./text-to-image/prompt-tokens.ts";
export {
  type TextToImageRequest,
  type TextToImageRequestInput,
  textToImageRequest,
} from "./text-to-image/request.ts";
export {
  type GeneratedImage,
  type GenerateOptions,
  type GenerationState,
  type UnconditionalOptions,
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

/** What each task's pipeline is, and what it can be opened with. */
interface Tasks {
  "unconditional-image-generation": { pipeline: UnconditionalPipeline; options: UnconditionalOptions };
  /** The same for a model with classes. */
  "class-to-image": { pipeline: UnconditionalPipeline; options: UnconditionalOptions };
  "text-to-image": { pipeline: TextToImagePipeline; options: TextToImageOptions };
  /** The same, whose requests must have an image. */
  "image-to-image": { pipeline: TextToImagePipeline; options: TextToImageOptions };
  /** The same, whose requests must have an image and a mask. */
  inpainting: { pipeline: TextToImagePipeline; options: TextToImageOptions };
}

/** A task that `pipeline` knows. */
export type Task = keyof Tasks;

const OPEN: { readonly [T in Task]: (path: string, options: Tasks[T]["options"]) => Promise<Tasks[T]["pipeline"]> } = {
  "unconditional-image-generation": unconditionalPipeline,
  "class-to-image": async (path, options) => {
    const opened = await wordlessPipeline(path, options);
    if (opened.folder.classes) return opened;
    throw new UserError(`${path} has no classes.`, {
      hint: "Its task is unconditional-image-generation.",
      field: "task",
    });
  },
  "text-to-image": textToImagePipeline,
  "image-to-image": (path, options) => textToImagePipeline(path, { ...options, needs: ["image"] }),
  inpainting: (path, options) => textToImagePipeline(path, { ...options, needs: ["image", "mask"] }),
};

/**
 * Opens a model for a task.
 *
 * @param path a run folder, a folder in diffusers' layout, or `org/name` of the Hugging Face hub
 * @param options where to compute, and what the task's models can be opened with
 * @throws UserError for an unknown task, or a folder that holds no model for it
 */
export async function pipeline<T extends Task>(
  task: T,
  path: string,
  options: Tasks[T]["options"] = {},
): Promise<Tasks[T]["pipeline"]> {
  if (Object.hasOwn(OPEN, task)) return OPEN[task](path, options);
  throw new UserError(`There is no task "${String(task)}".`, {
    hint: `The tasks are ${Object.keys(OPEN).join(", ")}.`,
    field: "task",
  });
}
