import { float32, type HostTensor, hostTensor } from "../core/host-tensor.ts";
import type { Random } from "../core/random.ts";
import { type BatchPosition, type LatentDataset, latentBatches } from "../data/index.ts";
import {
  guidanceEmbedding,
  type Level,
  lcmBoundary,
  levelOfAlphaBar,
  type NoiseSchedule,
  offsetNoise,
  type Reading,
  reading,
} from "../diffusion/index.ts";
import {
  add,
  cast,
  concat,
  gather,
  input,
  mean,
  mul,
  reshape,
  split,
  sqrt,
  sub,
  type Tensor,
  values,
} from "../graph/index.ts";
import type { UNet2DCondition } from "../models/index.ts";
import type { Condition } from "./condition.ts";
import { EMBEDDING_WIDTH, type FewStepNetwork } from "./few-step-network.ts";
import type { FineTuneMethod, FineTuneRecipe } from "./fine-tune-recipe.ts";
import { sampledLatent } from "./latent-denoising.ts";
import type { ScheduleObjective } from "./objective.ts";
import type { BaseModel } from "./pretrained-model.ts";
import type { TaskFeeds, TrainingTask } from "./task.ts";

/** c of the Huber loss √(d² + c²) − c. */
const HUBER = 1e-3;

/** A model that teaches a network of few steps, and on which pictures. */
export interface Distillation {
  readonly base: BaseModel;
  readonly student: FewStepNetwork;
  readonly condition: Condition;
  readonly objective: ScheduleObjective;
  readonly latents: LatentDataset;
}

/**
 * Latent consistency distillation (Luo et al. 2023, "Latent consistency models", Algorithm 1). The student is to give for
 * a noisy latent the same image as for the latent one step of the teacher further down: a DDIM step over T/grid timesteps,
 * guided by ω (eq. 16). The image of the latter comes from the student's moving average, and f(z, t) = c_skip·z + c_out·x̂₀
 * holds it to be the latent itself at t = 0 (eq. 9).
 */
export function consistencyDistillation(
  recipe: FineTuneRecipe,
  method: FineTuneMethod<"distillation">,
  { base, student, condition, objective, latents }: Distillation,
  parts: Pick<TrainingTask, "preview" | "write">,
): TrainingTask {
  const told = student.told;
  return {
    data: {
      name: latents.name,
      count: latents.count,
      warnings: condition.warnings(latents.captions!.flat()),
      fingerprint: () => `${base.fingerprint} ${latents.fingerprint}`,
    },
    network: student.network,
    averaged: student.averaged.network,
    fixed: base.fixed(["unet"]),
    start: student.start,
    lossOf(n) {
      const { words, none } = wordsAndNone(condition, n);
      const z0 = sampledLatent(latents, n);
      const noise = input("noise", z0.shape);
      const [from, to] = [input("timesteps", [n], "int64"), input("timesteps.next", [n], "int64")];
      const embedding = told ? input("guidance.embedding", [n, EMBEDDING_WIDTH]) : undefined;
      const [upper, lower] = [lookup(objective.schedule, from), lookup(objective.schedule, to)];
      const z = add(
        mul(
          z0,
          upper(({ alpha }) => alpha),
        ),
        mul(
          noise,
          upper(({ sigma }) => sigma),
        ),
      );
      const image = (unet: UNet2DCondition, x: Tensor, t: Tensor, at: Lookup) => {
        const output = unet(x, cast(t, "float32"), words, { timestepCondition: embedding });
        return consistentImage(x, meant("x0", objective.predict, { z: x, output, at }), at);
      };
      const taught = teacherStep(base.unet, objective, { z, words, none, from, to, omega: input("guidance", [n]) });
      const own = image(student.unet, z, from, upper);
      const target = image(student.averaged.unet, taught, to, lower);
      const difference = sub(own, target);
      const squares = mul(difference, difference);
      return mean(method.loss === "l2" ? squares : sub(sqrt(add(squares, HUBER * HUBER)), HUBER));
    },
    feeds: (random, start) => feedsOf(recipe, method, { condition, objective, latents, told }, random, start),
    ...parts,
  };
}

/** The states of n captions and of as many empty ones, each [n, tokens, width]. */
function wordsAndNone(condition: Condition, n: number): { readonly words: Tensor; readonly none: Tensor } {
  const sequence = condition.states(2 * n).sequence!;
  const [tokens, width] = sequence.shape.slice(1) as [number, number];
  const [words, none] = split(reshape(sequence, [n, 2 * tokens, width]), [tokens, tokens], 1);
  return { words: words!, none: none! };
}

/** A table of numbers by timestep, looked up for a batch: [n, 1, 1, 1]. */
type Lookup = (of: (level: Level) => number) => Tensor;

function lookup({ alphasCumprod }: NoiseSchedule, timesteps: Tensor): Lookup {
  const levels = Array.from(alphasCumprod, (alphaBar, t) => levelOfAlphaBar(alphaBar, t));
  const shape = [timesteps.shape[0]!, 1, 1, 1];
  return (of) => reshape(gather(values([levels.length], levels.map(of)), timesteps), shape);
}

