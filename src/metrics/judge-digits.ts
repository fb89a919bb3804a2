import type { HostTensor } from "../core/host-tensor.ts";
import type { DigitClassifier } from "./digit-classifier.ts";
import type { Features } from "./features.ts";
import { frechetDistance } from "./frechet-distance.ts";
import { kernelDistance } from "./kernel-distance.ts";

/** How well drawn digits can be read, and how far they are from real ones. */
export interface DigitJudgement {
  readonly count: number;
  /** The share of pictures with one class of at least the wanted probability. */
  readonly confident: number;
  /** How many pictures are most probably each class; classes that do not occur have 0. */
  readonly classes: readonly number[];
  /** The share of pictures whose most probable class is the one asked for, where one was. */
  readonly asked?: number;
  /** Distances to real digits in the classifier's features; the Fréchet distance depends on `count`. */
  readonly frechet: number;
  readonly kernel: number;
}

export interface JudgeOptions {
  /** The class each picture was to be. */
  readonly asked?: ArrayLike<number>;
  /** The probability from which a picture counts as confident. */
  readonly confidence?: number;
}

/**
 * Judges drawn digits by a classifier of real ones.
 *
 * @param images [n, 1, h, w] in [−1, 1], at least 2
 * @param real the classifier's features of real digits, [samples, features]
 */
export async function judgeDigits(
  classifier: Pick<DigitClassifier, "classify">,
  images: HostTensor<"float32">,
  real: Features,
  { asked, confidence = 0.9 }: JudgeOptions = {},
): Promise<DigitJudgement> {
  const { probabilities, features } = await classifier.classify(images);
  const found = likeliest(probabilities);
  const [count, classCount] = probabilities.shape as [number, number];
  const classes = new Array<number>(classCount).fill(0);
  for (const { index } of found) classes[index]!++;
  const share = (holds: (picture: (typeof found)[number], i: number) => boolean) => found.filter(holds).length / count;
  return {
    count,
    confident: share(({ probability }) => probability >= confidence),
    classes,
    ...(asked ? { asked: share(({ index }, i) => index === asked[i]) } : {}),
    frechet: frechetDistance(real, features),
    kernel: kernelDistance(real, features),
  };
}

/** The most probable class of each row of [n, classes], and its probability. */
export function likeliest({
  shape,
  data,
}: HostTensor<"float32">): { readonly index: number; readonly probability: number }[] {
  const [count, classes] = shape as [number, number];
  return Array.from({ length: count }, (_, row) => {
    let index = 0;
    for (let i = 1; i < classes; i++) if (data[row * classes + i]! > data[row * classes + index]!) index = i;
    return { index, probability: data[row * classes + index]! };
  });
}
