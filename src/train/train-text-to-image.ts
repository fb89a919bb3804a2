import { join } from "node:path";
import { UserError } from "../core/errors.ts";
import { type Dataset, learnVocabulary, openLatents } from "../data/index.ts";
import { trainAutoencoder } from "./autoencoder.ts";
import { openAutoencoder } from "./autoencoder-session.ts";
import type { Condition } from "./condition.ts";
import { splitDataset } from "./dataset.ts";
import { encodeDataset, recordScaling } from "./encode.ts";
import { frozenText } from "./frozen-text.ts";
import { denoiserFor, latentDenoisingTask } from "./latent-denoising.ts";
import { openLatentPreview } from "./latent-preview.ts";
import { type RunControl, runTask, type TrainingEvent, type TrainingResult } from "./run.ts";
import { recordRecipe } from "./run-folder.ts";
import { trainedText } from "./text-condition.ts";
import { writeTextToImage } from "./text-to-image-folder.ts";
import { readTextToImageRecipe, type TextToImageRecipe, type TextToImageRecipeInput } from "./text-to-image-recipe.ts";

/** The parts of training a text-to-image system, in their order. */
export type TextToImageStage = "autoencoder" | "encoding" | "captions" | "denoiser";

/** What happens while a text-to-image system is trained: the events of its runs, with the stage they belong to. */
export type TextToImageEvent =
  | (TrainingEvent & { readonly stage: TextToImageStage })
  | {
      readonly kind: "encoded";
      readonly stage: "encoding" | "captions";
      readonly done: number;
      readonly total: number;
    };

export interface TextToImageControl {
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: TextToImageEvent) => void;
}

/**
 * Trains a text-to-image system as a recipe says: an autoencoder, the latents of all pictures, and a denoiser with its
 * text encoder on these (Rombach et al. 2022). Each stage continues where it stopped, and a finished one is not done
 * again. The result is a pipeline folder in diffusers' layout, `model` in the run's folder.
 *
 * @throws UserError for a recipe or data that cannot be used, and when a loss is no longer a finite number
 */
export async function trainTextToImage(
  input: TextToImageRecipeInput,
  { signal, onEvent }: TextToImageControl = {},
): Promise<TrainingResult> {
  const recipe = readTextToImageRecipe(input);
  const data = await splitDataset(recipe, { share: recipe.holdOut, seed: recipe.seed, signal });
  requireCaptions(data.training);
  await recordRecipe(recipe);
  const control = (stage: TextToImageStage): RunControl => ({
    signal,
    onEvent: onEvent && ((event) => onEvent({ ...event, stage })),
  });

  const made = await autoencoderOf(recipe, data, control("autoencoder"));
  if (made.stopped) return made.stopped;
  const { device, threads } = recipe;
  const out = join(recipe.run, "latents");
  await encodeDataset(data.training, {
    ...{ autoencoder: made.folder, out, device, threads, signal },
    onProgress: ({ done, total }) => onEvent?.({ kind: "encoded", stage: "encoding", done, total }),
  });
  const latents = await openLatents(out);
  try {
    await recordScaling(made.folder, latents);
    const stage = { ...recipe.denoiser, device, threads, run: join(recipe.run, "denoiser") };
    const condition = await conditionOf(recipe, latents.captions!, { signal, onEvent });
    const denoiser = denoiserFor(stage, latents, condition);
    const parts = { latents, condition, denoiser };
    const model = join(recipe.run, "model");
    const autoencoder = await openAutoencoder(made.folder, recipe);
    const task = latentDenoisingTask(stage, parts, {
      preview: (weights) => openLatentPreview(stage, parts, autoencoder, weights),
      async write(weights) {
        await writeTextToImage(model, stage, { denoiser, condition, autoencoder: made.folder }, weights);
        return model;
      },
    });
    try {
      return await runTask(stage, task, control("denoiser"));
    } finally {
      await autoencoder.close();
    }
  } finally {
    latents.close();
  }
}

/** The autoencoder's folder, trained first where the recipe says how. */
async function autoencoderOf(
  { autoencoder, data, size, colour, background, run, device, threads, ...recipe }: TextToImageRecipe,
  { training, heldOut }: { readonly training: Dataset; readonly heldOut: Dataset },
  control: RunControl,
): Promise<{ folder: string; stopped?: TrainingResult }> {
  if (typeof autoencoder === "string") return { folder: autoencoder };
  const { labels, skipUnreadable, holdOut } = recipe;
  const result = await trainAutoencoder(
    {
      ...{ task: "autoencoder", data, size, colour, background, labels, skipUnreadable, holdOut },
      ...autoencoder,
      ...{ run: join(run, "autoencoder"), device, threads },
    },
    { ...control, data: { training: { ...training, flip: autoencoder.flip }, heldOut } },
  );
  return { folder: result.model, ...(result.ended === "stopped" ? { stopped: result } : {}) };
}

/** What turns captions into conditions. */
async function conditionOf(
  { text, denoiser, run, threads }: TextToImageRecipe,
  captions: readonly (readonly string[])[],
  { signal, onEvent }: TextToImageControl,
): Promise<Condition> {
  if (typeof text === "string") {
    return frozenText(text, {
      captions: [...captions.flat(), ...denoiser.sampleCaptions],
      cache: join(run, "captions.safetensors"),
      onProgress: (done, total) => onEvent?.({ kind: "encoded", stage: "captions", done, total }),
      threads,
      signal,
    });
  }
  const { vocabulary: size, ...shape } = text;
  return trainedText({ ...shape, vocabulary: learnVocabulary(captions.flat(), { size }) });
}

function requireCaptions({ name, captions }: Dataset): void {
  if (captions) return;
  throw new UserError(`${name} has no captions.`, {
    hint: "Put a .txt file beside each picture, or a metadata.jsonl with file_name and text into the folder.",
    field: "captions",
  });
}
