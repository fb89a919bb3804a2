import { describe, expect, test } from "vitest";
import { float32, type HostTensor, hostTensor, int64 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { flowPath, type NoiseSchedule, namedSchedule, offsetNoise, sampleTimesteps } from "../diffusion/index.ts";
import { add, input, mul, reshape, type Tensor, toOnnx } from "../graph/index.ts";
import { openSession } from "../runtime/index.ts";
import {
  diffusionLoss,
  drawTimesteps,
  normalizedPixels,
  type Objective,
  type ScheduleObjective,
  timestepsInput,
} from "./objective.ts";

const [n, c, h, w] = [4, 2, 3, 5];
const shape = [n, c, h, w];
const size = c * h * w;
const random = seeded(9);
const x0 = random.uniform(shape, { low: -1, high: 1 });
const noise = random.normal(shape);

/** Stands for a network: 0.6·x + t/1000. */
const network = (x: Tensor, t: Tensor) => add(mul(x, 0.6), reshape(mul(t, 1e-3), [n, 1, 1, 1]));

async function lossOf(objective: Objective, timesteps: HostTensor | readonly number[]): Promise<number> {
  const loss = diffusionLoss(network, objective, {
    x0: input("x0", shape),
    noise: input("noise", shape),
    timesteps: timestepsInput(objective, n),
  });
  const session = await openSession(toOnnx({ loss }).bytes, { name: "loss", threads: 1 });
  try {
    const fed = "data" in timesteps ? timesteps : int64([n], timesteps);
    return Number((await session.run({ x0, noise, timesteps: fed })).loss!.data[0]);
  } finally {
    await session.close();
  }
}

/** The same by the papers' formulas in double precision. */
function expected(
  schedule: NoiseSchedule,
  predict: ScheduleObjective["predict"],
  gamma: number | null,
  ts: readonly number[],
) {
  let total = 0;
  ts.forEach((t, image) => {
    const alphaBar = schedule.alphasCumprod[t]!;
    const [alpha, sigma] = [Math.sqrt(alphaBar), Math.sqrt(1 - alphaBar)];
    let squares = 0;
    for (let i = image * size; i < (image + 1) * size; i++) {
      const [x, e] = [x0.data[i]!, noise.data[i]!];
      const output = 0.6 * (alpha * x + sigma * e) + t / 1000;
      const target = predict === "noise" ? e : predict === "x0" ? x : alpha * e - sigma * x;
      squares += (output - target) ** 2;
    }
    const snr = alphaBar / (1 - alphaBar);
    const divisor = { noise: snr, x0: 1, v: snr + 1 }[predict];
    total += (gamma === null ? 1 : Math.min(snr, gamma) / divisor) * (squares / size);
  });
  return total / ts.length;
}

describe("the denoising loss", () => {
  const cosine = namedSchedule("squaredcos_cap_v2");
  const zeroSnr = namedSchedule("linear", { zeroTerminalSnr: true });
  const timesteps = [0, 250, 700, 998];
  for (const predict of ["noise", "x0", "v"] as const) {
    for (const gamma of [null, 5, 1]) {
      test(`of ${predict} prediction ${gamma ? `with min-SNR-${gamma} weights` : "with equal weights"}`, async () => {
        const weighting = gamma === null ? ({ kind: "uniform" } as const) : ({ kind: "min-snr", gamma } as const);
        const found = await lossOf({ schedule: cosine, predict, weighting }, timesteps);
        expect(found / expected(cosine, predict, gamma, timesteps)).toBeCloseTo(1, 4);
      });
    }
  }

  test.each(["v", "x0"] as const)(
    "of %s prediction at the last timestep of a zero-terminal-SNR schedule",
    async (predict) => {
      const last = [999, 999, 999, 999];
      expect(zeroSnr.alphasCumprod[999]).toBe(0);
      const found = await lossOf({ schedule: zeroSnr, predict }, last);
      expect(found / expected(zeroSnr, predict, null, last)).toBeCloseTo(1, 5);
      // There min-SNR gives the image no weight at all.
      expect(await lossOf({ schedule: zeroSnr, predict, weighting: { kind: "min-snr" } }, last)).toBe(0);
    },
  );
});

describe("the flow-matching loss", () => {
  /** ‖network(x_s, 1000·s) − (ε − x0)‖² at x_s = (1 − s)·x0 + s·ε, in double precision. */
  const exact = (ts: ArrayLike<number>) => {
    let total = 0;
    for (let i = 0; i < n * size; i++) {
      const t = ts[Math.floor(i / size)]!;
      const s = t / 1000;
      const [x, e] = [x0.data[i]!, noise.data[i]!];
      total += (0.6 * ((1 - s) * x + s * e) + t / 1000 - (e - x)) ** 2;
    }
    return total / (n * size);
  };

  test.each([
    { shift: 1, discrete: false },
    { shift: 3, discrete: true },
  ])("is the error in the velocity at the drawn times, %o", async (options) => {
    const objective: Objective = { schedule: flowPath(options), predict: "flow" };
    const drawn = drawTimesteps(objective, n, seeded(4), { kind: "logit-normal" });
    expect(drawn.data).toEqual(sampleTimesteps(objective.schedule, n, seeded(4), { kind: "logit-normal" }));
    expect((await lossOf(objective, drawn)) / exact(drawn.data as Float32Array)).toBeCloseTo(1, 5);
  });

  test("at the ends of the path, where there is only image and only noise", async () => {
    const ends = float32([n], [0, 1000, 0, 1000]);
    const found = await lossOf({ schedule: flowPath(), predict: "flow" }, ends);
    expect(found / exact(ends.data)).toBeCloseTo(1, 5);
  });
});

test("offset noise moves every channel of every image by a constant of its own", () => {
  const moved = offsetNoise(noise, 0.1, seeded(3));
  const offsets = seeded(3).normal([n, c, 1, 1]).data;
  for (let i = 0; i < noise.data.length; i++) {
    expect(moved.data[i]! - noise.data[i]!).toBeCloseTo(0.1 * offsets[Math.floor(i / (h * w))]!, 6);
  }
  expect(offsetNoise(noise, 0, seeded(3))).toBe(noise);
});

test("bytes become numbers from −1 to 1", async () => {
  const images = input("images", [4], "uint8");
  const session = await openSession(toOnnx({ x: normalizedPixels(images) }).bytes, { name: "pixels", threads: 1 });
  const { x } = await session.run({ images: hostTensor("uint8", [4], Uint8Array.of(0, 255, 51, 204)) });
  await session.close();
  [-1, 1, -0.6, 0.6].forEach((value, i) => {
    expect(Number(x!.data[i])).toBeCloseTo(value, 6);
  });
  expect(float32([2], (x!.data as Float32Array).slice(0, 2)).data).toEqual(Float32Array.of(-1, 1));
});
