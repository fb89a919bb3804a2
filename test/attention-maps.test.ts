import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  pipeline,
  type TextToImagePipeline,
  type TextToImageRequestInput,
  type TokenAttention,
} from "../src/pipelines/index.ts";

const model = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
let pipe: TextToImagePipeline;
beforeAll(async () => {
  pipe = await pipeline("text-to-image", model, { threads: 1 });
});
afterAll(() => pipe.close());

const request = { prompt: "a photo of a red cat", steps: 3, sampler: "euler" } as const;

async function drawn(more: Partial<TextToImageRequestInput>, attention?: { readonly level?: number }) {
  const maps: (readonly TokenAttention[])[] = [];
  const pictures: Float32Array[] = [];
  for await (const state of pipe.stream({ ...request, ...more }, { attention })) {
    maps.push(...(state.attention ?? []));
    pictures.push(...(state.images ?? []).map(({ float }) => float.data));
  }
  return { maps, pictures };
}

const farthest = (a: Float32Array, b: Float32Array) =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);

test("each place's attention is shared among the tokens, and the picture is the same", async () => {
  const { maps, pictures } = await drawn({}, {});
  const [own] = maps;
  expect(own!.map(({ token }) => token.text).slice(0, 10)).toEqual([
    ...["<|startoftext|>", "a", "pho", "to", "of", "a", "red", "c", "at"],
    "<|endoftext|>",
  ]);
  expect(own).toHaveLength(77);
  for (let place = 0; place < 144; place++) {
    expect(own!.reduce((sum, { map }) => sum + map.data[place]!, 0)).toBeCloseTo(1, 5);
  }
  expect(own![7]!.map.shape).toEqual([12, 12]);
  // Not the same everywhere, nor for every token.
  expect(Math.max(...own![7]!.map.data) / Math.min(...own![7]!.map.data)).toBeGreaterThan(1.01);
  expect(farthest(own![7]!.map.data, own![6]!.map.data)).toBeGreaterThan(1e-3);
  expect(pictures).toEqual((await drawn({})).pictures);
  expect((await drawn({})).maps).toEqual([]);
});

test("maps are those of the prompt, not of what is drawn away from, and the same alone and in a batch", async () => {
  const both = { prompt: [request.prompt, "a castle in the fog"], seeds: [3, 3], batch: 2 };
  const { maps } = await drawn(both, {});
  const [alone, castle] = [await drawn({ seed: 3 }, {}), await drawn({ seed: 3, prompt: "a castle in the fog" }, {})];
  expect(maps).toHaveLength(2);
  for (const [i, one] of [alone, castle].entries()) {
    expect(maps[i]!.map(({ token }) => token)).toEqual(one.maps[0]!.map(({ token }) => token));
    maps[i]!.forEach(({ map }, t) => {
      expect(farthest(map.data, one.maps[0]![t]!.map.data)).toBeLessThan(1e-4);
    });
  }
  // The first step sees the same latents whatever is drawn away from: so does the attention to the prompt.
  const first = async (negativePrompt: string) => (await drawn({ steps: 1, negativePrompt }, {})).maps[0]!;
  const [blurry, other] = [await first("blurry"), await first("a very different text")];
  blurry.forEach(({ map }, t) => {
    expect(farthest(map.data, other[t]!.map.data)).toBeLessThan(1e-6);
  });
});

test("a level is one that the network looks at the text at", async () => {
  await expect(drawn({}, { level: 1 })).rejects.toThrow(
    /does not look at the text at level 1.\nIt does at 0: so often are the latents' sides halved there/,
  );
  expect((await drawn({ width: 16, height: 20, steps: 1 }, { level: 0 })).maps[0]![1]!.map.shape).toEqual([10, 8]);
});

test("long prompts have the tokens of all their parts", async () => {
  const prompt = `${"a photo of a red cat, ".repeat(12)}and nothing else`;
  const { maps } = await drawn({ prompt, chunks: true, steps: 1 }, {});
  const [own] = maps;
  expect(own).toHaveLength(154);
  expect(own!.at(-1)!.token).toMatchObject({ position: 153, chunk: 1, kind: "padding" });
  expect(own!.reduce((sum, { map }) => sum + map.data[5]!, 0)).toBeCloseTo(1, 5);
  // Together with a step cache only whole steps count.
  const cached = await drawn({ stepCache: 2 }, {});
  expect(cached.maps[0]!.reduce((sum, { map }) => sum + map.data[5]!, 0)).toBeCloseTo(1, 5);
});
