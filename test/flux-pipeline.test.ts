import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { float32, type HostTensor, int64 } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { openTokenizer } from "../src/io/index.ts";
import { pipeline, type TextToImagePipeline } from "../src/pipelines/index.ts";
import { closeRuns, decoded, farthest, run, tinyFlux, writeTiny } from "./tiny-models.ts";

const tiny = { dev: tinyFlux("dev"), schnell: tinyFlux("schnell") };
let folder: string;
let dev: TextToImagePipeline;
let schnell: TextToImagePipeline;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-flux-"));
  for (const kind of ["dev", "schnell"] as const) await writeTiny(join(folder, kind), tiny[kind]);
  dev = await pipeline("text-to-image", join(folder, "dev"), { threads: 1 });
  schnell = await pipeline("text-to-image", join(folder, "schnell"), { threads: 1 });
});
afterAll(async () => {
  await dev.close();
  await schnell.close();
  await closeRuns();
  await rm(folder, { recursive: true });
});

type Kind = keyof typeof tiny;

interface Told {
  readonly text: HostTensor<"float32">;
  readonly pooled: HostTensor<"float32">;
}

async function told(kind: Kind, forClip: string, forT5: string): Promise<Told> {
  const { text_encoder: clip, text_encoder_2: t5 } = tiny[kind].parts;
  const length = kind === "dev" ? 512 : 256;
  const ids = (await openTokenizer(join(folder, kind, "tokenizer"))).encode(forClip);
  const padded = [...ids, ...Array<number>(77 - ids.length).fill(ids.at(-1)!)];
  const { pooled } = await run(clip, { ids: int64([1, 77], padded) }, ({ ids }) => ({
    pooled: clip.network(ids!).pooled,
  }));
  const pieces = (await openTokenizer(join(folder, kind, "tokenizer_2"))).encode(forT5);
  const filled = [...pieces, ...Array<number>(length - pieces.length).fill(0)];
  const { text } = await run(t5, { ids: int64([1, length], filled) }, ({ ids }) => ({ text: t5.network(ids!).last }));
  return { text: text!, pooled: pooled! };
}

const [HEIGHT, WIDTH] = [6, 8];
const TOKENS = (HEIGHT / 2) * (WIDTH / 2);

/** Where the element of a latent [4, 6, 8] lies among tokens [12, 16]: 2×2 squares, channels first. */
function placeOf(i: number): number {
  const [channel, y, x] = [Math.floor(i / (HEIGHT * WIDTH)), Math.floor(i / WIDTH) % HEIGHT, i % WIDTH];
  const token = Math.floor(y / 2) * (WIDTH / 2) + Math.floor(x / 2);
  return token * 16 + channel * 4 + (y % 2) * 2 + (x % 2);
}

async function velocity(kind: Kind, latents: Float32Array, sigma: number, { text, pooled }: Told, guidance: number) {
  const { transformer } = tiny[kind].parts;
  const tokens = new Float32Array(latents.length);
  latents.forEach((value, i) => {
    tokens[placeOf(i)] = value;
  });
  const where: number[] = [];
  for (let row = 0; row < HEIGHT / 2; row++)
    for (let column = 0; column < WIDTH / 2; column++) where.push(0, row, column);
  const feeds = {
    x: float32([1, TOKENS, 16], tokens),
    timestep: float32([1], [sigma]),
    ...{ text, pooled },
    imagePositions: float32([TOKENS, 3], where),
    textPositions: float32([text.shape[1]!, 3], new Float32Array(text.shape[1]! * 3)),
    ...(kind === "dev" ? { guidance: float32([1], [guidance]) } : {}),
  };
  const { y } = await run(transformer, feeds, ({ x, ...others }) => ({
    y: transformer.network(x!, others as unknown as Parameters<typeof transformer.network>[1]),
  }));
  return latents.map((_, i) => y!.data[placeOf(i)]!);
}

/** Evenly from 1 to 1/steps; with a shift e^μ that is linear in the tokens, 0.5 at 256 and 1.15 at 4096. */
function sigmasOf(kind: Kind, steps: number): number[] {
  const mu = 0.5 + ((TOKENS - 256) * 0.65) / 3840;
  const even = Array.from({ length: steps }, (_, i) => 1 + (steps === 1 ? 0 : (i / (steps - 1)) * (1 / steps - 1)));
  return [...even.map((u) => (kind === "dev" ? Math.exp(mu) / (Math.exp(mu) + 1 / u - 1) : u)), 0];
}

const size = { height: 2 * HEIGHT, width: 2 * WIDTH };

test("FLUX.1 dev draws what its networks give by hand, and is told its guidance as a number", async () => {
  const request = { prompt: "a red cat", prompt2: "a cat in the fog", guidance: 2.5, steps: 3, seed: 8 };
  const [image] = await dev.generate({ ...request, ...size });
  const words = await told("dev", "a red cat", "a cat in the fog");
  const sigmas = sigmasOf("dev", 3);
  let x: Float32Array = seeded(8).normal([1, 4, HEIGHT, WIDTH]).data;
  for (let i = 0; i < 3; i++) {
    const v = await velocity("dev", x, sigmas[i]!, words, 2.5);
    x = x.map((value, j) => value + (sigmas[i + 1]! - sigmas[i]!) * v[j]!);
  }
  const expected = await decoded(tiny.dev.parts.vae, float32([1, 4, HEIGHT, WIDTH], x));
  expect(farthest(image!.float.data, expected)).toBeLessThan(2e-4);
  const [other] = await dev.generate({ ...request, ...size, guidance: 6 });
  expect(farthest(image!.float.data, other!.float.data)).toBeGreaterThan(1e-3);
});

