import { UserError } from "../core/errors.ts";
import type { HostTensor } from "../core/host-tensor.ts";
import { captionRanks, shareWithin } from "./caption-ranks.ts";
import type { CaptionRetrieval } from "./caption-retrieval.ts";

/** How well pictures show what their captions say. */
export interface AlignmentJudgement {
  /** Pictures that were judged. */
  readonly count: number;
  /** Captions that each was compared with. */
  readonly among: number;
  /** The share of pictures whose caption is the most similar of all, one of the 5 and one of the 10 most similar. */
  readonly top1: number;
  readonly top5: number;
  readonly top10: number;
  /** The rank of each picture's caption, from 1. */
  readonly ranks: Uint32Array;
  /** [count, features] of the pictures, for the distances. */
  readonly features: HostTensor<"float32">;
}

/**
 * Judges by a retrieval model whether pictures show what was asked for: each picture's caption has a rank among all
 * captions. By chance it is one of the 10 most similar of 100 for a tenth of the pictures.
 *
 * @param pictures [n, 3, size, size] in [−1, 1]
 * @param captions all different
 * @param asked the caption of each picture, an index into `captions`
 * @throws UserError for captions that occur twice, and what {@link captionRanks} throws
 */
export async function judgeAlignment(
  model: Pick<CaptionRetrieval, "see" | "read">,
  pictures: HostTensor<"float32">,
  { captions, asked }: { readonly captions: readonly string[]; readonly asked: ArrayLike<number> },
): Promise<AlignmentJudgement> {
  const twice = captions.find((caption, i) => captions.indexOf(caption) !== i);
  if (twice !== undefined) {
    throw new UserError(`The caption "${twice}" was given twice; no picture can tell one from the other.`, {
      field: "captions",
    });
  }
  const { embeddings, features } = await model.see(pictures);
  const ranks = captionRanks(embeddings, await model.read(captions), asked);
  return {
    count: ranks.length,
    among: captions.length,
    top1: shareWithin(ranks, 1),
    top5: shareWithin(ranks, 5),
    top10: shareWithin(ranks, 10),
    ranks,
    features,
  };
}
