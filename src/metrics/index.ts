/** How far generated pictures are from real ones. */
export {
  type Classification,
  DIGIT_CLASSIFIER,
  type DigitClassifier,
  type DigitClassifierConfig,
  type DigitClassifierOptions,
  digitClassifierNetwork,
  openDigitClassifier,
} from "./digit-classifier.ts";
export type { Features } from "./features.ts";
export { frechetDistance } from "./frechet-distance.ts";
export { type DigitJudgement, type JudgeOptions, judgeDigits, likeliest } from "./judge-digits.ts";
export { kernelDistance } from "./kernel-distance.ts";
export { type PrecisionRecall, precisionRecall } from "./precision-recall.ts";
