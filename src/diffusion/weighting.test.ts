import { expect, test } from "vitest";
import { linearSchedule, signalToNoise } from "./schedule.ts";
import { lossWeight } from "./weighting.ts";

const schedule = linearSchedule();

test("min-SNR weights of noise, v and x0 are one weight of the error in x0", () => {
  // ‖ε − ε̂‖² = SNR ‖x0 − x̂0‖² and ‖v − v̂‖² = (SNR + 1) ‖x0 − x̂0‖².
  for (const t of [0, 100, 400, 999]) {
    const snr = signalToNoise(schedule, t);
    const weighting = { kind: "min-snr", gamma: 5 } as const;
    const x0 = lossWeight(schedule, t, "x0", weighting);
    expect(x0).toBeCloseTo(Math.min(snr, 5), 10);
    expect(lossWeight(schedule, t, "noise", weighting) * snr).toBeCloseTo(x0, 8);
    expect(lossWeight(schedule, t, "v", weighting) * (snr + 1)).toBeCloseTo(x0, 8);
  }
});

test("the weight of noise prediction stays finite where there is no signal", () => {
  expect(lossWeight(linearSchedule({ zeroTerminalSnr: true }), 999, "noise", { kind: "min-snr" })).toBe(1);
});
