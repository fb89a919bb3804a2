import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { float32, int64 } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { type Samples, samplerFromConfig } from "../src/diffusion/index.ts";
import { openTokenizer } from "../src/io/index.ts";
import { pipeline, type TextToImagePipeline } from "../src/pipelines/index.ts";
import { closeRuns, decoded, farthest, run, tinyPixArt, writeTiny } from "./tiny-models.ts";

const kinds = ["Alpha", "Sigma"] as const;
const tiny = { Alpha: tinyPixArt("Alpha"), Sigma: tinyPixArt("Sigma") };
const pipes = {} as Record<(typeof kinds)[number], TextToImagePipeline>;
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-pixart-"));
  for (const kind of kinds) {
    await writeTiny(join(folder, kind), tiny[kind]);
    pipes[kind] = await pipeline("text-to-image", join(folder, kind), { threads: 1 });
  }
});
afterAll(async () => {
  for (const kind of kinds) await pipes[kind].close();
  await closeRuns();
  await rm(folder, { recursive: true });
});

/** What T5 says of a text that is padded to a length, and which of its tokens count. */
async function encoded(kind: (typeof kinds)[number], text: string, length: number) {
  const { text_encoder: t5 } = tiny[kind].parts;
  const ids = (await openTokenizer(join(folder, kind, "tokenizer"))).encode(text);
  const padded = [...ids, ...Array<number>(length - ids.length).fill(0)];
  const mask = float32(
    [1, length],
    Float32Array.from(padded, (_, i) => (i < ids.length ? 1 : 0)),
  );
  const { states } = await run(t5, { ids: int64([1, length], padded), mask }, (inputs) => ({
    states: t5.network(inputs.ids!, inputs.mask).last,
  }));
  return { states: states!, mask };
}

describe.each([
  ["Alpha", 120, { width: 16, height: 12 }],
  ["Sigma", 300, {}],
] as const)("PixArt-%s", (kind, length, size) => {
  test("draws what its networks and sampler give by hand", async () => {
    const request = { prompt: " A red CAT in the fog", negativePrompt: "blurry", guidance: 3, steps: 3, seed: 5 };
    const [image] = await pipes[kind].generate({ ...request, ...size });

    const { transformer, vae } = tiny[kind].parts;
    const [height, width] = kind === "Alpha" ? [12, 16] : [16, 16];
    const told = [await encoded(kind, "a red cat in the fog", length), await encoded(kind, "blurry", length)];
    const call = async (x: Samples, t: number, { states, mask }: (typeof told)[number]): Promise<Float32Array> => {
      const sizes = {
        resolution: float32([1, 2], [height, width]),
        aspectRatio: float32([1, 1], [height / width]),
      };
      const feeds = { x, t: float32([1], [t]), states, mask, ...(kind === "Alpha" ? sizes : {}) };
      const { y } = await run(transformer, feeds, ({ x, t, states, mask, resolution, aspectRatio }) => ({
        y: transformer.network(x!, t!, states!, { contextMask: mask, resolution, aspectRatio }),
      }));
      // Half of its channels are the variance.
      expect(y!.shape[1]).toBe(8);
      return y!.data.slice(0, x.data.length);
    };
    const plan = samplerFromConfig(tiny[kind].scheduler).plan({ steps: 3 });
    const start = seeded(5).normal([1, 4, height / 2, width / 2]);
    let latents: Samples | undefined;
    const network = async (x: Samples, t: number) => {
      const [conditional, unconditional] = [await call(x, t, told[0]!), await call(x, t, told[1]!)];
      return float32(
        x.shape,
        conditional.map((value, i) => unconditional[i]! + 3 * (value - unconditional[i]!)),
      );
    };
    for await (const { x } of plan.sample(network, start)) latents = x;
    expect(farthest(image!.float.data, await decoded(vae, latents!))).toBeLessThan(2e-4);
    expect([image!.width, image!.height]).toEqual([width, height]);
  });

  test("reads prompts of its length, and another length where it is asked to", async () => {
    const prompt = "a cat, ".repeat(120);
    const { positive } = await pipes[kind].conditions({ prompt });
    expect([positive.text.shape, positive.textMask!.shape]).toEqual([
      [1, length, 16],
      [1, length],
    ]);
    expect(pipes[kind].dropped({ prompt })[0]!.dropped).toMatch(/cat, .* cat,$/);
    expect(pipes[kind].dropped({ prompt: "a cat" })).toEqual([]);
    const short = await pipes[kind].conditions({ prompt: "a cat", textLength: 5 });
    // ▁a, ▁cat, the end, and two that stand for nothing.
    expect(Array.from(short.positive.textMask!.data)).toEqual([1, 1, 1, 0, 0]);
  });
});

test("only PixArt-α is told the size of the picture", async () => {
  const given = { prompt: "a cat", width: 16, height: 12 };
  const { positive, negative } = await pipes.Alpha.conditions({ ...given, prompt: ["a cat", "a dog"] });
  for (const { resolution, aspectRatio } of [positive, negative!]) {
    expect(Array.from(resolution!.data)).toEqual([12, 16, 12, 16]);
    expect(Array.from(aspectRatio!.data)).toEqual([0.75, 0.75]);
  }
  expect((await pipes.Sigma.conditions(given)).positive.resolution).toBeUndefined();
});