/** Image or noise, as a network's output at z means it. */
function meant(
  what: keyof Reading,
  predict: ScheduleObjective["predict"],
  { z, output, at }: { readonly z: Tensor; readonly output: Tensor; readonly at: Lookup },
): Tensor {
  const ofZ = at((level) => reading(predict, level)[what][0]);
  const ofOutput = at((level) => reading(predict, level)[what][1]);
  return add(mul(z, ofZ), mul(output, ofOutput));
}

/** f(z, t) = c_skip·z + c_out·x̂₀ (Luo et al. 2023, eq. 9); diffusers' samplers of these networks scale t by 10. */
function consistentImage(z: Tensor, x0: Tensor, at: Lookup): Tensor {
  const skip = at(({ timestep }) => lcmBoundary(timestep, 10).skip);
  const out = at(({ timestep }) => lcmBoundary(timestep, 10).out);
  return add(mul(z, skip), mul(x0, out));
}

/** What one step of the teacher is made of, for n latents. */
export interface TeacherInputs {
  readonly z: Tensor;
  /** States of the captions and of no caption, [n, tokens, width]. */
  readonly words: Tensor;
  readonly none: Tensor;
  /** Timesteps [n], as int64. */
  readonly from: Tensor;
  readonly to: Tensor;
  /** Guidance less 1, [n]. */
  readonly omega: Tensor;
}

/**
 * The latent one guided DDIM step (Song et al. 2021, eq. 12 with σ = 0) further down: (1 + ω)·Ψ(words) − ω·Ψ(no words).
 */
export function teacherStep(
  unet: (z: Tensor, timesteps: Tensor, words: Tensor) => Tensor,
  { predict, schedule }: ScheduleObjective,
  { z, words, none, from, to, omega }: TeacherInputs,
): Tensor {
  const n = z.shape[0]!;
  const t = cast(from, "float32");
  const outputs = split(unet(concat([z, z], 0), concat([t, t], 0), concat([words, none], 0)), [n, n], 0);
  const [at, below] = [lookup(schedule, from), lookup(schedule, to)];
  const scale = reshape(omega, [n, 1, 1, 1]);
  const guided = (what: keyof Reading) => {
    const [conditional, unconditional] = outputs.map((output) => meant(what, predict, { z, output, at }));
    return add(conditional!, mul(sub(conditional!, unconditional!), scale));
  };
  return add(
    mul(
      guided("x0"),
      below(({ alpha }) => alpha),
    ),
    mul(
      guided("noise"),
      below(({ sigma }) => sigma),
    ),
  );
}

/** The teacher's timesteps in rising order, as diffusers' LCMScheduler has them: ⌊T/grid⌋·i − 1. */
export function teacherTimesteps(trained: number, grid: number): number[] {
  const stride = Math.floor(trained / grid);
  return Array.from({ length: grid }, (_, i) => (i + 1) * stride - 1);
}

function feedsOf(
  { batch, seed, offsetNoise: offset }: FineTuneRecipe,
  { guidance, grid }: FineTuneMethod<"distillation">,
  {
    condition,
    objective,
    latents,
    told,
  }: Pick<Distillation, "condition" | "objective" | "latents"> & { readonly told: boolean },
  random: Random,
  from: BatchPosition | undefined,
): TaskFeeds {
  const data = latentBatches(latents, { batch, seed, from });
  const shape = [batch, latents.channels, latents.height, latents.width];
  const timesteps = teacherTimesteps(objective.schedule.steps, grid);
  const [least, most] = typeof guidance === "number" ? [guidance, guidance] : guidance;
  return {
    next() {
      const { moments, captions } = data.next();
      const posteriorNoise = random.normal(shape);
      const noise = offsetNoise(random.normal(shape), offset, random);
      const places = Array.from({ length: batch }, () => random.integer(0, grid));
      const scales = random.uniform([batch]).data.map((u) => least + u * (most - least) - 1);
      const feeds: Record<string, HostTensor> = {
        moments,
        posteriorNoise,
        noise,
        timesteps: timestepsOf(places.map((place) => timesteps[place]!)),
        // Below the first is the image's end of the schedule.
        "timesteps.next": timestepsOf(places.map((place) => timesteps[place - 1] ?? 0)),
        guidance: float32([batch], scales),
        // Each caption has the empty one beside it, so that a batch can be cut.
        ...condition.feeds(captions!.flatMap((caption) => [caption, condition.none])),
      };
      if (!told) return feeds;
      const rows = Float32Array.from([...scales].flatMap((w) => [...guidanceEmbedding(w, EMBEDDING_WIDTH)]));
      return { ...feeds, "guidance.embedding": float32([batch, EMBEDDING_WIDTH], rows) };
    },
    position: data.position,
  };
}

function timestepsOf(numbers: readonly number[]): HostTensor<"int64"> {
  return hostTensor("int64", [numbers.length], BigInt64Array.from(numbers, BigInt));
}
