import { UserError } from "../core/errors.ts";
import { type HostTensor, int64 } from "../core/host-tensor.ts";
import type { Random } from "../core/random.ts";
import { input, type Tensor } from "../graph/index.ts";
import type { ComponentToWrite } from "../io/index.ts";
import type { Module } from "../nn/module.ts";

/** What a denoiser is told of a batch of `n` beside image and timestep. */
export interface ConditionStates {
  /** The tokens of a text, [n, tokens, width]. */
  readonly sequence?: Tensor;
  /** 1 for tokens to be looked at and 0 for others, [n, tokens] as float32; without it all are. */
  readonly mask?: Tensor;
  /** The text as one vector, [n, pooledWidth]. */
  readonly pooled?: Tensor;
  /** Class labels, [n] as int64. */
  readonly labels?: Tensor;
}

/** What a denoiser needs to know of its condition before it is built. */
export interface ConditionShape {
  readonly text?: {
    readonly tokens: number;
    readonly width: number;
    /** Undefined where the text has no form as one vector. */
    readonly pooledWidth?: number;
    /** Whether states come with a mask. */
    readonly masked: boolean;
  };
  /** Labels are numbers below this; "no class" is the last of them. */
  readonly labels?: number;
}

/**
 * What pictures are drawn by: captions (`Given` is a text) or classes (`Given` is a label). It is asked for graph inputs
 * once a graph, and for feeds once a batch.
 */
export interface Condition<Given = string> {
  readonly shape: ConditionShape;
  /**
   * Networks that are trained together with the denoiser, by the names of their folders, which also begin the names of
   * their parameters; none for what is frozen.
   */
  // biome-ignore lint/suspicious/noExplicitAny: networks of every signature
  readonly parts: Readonly<Record<string, Module<any, any>>>;
  /** What stands for no condition: in its place a share of the batch is trained, so that guidance is possible. */
  readonly none: Given;
  /** Makes the graph inputs for `count` images and what the denoiser sees of them. */
  states(count: number): ConditionStates;
  /** What those inputs are fed: all of them, whichever states a denoiser reads. @throws UserError for captions or labels that it does not know */
  feeds(given: readonly Given[]): Record<string, HostTensor>;
  /** What to tell the user of these captions or labels: texts that are cut off. */
  warnings(given: readonly Given[]): string[];
  /**
   * Folders of a pipeline that draws by this condition, by name.
   * @param weights of everything trained, by names that begin with those of `parts`
   */
  components(weights: ReadonlyMap<string, HostTensor>): Record<string, ComponentToWrite>;
}

/**
 * Puts "no condition" in the place of a share of a batch's conditions, drawn as `Tensor.bernoulli_(share)` (Ho & Salimans
 * 2022, "Classifier-free diffusion guidance", algorithm 1). Draws nothing where the share is 0.
 */
export function withDropout<Given>(given: readonly Given[], none: Given, share: number, random: Random): Given[] {
  if (share === 0) return [...given];
  const { data } = random.bernoulli(share, [given.length]);
  return given.map((each, i) => (data[i] ? none : each));
}

/**
 * Class labels, the simple case: `count` classes from 0 and "no class" as label `count`. The denoiser has an embedding
 * for each.
 */
export function classCondition(count: number): Condition<number> {
  if (!Number.isInteger(count) || count < 1) {
    throw new UserError(`A network cannot be conditioned on ${count} classes.`, { field: "classes" });
  }
  return {
    shape: { labels: count + 1 },
    parts: {},
    none: count,
    states: (n) => ({ labels: input("labels", [n], "int64") }),
    feeds(given) {
      const unknown = given.find((label) => !Number.isInteger(label) || label < 0 || label > count);
      if (unknown !== undefined) {
        throw new UserError(`There is no class ${unknown}.`, {
          hint: `Classes are numbered from 0 to ${count - 1}; ${count} is "no class".`,
          field: "classes",
        });
      }
      return { labels: int64([given.length], given) };
    },
    warnings: () => [],
    components: () => ({}),
  };
}
