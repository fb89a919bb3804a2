import type { HostTensor } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { type Dataset, emoji, picturesAt } from "../src/data/index.ts";
import { tensorFromImages } from "../src/io/index.ts";
import {
  type CaptionRetrieval,
  captionRanks,
  expectedShareWithin,
  judgeAlignment,
  judgeMemorization,
  type Memorization,
  realHalfDistances,
  typicalDistance,
} from "../src/metrics/index.ts";
import type { Nearnesses, RealEmoji } from "./emoji-table.ts";

/** Real emoji as drawn ones are compared with them. */
export interface EmojiReference {
  readonly training: Dataset;
  /** Labels of training pictures that are drawn, all different, and whose picture each is. */
  readonly captions: readonly string[];
  readonly owners: Uint32Array;
  /** [training pictures, features] */
  readonly features: HostTensor<"float32">;
  readonly real: RealEmoji;
  /** Neighbours of pictures among those of training. */
  nearness(pictures: SeenAndFlat): { readonly features: Memorization; readonly pixels: Memorization };
}

/** Pictures as the judge sees them, and as rows of pixels. */
export interface SeenAndFlat {
  readonly features: HostTensor<"float32">;
  readonly pixels: HostTensor<"float32">;
}

export interface EmojiReferenceOptions {
  /** Captions to choose by the seed. */
  readonly captions: number;
  /** Pictures that distances are measured with. */
  readonly pictures: number;
  readonly seed: number;
  /** What the drawing model was trained on. */
  readonly split: "train" | "all";
  readonly skins: boolean;
}

/** Reads the real emoji and judges them. */
export async function emojiReference(
  judge: CaptionRetrieval,
  { captions: wanted, pictures, seed, split, skins }: EmojiReferenceOptions,
): Promise<EmojiReference> {
  const size = judge.config.image_size;
  const training = await emoji({ size, split, skins });
  const base = await emoji({ size, split });
  const heldOut = await emoji({ size, split: "held-out" });

  const own = tensorOf(training);
  const { features } = await judge.see(own);
  const pixels = flat(own);
  const typical = { features: typicalDistance(features), pixels: typicalDistance(pixels) };
  const nearness = (seen: SeenAndFlat) => ({
    features: judgeMemorization(seen.features, features, { typical: typical.features }),
    pixels: judgeMemorization(seen.pixels, pixels, { typical: typical.pixels }),
  });

  const labels = labelsOf(training);
  const chosen = seeded(seed).permutation(base.count).subarray(0, wanted);
  const captions = Array.from(chosen, (i) => labelsOf(base)[i]!);
  const owners = Uint32Array.from(captions, (caption) => labels.indexOf(caption));
  const shown = await judgeAlignment(judge, tensorFromImages(picturesAt(training, owners)), {
    captions,
    asked: owners.map((_, i) => i),
  });

  const others = tensorOf(heldOut);
  const seen = await judge.see(others);
  const ranks = captionRanks(seen.embeddings, await judge.read(labelsOf(heldOut)), indicesOf(heldOut));
  const among = (top: number) => expectedShareWithin(ranks, top, { of: heldOut.count, among: wanted });

  return {
    ...{ training, captions, owners, features, nearness },
    real: {
      halves: realHalfDistances(features, { count: pictures }),
      trainedOn: { count: shown.count, top1: shown.top1, top5: shown.top5, top10: shown.top10 },
      heldOut: {
        ...{ count: heldOut.count, top1: among(1), top5: among(5), top10: among(10) },
        nearness: summaryOf(nearness({ features: seen.features, pixels: flat(others) })),
      },
    },
  };
}

/** The shares of a judgement, without the neighbours. */
export function summaryOf({ features, pixels }: ReturnType<EmojiReference["nearness"]>): Omit<Nearnesses, "own"> {
  const shares = ({ nearerThanTypical, copies }: Memorization) => ({ nearerThanTypical, copies });
  return { features: shares(features), pixels: shares(pixels) };
}

/** Pictures [n, channels, h, w] as rows [n, channels·h·w]. */
export function flat({ shape, dtype, data }: HostTensor<"float32">): HostTensor<"float32"> {
  const [n, ...rest] = shape as [number, ...number[]];
  return { dtype, shape: [n, rest.reduce((product, axis) => product * axis, 1)], data };
}

const labelsOf = (dataset: Dataset) => dataset.captions!.map(([label]) => label!);
const indicesOf = (dataset: Dataset) => Uint32Array.from({ length: dataset.count }, (_, i) => i);
const tensorOf = (dataset: Dataset) => tensorFromImages(picturesAt(dataset, indicesOf(dataset)));
