import type { HostTensor } from "../core/host-tensor.ts";
import type { Random } from "../core/random.ts";
import type { BatchPosition } from "../data/index.ts";
import type { Tensor } from "../graph/index.ts";
import type { Bind } from "../models/index.ts";
import type { PartGroup } from "../nn/module.ts";
import type { FlatLayout } from "../optim/index.ts";
import type { RunOptions } from "./run-options.ts";

/** The loss of a batch, and what else a step says of it. */
export interface StepLoss {
  /** A scalar, the mean over the batch. */
  readonly loss: Tensor;
  /** Further scalars, by the names they have in metrics.jsonl; means over the batch too. */
  readonly measures?: Readonly<Record<string, Tensor>>;
  /**
   * The gradients that the optimizer follows, in the order of the parameters, where they are not those of `loss` alone:
   * networks that are trained against each other have a loss each.
   */
  readonly gradients?: (parameters: ReadonlyMap<string, Tensor>) => readonly Tensor[];
  /**
   * Which network a parameter belongs to, where there are several: the gradient of each is clipped by its own norm. The
   * parameters of one follow each other.
   */
  readonly networkOf?: (parameter: string) => string;
  /**
   * Values of parameters outside of the task's network: of networks that only judge. They are constants of the graph, not
   * part of the state or of checkpoints.
   */
  readonly bind?: Bind;
}

/** The endless sequence of what a task's steps are fed. */
export interface TaskFeeds {
  /**
   * Feeds of optimizer step `step`, counted from 1, by input name. The first axis is the batch, which may be cut into
   * parts; scalars (shape []) go to every part.
   */
  next(step: number): Readonly<Record<string, HostTensor>>;
  /** Where the next batch begins. */
  position(): BatchPosition;
}

/** Draws pictures with the weights of a run that goes on. */
export interface Preview {
  /** Draws what belongs to a step, always from the same noise and data. */
  draw(step: number, weights: Float32Array): Promise<Drawn>;
  close(): Promise<void>;
}

/** A picture of a run, and what was measured on it. */
export interface Drawn {
  readonly path: string;
  readonly measures?: Readonly<Record<string, number>>;
}

/** The weights of a run as its files and previews need them. */
export interface TrainedWeights {
  readonly layout: FlatLayout;
  /** Parameters that are not trained, by name. */
  readonly frozen: ReadonlyMap<string, HostTensor<"float32">>;
}

/**
 * Weights that a task's graphs use and its run neither changes nor keeps: those of a model that is fine-tuned. They stay in
 * their files and are no part of checkpoints, so a task's fingerprint must tell them apart.
 */
export interface FixedWeights {
  /** Where the value of a leaf is that is no parameter of the task's network. */
  readonly bind: Bind;
  /** The folder of the files that such values lie in. */
  readonly externalData?: string;
}

/**
 * What a run trains, apart from how: the network, its loss, its data, and where the result goes. The trainer makes steps
 * of it, a run checkpoints, metrics and files; neither knows what kind of model it is.
 */
export interface TrainingTask {
  readonly data: TaskData;
  /**
   * Reads a recipe that a run folder holds, which may have been written before some fields were known: these have their
   * defaults then. Without it a recorded recipe is taken as it is.
   */
  readonly readRecipe?: (recorded: unknown) => RunOptions;
  readonly network: PartGroup;
  readonly fixed?: FixedWeights;
  /**
   * Another network of the same parameters by the same names, which the loss's graph may use beside `network`: it has their
   * moving average, and no gradient reaches it. So a network can be taught by what it has been.
   */
  readonly averaged?: PartGroup;
  /** The numbers the parameters start from, trainable or not. */
  start(random: Random): ReadonlyMap<string, HostTensor<"float32">>;
  /** The loss of so many samples, reading its batch from inputs by name. */
  lossOf(samples: number): Tensor | StepLoss;
  /** Batches drawn with `random`, from a position on (default: the beginning). */
  feeds(random: Random, from?: BatchPosition): TaskFeeds;
  /** Opens what draws during the run; sessions are costly, so it is opened once. */
  preview(weights: TrainedWeights): Promise<Preview>;
  /** Writes averaged weights where they can be used; returns the folder. */
  write(weights: ReadonlyMap<string, HostTensor>): Promise<string>;
}

/** What a run says of its data. */
export interface TaskData {
  /** For people: the folder or the set's name. */
  readonly name: string;
  /** Images in it. */
  readonly count: number;
  readonly warnings: readonly string[];
  /** A hash of everything a loss is computed from beside the network, so that a run is not continued on other data. */
  fingerprint(): string;
}
