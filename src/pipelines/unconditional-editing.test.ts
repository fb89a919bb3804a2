import { expect, test } from "vitest";
import { float32 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import {
  type Network,
  type NoiseSource,
  namedSampler,
  noiseFrom,
  SAMPLERS,
  type SamplerName,
  seededPerImage,
} from "../diffusion/index.ts";
import { sampleBatch } from "./unconditional-editing.ts";

const shape = [2, 1, 4, 4];
const random = seeded(3);
const original = random.normal([1, 1, 4, 4]);
const left = (i: number) => i % 4 < 2;
const mask = float32(
  [1, 1, 4, 4],
  Float32Array.from({ length: 16 }, (_, i) => (left(i) ? 0 : 1)),
);

test.each(Object.keys(SAMPLERS) as SamplerName[])(
  "each call of %s sees what a mask keeps at the call's own level, with the noise of the start",
  async (name) => {
    const draw = noiseFrom(seededPerImage(5, 2));
    let first: Float32Array | undefined;
    const noise: NoiseSource = (of) => {
      const drawn = draw(of);
      first ??= drawn.data.slice();
      return drawn;
    };
    let calls = 0;
    const network: Network = async (x, _, { level: { alpha, sigma } }) => {
      calls++;
      x.data.forEach((value, i) => {
        if (!left(i)) return;
        const kept = (alpha * original.data[i % 16]! + sigma * first![i]!) / Math.hypot(alpha, sigma);
        expect([name, calls, Math.abs(value - kept) < 1e-3]).toEqual([name, calls, true]);
      });
      return float32(
        x.shape,
        x.data.map((value, i) => Math.tanh(value + 0.2 * x.data[(i + 1) % 32]!)),
      );
    };
    const plan = namedSampler(name, { _class_name: "DDPMScheduler" }).plan({ steps: 6 });
    const source = { image: original, mask, strength: 1 };
    let last: Float32Array | undefined;
    for await (const { x } of sampleBatch({ plan, network, shape, noise, source })) last = x.data;
    expect(calls).toBe(plan.timesteps.length);
    last!.forEach((value, i) => {
      if (left(i)) expect(value).toBeCloseTo(original.data[i % 16]!, 5);
    });
  },
);
