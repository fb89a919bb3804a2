import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { float32, type HostTensor, int64 } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { hostImage, openTokenizer } from "../src/io/index.ts";
import { diagonalGaussian } from "../src/models/index.ts";
import { pipeline, type TextToImagePipeline } from "../src/pipelines/index.ts";
import { closeRuns, decoded, farthest, run, tinySd3, writeTiny } from "./tiny-models.ts";

const tiny = tinySd3();
let folder: string;
let pipe: TextToImagePipeline;
/** Without T5, and with a shift that depends on the size. */
let small: TextToImagePipeline;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-sd3-"));
  await writeTiny(join(folder, "whole"), tiny);
  await writeTiny(join(folder, "small"), tinySd3({ withT5: false, dynamic: true }));
  pipe = await pipeline("text-to-image", join(folder, "whole"), { threads: 1 });
  small = await pipeline("text-to-image", join(folder, "small"), { threads: 1 });
});
afterAll(async () => {
  await pipe.close();
  await small.close();
  await closeRuns();
  await rm(folder, { recursive: true });
});

interface Told {
  readonly text: HostTensor<"float32">;
  readonly pooled: HostTensor<"float32">;
}

/** The text as the transformer sees it, row by row: 77 of CLIP's, 4 and 8 wide, in 16 columns, then 256 of T5's. */
async function told([first, second, third]: readonly [string, string, string]): Promise<Told> {
  const { text_encoder, text_encoder_2, text_encoder_3 } = tiny.parts;
  const text = new Float32Array((77 + 256) * 16);
  const pooled: number[] = [];
  for (const [part, number, words, column] of [
    [text_encoder, "", first, 0],
    [text_encoder_2, "_2", second, 4],
  ] as const) {
    const ids = (await openTokenizer(join(folder, "whole", `tokenizer${number}`))).encode(words);
    const padded = [...ids, ...Array<number>(77 - ids.length).fill(ids.at(-1)!)];
    const out = await run(part, { ids: int64([1, 77], padded) }, ({ ids }) => {
      const { hidden, pooled } = part.network(ids!);
      // The embeddings and two layers: the state before the last layer is the second of three.
      return { states: hidden[1]!, pooled };
    });
    const width = out.states!.shape[2]!;
    for (let t = 0; t < 77; t++) text.set(out.states!.data.subarray(t * width, (t + 1) * width), t * 16 + column);
    pooled.push(...out.pooled!.data);
  }
  const ids = (await openTokenizer(join(folder, "whole", "tokenizer_3"))).encode(third);
  const padded = [...ids, ...Array<number>(256 - ids.length).fill(0)];
  const { states } = await run(text_encoder_3!, { ids: int64([1, 256], padded) }, ({ ids }) => ({
    states: (text_encoder_3!.network as ReturnType<typeof import("../src/models/index.ts").t5Encoder>)(ids!).last,
  }));
  text.set(states!.data, 77 * 16);
  return { text: float32([1, 333, 16], text), pooled: float32([1, 11], pooled) };
}

async function velocity(x: Float32Array, t: number, { text, pooled }: Told): Promise<Float32Array> {
  const { transformer } = tiny.parts;
  const feeds = { x: float32([1, 4, 8, 8], x), t: float32([1], [t]), text, pooled };
  const { y } = await run(transformer, feeds, ({ x, t, text, pooled }) => ({
    y: transformer.network(x!, t!, text!, pooled!),
  }));
  return y!.data.slice();
}

/** Guided Euler steps between noise levels. */
async function euler(start: Float32Array, sigmas: readonly number[], [prompt, other]: readonly Told[]) {
  let x = start;
  for (let i = 0; i + 1 < sigmas.length; i++) {
    const conditional = await velocity(x, sigmas[i]! * 1000, prompt!);
    const unconditional = await velocity(x, sigmas[i]! * 1000, other!);
    x = x.map((value, j) => {
      const v = unconditional[j]! + 4 * (conditional[j]! - unconditional[j]!);
      return value + (sigmas[i + 1]! - sigmas[i]!) * v;
    });
  }
  return x;
}

/** The times of a static shift of 3, which diffusers applies to the ends of the grid and to the grid. */
function shiftedSigmas(steps: number): number[] {
  const shifted = (u: number) => (3 * u) / (1 + 2 * u);
  const low = shifted(1 / 1000);
  const even = Array.from({ length: steps }, (_, i) => 1 + (i / (steps - 1)) * (low - 1));
  return [...even.map(shifted), 0];
}

