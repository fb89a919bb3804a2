/** How far generated pictures are from real ones, whether they show what was asked for, and whether they are new. */
export { captionRanks, expectedShareWithin, shareWithin } from "./caption-ranks.ts";
export {
  CAPTION_RETRIEVAL,
  type CaptionRetrieval,
  type CaptionRetrievalConfig,
  type CaptionRetrievalOptions,
  captionRetrievalNetwork,
  openCaptionRetrieval,
  type SeenPictures,
  tokenIds,
} from "./caption-retrieval.ts";
export { contrastiveLoss, LARGEST_LOGIT_SCALE } from "./contrastive-loss.ts";
export {
  type Classification,
  DIGIT_CLASSIFIER,
  type DigitClassifier,
  type DigitClassifierConfig,
  type DigitClassifierOptions,
  digitClassifierNetwork,
  openDigitClassifier,
} from "./digit-classifier.ts";
export {
  distancesToHalves,
  type HalfDistances,
  type HalfOptions,
  type MeasuredDistance,
  realHalfDistances,
} from "./distances-to-halves.ts";
export type { Features } from "./features.ts";
export { frechetDistance } from "./frechet-distance.ts";
export { type AlignmentJudgement, judgeAlignment } from "./judge-alignment.ts";
export { type DigitJudgement, type JudgeOptions, judgeDigits, likeliest } from "./judge-digits.ts";
export { kernelDistance } from "./kernel-distance.ts";
export { judgeMemorization, type Memorization, NEIGHBOURS, typicalDistance } from "./memorization.ts";
export { type Neighbours, nearestNeighbours, neighboursAmongThemselves } from "./nearest-neighbours.ts";
export { type PrecisionRecall, precisionRecall } from "./precision-recall.ts";
