import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { pipeline, type TextToImagePipeline, type TextToImageRequestInput } from "../src/pipelines/index.ts";

const model = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
let pipe: TextToImagePipeline;
beforeAll(async () => {
  pipe = await pipeline("text-to-image", model, { threads: 1 });
});
afterAll(() => pipe.close());

const request = { prompt: "a photo of a red cat", steps: 8, sampler: "euler" } as const;
const draw = async (more: Partial<TextToImageRequestInput>) =>
  (await pipe.generate({ ...request, ...more }))[0]!.float.data;
/** Root of the mean square of differences, of pictures from 0 to 1. */
const distance = (a: Float32Array, b: Float32Array) =>
  Math.sqrt(a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0) / a.length);

test("what is computed in all steps decides how near the exact picture is, and how often the rest is", async () => {
  const exact = await draw({});
  const [rarely, often, deep] = [
    distance(await draw({ stepCache: 3 }), exact),
    distance(await draw({ stepCache: 2 }), exact),
    distance(await draw({ stepCache: 2, stepCacheDepth: 2 }), exact),
  ];
  // The figures of docs/few-steps.md.
  expect(rarely).toBeCloseTo(0.0163, 3);
  expect(often).toBeCloseTo(0.0085, 3);
  expect(deep).toBeCloseTo(0.0012, 3);
  // Without a step that could use anything again, nothing changes.
  expect(distance(await draw({ steps: 2, stepCache: 100 }), await draw({ steps: 2 }))).toBeGreaterThan(0);
  expect(distance(await draw({ steps: 1, stepCache: 2 }), await draw({ steps: 1 }))).toBe(0);
});

test("it goes with batches, guidance in part of the steps, samplers of two calls and pictures to start from", async () => {
  const [alone] = await pipe.generate({ ...request, stepCache: 2, seed: 5 });
  const together = await pipe.generate({ ...request, stepCache: 2, seed: 4, count: 2, batch: 2 });
  expect(distance(together[1]!.float.data, alone!.float.data)).toBeLessThan(1e-4);
  for (const more of [
    { guidanceInterval: [0, 3] as [number, number] },
    { sampler: "heun" as const },
    { image: { width: 24, height: 24, channels: 3 as const, data: new Uint8Array(1728).fill(90) }, strength: 0.6 },
  ]) {
    const [exact, cached] = [await draw(more), await draw({ ...more, stepCache: 2, stepCacheDepth: 2 })];
    expect(distance(cached, exact)).toBeGreaterThan(1e-5);
    expect(distance(cached, exact)).toBeLessThan(0.01);
  }
});

test("with guidance in turn each half uses its own states, also where guidance was off for a while", async () => {
  for (const more of [{}, { guidanceInterval: [0, 3] as [number, number] }, { sampler: "heun" as const }]) {
    const cached = { ...more, stepCache: 3 };
    const [exact, inTurn] = [await draw(more), await draw({ ...cached, guidanceInTurn: true })];
    expect(distance(inTurn, exact)).toBeGreaterThan(1e-4);
    expect(distance(inTurn, exact)).toBeLessThan(0.03);
    expect(distance(inTurn, await draw(cached))).toBeLessThan(1e-4);
  }
});

test.each<[Partial<TextToImageRequestInput>, string, RegExp]>([
  [{ stepCache: 1 }, "stepCache", /at least 2/],
  [{ stepCacheDepth: 1 }, "stepCacheDepth", /without `stepCache`/],
  [
    { stepCache: 2, stepCacheDepth: 4 },
    "stepCacheDepth",
    /stepCacheDepth is 4; this model's U-Net has layers for at most 3/,
  ],
])("%j is refused", async (more, field, message) => {
  await expect(draw(more)).rejects.toMatchObject({ options: { field }, message: expect.stringMatching(message) });
});
