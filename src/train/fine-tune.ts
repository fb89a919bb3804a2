import { join } from "node:path";
import { UserError } from "../core/errors.ts";
import { type Dataset, type LatentDataset, openLatents } from "../data/index.ts";
import type { Tensor } from "../graph/index.ts";
import { type Adaptation, ownParameters } from "./adaptation.ts";
import { type AutoencoderSession, openAutoencoder } from "./autoencoder-session.ts";
import type { Condition } from "./condition.ts";
import { consistencyDistillation } from "./consistency-distillation.ts";
import { datasetOf } from "./dataset.ts";
import { encodeDataset } from "./encode.ts";
import { type FewStepNetwork, fewStepNetwork } from "./few-step-network.ts";
import {
  type FineTuneMethod,
  type FineTuneRecipe,
  type FineTuneRecipeInput,
  readFineTuneRecipe,
} from "./fine-tune-recipe.ts";
import { fineTuningTask, predictionOf } from "./fine-tuning.ts";
import { frozenText } from "./frozen-text.ts";
import { openCaptionPreview } from "./latent-preview.ts";
import { loadedText } from "./loaded-text.ts";
import { lowRankUpdates } from "./lora-adaptation.ts";
import { weightingOf } from "./noise-fields.ts";
import type { Objective, ScheduleObjective } from "./objective.ts";
import { type BaseModel, openBaseModel } from "./pretrained-model.ts";
import { priorPictures } from "./prior-pictures.ts";
import { type RunControl, runTask, type TrainingResult } from "./run.ts";
import { runPaths } from "./run-folder.ts";
import type { TrainingTask } from "./task.ts";
import { newWord } from "./word-adaptation.ts";

export interface FineTuneOptions extends RunControl {
  /** Data that is already open; otherwise the recipe's is. */
  readonly dataset?: Dataset;
}

/**
 * Trains a Stable Diffusion model further as a recipe says: some of its parameters, a LoRA, a new word, or a network that
 * draws in few steps, which the model teaches. A run folder that holds a checkpoint is continued, and ends as if it had never been interrupted.
 * What was learned is in `model` of the run's folder: a pipeline folder, a LoRA or embeddings.
 *
 * @throws UserError for a recipe, a model or data that cannot be used, and when the loss is no longer a finite number
 */
export async function fineTune(input: FineTuneRecipeInput, options: FineTuneOptions = {}): Promise<TrainingResult> {
  const recipe = readFineTuneRecipe(input);
  const { signal } = options;
  const base = await openBaseModel(recipe.model, { variant: recipe.variant, revision: recipe.revision, signal });
  const objective = objectiveOf(base, recipe);
  const learning = await learningOf(base, recipe, objective);
  const dataset = withPrompts(options.dataset ?? (await datasetFor(recipe, signal)), recipe);
  if (learning.kind === "adaptation") requireOwnWord(learning.adaptation, dataset.captions!);
  const autoencoder = await openAutoencoder(base.vae, { ...recipe, variant: base.variants.of(base.vae) });
  const opened: LatentDataset[] = [];
  try {
    const encode = async (data: Dataset, name: string) => {
      const latents = await latentsOf(data, autoencoder, { base, recipe, name, signal });
      opened.push(latents);
      return latents;
    };
    const latents = await encode(dataset, "latents");
    const prior =
      recipe.prior &&
      (await priorPictures(base, recipe, latents, { encode: (data) => encode(data, "prior-latents"), signal }));
    const texts = [...latents.captions!, ...(prior?.captions ?? []), recipe.sampleCaptions].flat();
    const own = learning.kind === "adaptation" ? learning.adaptation : { learnsText: false };
    const condition = await conditionOf(base, own, recipe, texts, signal);
    const task = taskOf(recipe, learning, { base, condition, objective, latents, prior, autoencoder });
    return await runTask(recipe, task, options);
  } finally {
    for (const latents of opened) latents.close();
    await autoencoder.close();
  }
}

/** What learns: a part of the model, or a network that the model teaches. */
type Learning =
  | { readonly kind: "adaptation"; readonly adaptation: Adaptation }
  | {
      readonly kind: "distillation";
      readonly method: FineTuneMethod<"distillation">;
      readonly student: FewStepNetwork;
      readonly objective: ScheduleObjective;
    };

async function learningOf(base: BaseModel, { method }: FineTuneRecipe, objective: Objective): Promise<Learning> {
  switch (method.kind) {
    case "full":
      return { kind: "adaptation", adaptation: await ownParameters(base, method) };
    case "lora":
      return { kind: "adaptation", adaptation: lowRankUpdates(base, method) };
    case "textual-inversion":
      return { kind: "adaptation", adaptation: await newWord(base, method) };
    case "distillation": {
      if (objective.predict !== "flow") {
        return { kind: "distillation", method, student: await fewStepNetwork(base, method), objective };
      }
      throw new UserError("A model of flow matching cannot be distilled into a latent consistency model.", {
        hint: "Models on a noise schedule can.",
        field: "method.kind",
      });
    }
  }
}