test("it is led away from a negative prompt where a true guidance is given", async () => {
  const request = { prompt: "a red cat", negativePrompt: "blurry", trueGuidance: 3, steps: 2, seed: 1 };
  let latents: Float32Array = new Float32Array();
  for await (const { x } of dev.stream({ ...request, ...size })) latents = x.data;
  const [prompt, negative] = [await told("dev", "a red cat", "a red cat"), await told("dev", "blurry", "blurry")];
  const sigmas = sigmasOf("dev", 2);
  let x: Float32Array = seeded(1).normal([1, 4, HEIGHT, WIDTH]).data;
  for (let i = 0; i < 2; i++) {
    // 3.5 is what dev is told where a request does not say.
    const [to, from] = [
      await velocity("dev", x, sigmas[i]!, prompt, 3.5),
      await velocity("dev", x, sigmas[i]!, negative, 3.5),
    ];
    x = x.map((value, j) => value + (sigmas[i + 1]! - sigmas[i]!) * (from[j]! + 3 * (to[j]! - from[j]!)));
  }
  expect(farthest(latents, x)).toBeLessThan(1e-3);
});

test("FLUX.1 schnell draws in four steps without guidance, from 256 tokens", async () => {
  const request = { prompt: "a red cat", seed: 3 };
  const levels: number[] = [];
  let latents: Float32Array = new Float32Array();
  for await (const { x, timestep } of schnell.stream({ ...request, ...size })) {
    levels.push(timestep);
    latents = x.data;
  }
  expect(levels).toEqual([1000, 750, 500, 250]);
  const words = await told("schnell", "a red cat", "a red cat");
  let x: Float32Array = seeded(3).normal([1, 4, HEIGHT, WIDTH]).data;
  for (const sigma of [1, 0.75, 0.5, 0.25]) {
    const v = await velocity("schnell", x, sigma, words, 0);
    x = x.map((value, j) => value - 0.25 * v[j]!);
  }
  expect(farthest(latents, x)).toBeLessThan(1e-3);
});

test("every sampler of flow matching takes its shift, also one that knows none by size", async () => {
  const times = async (sampler: "euler" | "heun" | "dpm++2m" | "unipc") => {
    const all: number[] = [];
    for await (const { timestep } of dev.stream({ prompt: "a cat", ...size, steps: 4, sampler })) all.push(timestep);
    return all;
  };
  const shift = Math.exp(0.5 + ((TOKENS - 256) * 0.65) / 3840);
  const shifted = (u: number) => (1000 * shift * u) / (1 + (shift - 1) * u);
  expect(farthest(await times("euler"), [1, 0.75, 0.5, 0.25].map(shifted))).toBeLessThan(1e-2);
  // Its grid ends at the last training timestep, shifted twice.
  const low = shifted(0.001) / 1000;
  expect(
    farthest(
      await times("heun"),
      [0, 1, 2, 3].map((i) => shifted(1 + (i / 3) * (low - 1))),
    ),
  ).toBeLessThan(1e-2);
  // Evenly from the first training timestep to 0, or from 1 to the last one; their timesteps are whole numbers.
  const quarters = [0, 1, 2, 3].map((i) => i / 4);
  expect(
    farthest(
      await times("dpm++2m"),
      quarters.map((q) => shifted(0.999 * (1 - q))),
    ),
  ).toBeLessThan(1.01);
  expect(
    farthest(
      await times("unipc"),
      quarters.map((q) => shifted(1 - 0.999 * q)),
    ),
  ).toBeLessThan(1.01);
});

test("what has no effect or no use is refused by name", async () => {
  const refused = async (pipe: TextToImagePipeline, request: object) =>
    pipe.generate({ prompt: "a cat", ...request }).then(
      () => undefined,
      ({ options, message }) => [options.field, message],
    );
  const nothing = expect.stringContaining("no use for it");
  expect(await refused(dev, { clipSkip: 1 })).toEqual(["clipSkip", nothing]);
  expect(await refused(dev, { negativePrompt: "blurry" })).toEqual([
    ...["negativePrompt", expect.stringMatching(/guidance as a number.\n.*give `trueGuidance` above 1/)],
  ]);
  expect(await refused(dev, { trueGuidance: 2 })).toEqual([
    ...["trueGuidance", expect.stringContaining("without `negativePrompt`")],
  ]);
  expect(await refused(dev, { guidanceInterval: [1, 2] })).toEqual([
    ...["guidanceInterval", expect.stringContaining("no effect")],
  ]);
  expect(await refused(schnell, { guidance: 3.5 })).toEqual(["guidance", expect.stringContaining("drawn with none")]);
  expect(await refused(dev, { width: 14, height: 12 })).toEqual(["width", expect.stringContaining("Near is 12 or 16")]);
});
