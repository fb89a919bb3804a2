import { joinBatch } from "../core/batch-parts.ts";
import { float32, type HostTensor } from "../core/host-tensor.ts";
import type { Random } from "../core/random.ts";
import { type BatchPosition, type LatentDataset, latentBatches } from "../data/index.ts";
import { offsetNoise } from "../diffusion/index.ts";
import { add, input, mean, mul, sub, type Tensor } from "../graph/index.ts";
import type { Adaptation } from "./adaptation.ts";
import { type Condition, withDropout } from "./condition.ts";
import type { FineTuneRecipe } from "./fine-tune-recipe.ts";
import { sampledLatent } from "./latent-denoising.ts";
import { diffusionLoss, drawTimesteps, imageLosses, type Objective, timestepsInput } from "./objective.ts";
import type { BaseModel } from "./pretrained-model.ts";
import type { StepLoss, TaskFeeds, TrainingTask } from "./task.ts";

/** A model, what of it is to learn, and from what. */
export interface FineTuning {
  readonly base: BaseModel;
  readonly adaptation: Adaptation;
  readonly condition: Condition;
  readonly objective: Objective;
  /** Pictures of the subject, with captions. */
  readonly subject: LatentDataset;
  /** Pictures of its class, with captions; half of every batch. */
  readonly prior?: LatentDataset;
}

/**
 * Training a model further on other pictures: the loss that it was trained with, on latents of these. With pictures of
 * the subject's class it is that of DreamBooth (Ruiz et al. 2023, eq. 2): the subject's loss and λ times that of the class,
 * each the mean over its half of the batch.
 */
export function fineTuningTask(
  recipe: FineTuneRecipe,
  { base, adaptation, condition, objective, subject, prior }: FineTuning,
  parts: Pick<TrainingTask, "preview" | "write">,
): TrainingTask {
  const { network, start, learnsText } = adaptation;
  const sample = [subject.channels, subject.height, subject.width];
  const all = [...subject.captions!, ...(prior?.captions ?? [])].flat();
  return {
    data: {
      name: subject.name,
      count: subject.count,
      warnings: [...base.variants.warnings, ...condition.warnings(all)],
      fingerprint: () => [base.fingerprint, subject.fingerprint, prior?.fingerprint].filter(Boolean).join(" "),
    },
    network,
    fixed: base.fixed(learnsText ? ["unet", "text_encoder"] : ["unet"]),
    start,
    lossOf: (samples) =>
      adaptation.apply(() => {
        const predict = predictionOf(base, condition, samples);
        const batch = {
          x0: sampledLatent(subject, samples),
          noise: input("noise", [samples, ...sample]),
          timesteps: timestepsInput(objective, samples),
        };
        if (!prior) return diffusionLoss(predict, objective, batch);
        return withPrior(imageLosses(predict, objective, batch), recipe.prior!.weight);
      }),
    feeds: (random, from) => feedsOf(recipe, { condition, objective, subject, prior }, random, from),
    ...parts,
  };
}

/** The U-Net under the captions of a graph's inputs. */
export function predictionOf({ unet }: Pick<BaseModel, "unet">, condition: Condition, count: number) {
  const { sequence } = condition.states(count);
  return (x: Tensor, timesteps: Tensor) => unet(x, timesteps, sequence!);
}

/** Input `ofSubject` [n] is 1 for pictures of the subject, which are half of all, and 0 for those of its class. */
function withPrior(losses: Tensor, weight: number): StepLoss {
  const ofSubject = input("ofSubject", losses.shape);
  const subject = mean(mul(mul(losses, ofSubject), 2));
  const prior = mean(mul(mul(losses, sub(1, ofSubject)), 2));
  return { loss: add(subject, mul(prior, weight)), measures: { subject, prior } };
}

/** Moments, noise, timesteps and captions; of the subject first, then of its class. */
function feedsOf(
  { batch, seed, offsetNoise: offset, captionDropout }: FineTuneRecipe,
  { condition, objective, subject, prior }: Pick<FineTuning, "condition" | "objective" | "subject" | "prior">,
  random: Random,
  from: BatchPosition | undefined,
): TaskFeeds {
  const each = prior ? batch / 2 : batch;
  const own = latentBatches(subject, { batch: each, seed, from });
  const ofClass = prior && latentBatches(prior, { batch: each, seed, from: sameDistance(subject, prior, from) });
  const shape = [batch, subject.channels, subject.height, subject.width];
  return {
    next() {
      const drawn = [own.next(), ...(ofClass ? [ofClass.next()] : [])];
      const captions = drawn.flatMap((part) => part.captions!);
      const feeds: Record<string, HostTensor> = {
        moments: joinBatch(drawn.map(({ moments }) => moments)),
        posteriorNoise: random.normal(shape),
        noise: offsetNoise(random.normal(shape), offset, random),
        timesteps: drawTimesteps(objective, batch, random),
        ...(prior ? { ofSubject: float32([batch], new Float32Array(batch).fill(1, 0, each)) } : {}),
      };
      return { ...feeds, ...condition.feeds(withDropout(captions, condition.none, captionDropout, random)) };
    },
    position: own.position,
  };
}

/** Where the class's pictures stand once as many of them as of the subject's have been handed out. */
function sameDistance(
  subject: LatentDataset,
  prior: LatentDataset,
  from: BatchPosition | undefined,
): BatchPosition | undefined {
  if (!from) return undefined;
  const handedOut = from.epoch * subject.count + from.index;
  return { epoch: Math.floor(handedOut / prior.count), index: handedOut % prior.count };
}