interface Material {
  readonly base: BaseModel;
  readonly condition: Condition;
  readonly objective: Objective;
  readonly latents: LatentDataset;
  readonly prior: LatentDataset | undefined;
  readonly autoencoder: AutoencoderSession;
}

function taskOf(recipe: FineTuneRecipe, learning: Learning, material: Material): TrainingTask {
  const { base, condition, latents, autoencoder } = material;
  const { model } = runPaths(recipe.run);
  if (learning.kind === "distillation") {
    const { method, student, objective } = learning;
    const { network, scheduler } = student;
    const output = student.output(condition, recipe.sampleGuidance);
    // Its guidance is a part of the network: there is nothing to contrast.
    const sampling = { ...recipe, sampleGuidance: 1 };
    return consistencyDistillation(
      recipe,
      method,
      { base, student, condition, objective, latents },
      {
        preview: (weights) =>
          openCaptionPreview(sampling, { network, latents, condition, scheduler, output }, autoencoder, weights),
        async write(weights) {
          await student.write(model, weights);
          return model;
        },
      },
    );
  }
  const { adaptation } = learning;
  const { network } = adaptation;
  const { scheduler } = base;
  const output = (x: Tensor, timesteps: Tensor) =>
    adaptation.apply(() => predictionOf(base, condition, x.shape[0]!)(x, timesteps));
  const task = fineTuningTask(
    recipe,
    { ...material, adaptation, subject: latents },
    {
      preview: (weights) =>
        openCaptionPreview(
          recipe,
          { network, fixed: task.fixed, latents, condition, scheduler, output },
          autoencoder,
          weights,
        ),
      async write(weights) {
        await adaptation.write(model, weights);
        return model;
      },
    },
  );
  return task;
}

/** What the model was trained for, and how much the recipe wants each timestep to count. */
function objectiveOf({ trainedFor }: BaseModel, recipe: FineTuneRecipe): Objective {
  if (trainedFor.predict !== "flow") return { ...trainedFor, weighting: weightingOf(recipe) };
  if (recipe.weighting === "uniform") return trainedFor;
  throw new UserError(`A model of flow matching cannot be trained with the weighting ${recipe.weighting}.`, {
    hint: "Leave weighting out.",
    field: "weighting",
  });
}

function conditionOf(
  base: BaseModel,
  { learnsText, own }: Pick<Adaptation, "learnsText" | "own">,
  { run, threads }: FineTuneRecipe,
  captions: readonly string[],
  signal: AbortSignal | undefined,
): Promise<Condition> | Condition {
  const { textEncoder, tokenizer, maxLength } = base;
  if (learnsText) return loadedText(textEncoder, tokenizer, { maxLength, own });
  const cache = join(run, "captions.safetensors");
  const variant = base.variants.of(base.stored.text_encoder.path);
  return frozenText(base.path, { captions, maxLength, cache, variant, threads, signal });
}

/** Opens the pictures; their captions are not read where prompts stand in their place. */
function datasetFor(recipe: FineTuneRecipe, signal: AbortSignal | undefined): Promise<Dataset> {
  const captions = recipe.prompts ? undefined : recipe.captions;
  return datasetOf({ ...recipe, captions, flip: false }, { signal });
}

function withPrompts(dataset: Dataset, { prompts }: FineTuneRecipe): Dataset {
  const captions = prompts ? Array.from({ length: dataset.count }, () => prompts) : dataset.captions;
  if (captions) return { ...dataset, captions };
  throw new UserError(`${dataset.name} has no captions.`, {
    hint: "Put a .txt file beside each picture, or give prompts that hold for all of them.",
    field: "prompts",
  });
}

/** A word is learned from captions that have it, and from no others. */
function requireOwnWord({ own }: Adaptation, captions: readonly (readonly string[])[]): void {
  if (!own) return;
  const without = captions.flat().find((caption) => !caption.includes(own.word));
  if (without === undefined) return;
  throw new UserError(`The caption “${without}” does not have the word ${own.word}, which is to be learned.`, {
    hint: `Give prompts such as “a picture of ${own.word}”, or captions that have it.`,
    field: "prompts",
  });
}

/** Encodes pictures by the model's autoencoder into the run's folder, on the scale that the model was trained with. */
async function latentsOf(
  dataset: Dataset,
  { config, factor }: AutoencoderSession,
  {
    base,
    recipe: { run, device, threads },
    name,
    signal,
  }: {
    readonly base: BaseModel;
    readonly recipe: FineTuneRecipe;
    readonly name: string;
    readonly signal?: AbortSignal;
  },
): Promise<LatentDataset> {
  const { height, width, channels } = dataset;
  if (height % factor !== 0 || width % factor !== 0 || channels !== config.in_channels) {
    throw new UserError(
      `The model's autoencoder takes pictures of ${config.in_channels} channels with sides that are multiples of ${factor}; those of ${dataset.name} are ${width}×${height} with ${channels}.`,
      { hint: "Choose another size, and colour rgb.", field: "size" },
    );
  }
  const out = join(run, name);
  const autoencoder = { autoencoder: base.vae, variant: base.variants.of(base.vae) };
  await encodeDataset(dataset, { ...autoencoder, out, scaling: "config", device, threads, signal });
  return openLatents(out);
}