test("Stable Diffusion 3 draws what its networks give by hand, each encoder with its own prompt", async () => {
  const request = {
    ...{ prompt: "a red cat", prompt2: "a photo of a cat", prompt3: "a cat in the fog" },
    ...{ negativePrompt: "blurry", negativePrompt3: "a dog", guidance: 4, steps: 3, seed: 8 },
  };
  const [image] = await pipe.generate(request);
  const both = [
    await told(["a red cat", "a photo of a cat", "a cat in the fog"]),
    await told(["blurry", "blurry", "a dog"]),
  ];
  const latents = await euler(seeded(8).normal([1, 4, 8, 8]).data, shiftedSigmas(3), both);
  expect(farthest(image!.float.data, await decoded(tiny.parts.vae, float32([1, 4, 8, 8], latents)))).toBeLessThan(2e-4);
});

test("from an image it begins with its latent, noised for as many steps as diffusers runs", async () => {
  const bytes = Uint8Array.from({ length: 16 * 16 * 3 }, (_, i) => (i * 37) % 256);
  const request = { prompt: "a red cat", guidance: 4, steps: 5, strength: 0.5, seed: 2 };
  const states = [];
  for await (const state of pipe.stream({ ...request, image: hostImage(16, 16, 3, bytes) })) states.push(state);
  // 5 steps by half are 2.5; Stable Diffusion would run 2 of them.
  expect(states.map(({ step, steps }) => [step, steps])).toEqual([
    [1, 3],
    [2, 3],
    [3, 3],
  ]);

  const { vae } = tiny.parts;
  // Channels first, in −1 … 1.
  const pixels = Float32Array.from(
    { length: 3 * 256 },
    (_, i) => bytes[(i % 256) * 3 + Math.floor(i / 256)]! / 127.5 - 1,
  );
  const { mean, deviation } = await run(vae, { picture: float32([1, 3, 16, 16], pixels) }, ({ picture }) => {
    const { mean, deviation } = diagonalGaussian(vae.network.encode(picture!));
    return { mean, deviation };
  });
  const random = seeded(2);
  const [first, second] = [random.normal([1, 4, 8, 8]).data, random.normal([1, 4, 8, 8]).data];
  const sigmas = shiftedSigmas(5).slice(2);
  const start = first.map((noise, i) => {
    const latent = (mean!.data[i]! + deviation!.data[i]! * noise - 0.0609) * 1.5305;
    return (1 - sigmas[0]!) * latent + sigmas[0]! * second[i]!;
  });
  expect(farthest(states[0]!.start.data, start)).toBeLessThan(1e-4);
  const both = [await told(["a red cat", "a red cat", "a red cat"]), await told(["", "", ""])];
  const latents = await euler(start, sigmas, both);
  expect(farthest(states[2]!.x.data, latents)).toBeLessThan(1e-3);
});

test("without T5 its place in the text is zeros, and the shift may depend on the size", async () => {
  const { positive } = await small.conditions({ prompt: "a red cat" });
  expect(positive.text.shape).toEqual([1, 333, 16]);
  expect(positive.text.data.slice(77 * 16).every((value) => value === 0)).toBe(true);
  expect(farthest(positive.textEmbeds!.data, (await told(["a red cat", "a red cat", ""])).pooled.data)).toBeLessThan(
    1e-5,
  );

  const times = async (size: number) => {
    const timesteps: number[] = [];
    for await (const { timestep } of small.stream({ prompt: "a cat", steps: 3, width: size, height: size })) {
      timesteps.push(timestep);
    }
    return timesteps;
  };
  // μ is linear in the patches: 0.5 at 16 and 1.15 at 64, so 0.77083 at the 36 of 24 pixels. Times go from 1 to 1/1000.
  for (const [size, mu] of [
    [16, 0.5],
    [24, 0.5 + (0.65 * 20) / 48],
  ] as const) {
    const expected = [1, 0.5005, 0.001].map((u) => (1000 * Math.exp(mu)) / (Math.exp(mu) + 1 / u - 1));
    expect(farthest(await times(size), expected)).toBeLessThan(1e-2);
  }
});

test("what it has no use for, or no room, is refused by name", async () => {
  const refused = async (pipe: TextToImagePipeline, request: object) =>
    pipe.generate({ prompt: "a cat", ...request }).then(
      () => undefined,
      ({ options, message }) => [options.field, message],
    );
  expect(await refused(small, { prompt3: "a dog" })).toEqual(["prompt3", expect.stringContaining("no use for it")]);
  expect(await refused(small, { textLength: 100 })).toEqual(["textLength", expect.stringContaining("no use for it")]);
  expect(await refused(pipe, { weights: true })).toEqual(["weights", expect.stringContaining("no use for it")]);
  expect(await refused(pipe, { width: 18 })).toEqual(["width", expect.stringContaining("Near is 16 or 20")]);
  expect(await refused(pipe, { height: 64 })).toEqual(["height", expect.stringContaining("at most 48")]);
  expect(await refused(pipe, { guidance: 1, negativePrompt3: "a dog" })).toEqual([
    ...["negativePrompt3", expect.stringContaining("no effect, since guidance is 1")],
  ]);
});
