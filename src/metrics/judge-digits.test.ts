import { expect, test } from "vitest";
import { float32 } from "../core/host-tensor.ts";
import { type DigitClassifier, judgeDigits } from "./index.ts";

test("a judgement counts confident pictures, classes and those that were asked for", async () => {
  // Four pictures of one pixel: class 2 surely, class 0 hardly, class 2 just, class 0 surely.
  const classifier: Pick<DigitClassifier, "classify"> = {
    classify: async () => ({
      probabilities: float32([4, 3], [0, 0.05, 0.95, 0.4, 0.3, 0.3, 0.09, 0, 0.91, 1, 0, 0]),
      features: float32([4, 1], [0, 1, 2, 3]),
    }),
  };
  const images = float32([4, 1, 1, 1], [0, 0, 0, 0]);
  const real = float32([4, 1], [2, 3, 4, 5]);
  const judgement = await judgeDigits(classifier, images, real, { asked: [2, 1, 1, 0] });
  expect(judgement).toMatchObject({ count: 4, confident: 3 / 4, classes: [2, 0, 2], asked: 2 / 4 });
  expect(judgement.frechet).toBeCloseTo(4, 12);
  expect(judgement.kernel).toBeGreaterThan(0);

  const strict = await judgeDigits(classifier, images, real, { confidence: 0.97 });
  expect(strict.confident).toBe(1 / 4);
  expect(strict).not.toHaveProperty("asked");
});
