import fc from "fast-check";
import { expect, test } from "vitest";
import { conversion, levelOfSigma, type PredictionKind, reading, target } from "./prediction.ts";

const KINDS: PredictionKind[] = [
  "noise",
  "x0",
  "v",
  "flow",
  { edm: { sigmaData: 0.5 } },
  { edm: { sigmaData: 0.7, sign: -1 } },
];
const kind = fc.constantFrom(...KINDS);
const path = fc.constantFrom("preserving" as const, "exploding" as const, "flow" as const);
const unit = fc.double({ min: 0.05, max: 0.95, noNaN: true });
const value = fc.double({ min: -3, max: 3, noNaN: true });

test("every kind of prediction, read back, gives the x0 and noise it was made of", () => {
  fc.assert(
    fc.property(kind, path, unit, value, value, (k, coordinates, u, x0, noise) => {
      const level = levelOfSigma(coordinates, u, 0);
      const x = level.alpha * x0 + level.sigma * noise;
      const [ofX0, ofNoise] = target(k, level);
      const output = ofX0 * x0 + ofNoise * noise;
      const read = reading(k, level);
      expect(read.x0[0] * x + read.x0[1] * output).toBeCloseTo(x0, 8);
      expect(read.noise[0] * x + read.noise[1] * output).toBeCloseTo(noise, 8);
    }),
  );
});

test("converting between kinds and back changes nothing", () => {
  fc.assert(
    fc.property(kind, kind, path, unit, value, value, (a, b, coordinates, u, x, output) => {
      const level = levelOfSigma(coordinates, u, 0);
      const there = conversion(a, b, level);
      const back = conversion(b, a, level);
      expect(back[0] * x + back[1] * (there[0] * x + there[1] * output)).toBeCloseTo(output, 6);
    }),
  );
});
