import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { joinBatch } from "../core/batch-parts.ts";
import { UserError } from "../core/errors.ts";
import { float32, type HostTensor } from "../core/host-tensor.ts";
import type { Dataset, LatentDataset } from "../data/index.ts";
import { samplerFromConfig } from "../diffusion/index.ts";
import { input, toOnnx } from "../graph/index.ts";
import { float16Bits, readSafetensors, readSafetensorsHeader, writeSafetensors } from "../io/index.ts";
import { inferenceTarget, openSession } from "../runtime/index.ts";
import { datasetOf } from "./dataset.ts";
import { drawLatents } from "./draw-latents.ts";
import type { FineTuneRecipe } from "./fine-tune-recipe.ts";
import { predictionOf } from "./fine-tuning.ts";
import { frozenText } from "./frozen-text.ts";
import type { BaseModel } from "./pretrained-model.ts";

/** Pictures that are drawn at once. */
const BATCH = 4;

/** The logarithm of the variance of a latent that is known exactly; the least that a posterior has. */
const CERTAIN = -30;

/**
 * Pictures of the class that a subject belongs to (Ruiz et al. 2023, section 3.2): those of a folder, or as the paper has
 * it drawn by the model as it is. Drawn latents are taken as they are, without a way through pixels, and kept in the run's
 * folder.
 *
 * @param like the subject's latents, whose size they have
 */
export async function priorPictures(
  base: BaseModel,
  recipe: FineTuneRecipe,
  like: LatentDataset,
  { encode, signal }: { readonly encode: (dataset: Dataset) => Promise<LatentDataset>; readonly signal?: AbortSignal },
): Promise<LatentDataset> {
  const { prompt, data } = recipe.prior!;
  const captionsFor = (count: number) => Array.from({ length: count }, () => [prompt]);
  if (data !== undefined) {
    const pictures = await datasetOf({ ...recipe, data, captions: undefined, flip: false }, { signal });
    return encode({ ...pictures, captions: captionsFor(pictures.count) });
  }
  const file = join(recipe.run, "prior.safetensors");
  const moments = existsSync(file)
    ? await readPrior(file, base, recipe)
    : await drawPrior(file, base, recipe, like, signal);
  const count = moments.shape[0]!;
  const size = moments.data.length / count;
  return {
    ...like,
    name: `${count} pictures of “${prompt}”, drawn by the model`,
    count,
    flip: false,
    read(image, _mirrored, target) {
      for (let i = 0; i < size; i++) target[i] = float16Bits(moments.data[image * size + i]!);
    },
    // They lie in memory.
    close() {},
    captions: captionsFor(count),
    labels: undefined,
    classNames: undefined,
    fingerprint: createHash("sha256").update(prompt).update(new Uint8Array(moments.data.buffer)).digest("hex"),
  };
}

/** How the pictures came to be: others are not taken in their place. */
function originOf({ fingerprint }: BaseModel, { prior, seed, size }: FineTuneRecipe): string {
  return JSON.stringify({ ...prior, weight: undefined, seed, size, model: fingerprint });
}

async function readPrior(file: string, base: BaseModel, recipe: FineTuneRecipe): Promise<HostTensor<"float32">> {
  const { metadata } = await readSafetensorsHeader(file);
  if (metadata.origin !== originOf(base, recipe)) {
    throw new UserError(`${file} holds pictures that another model, or another recipe, has drawn.`, {
      hint: "Choose another run folder, or delete this file.",
      field: "prior",
    });
  }
  return (await readSafetensors(file)).get("moments") as HostTensor<"float32">;
}

/** Draws the pictures of the class with the model as it is. */
async function drawPrior(
  file: string,
  base: BaseModel,
  recipe: FineTuneRecipe,
  { channels, height, width, scalingFactor, shiftFactor }: LatentDataset,
  signal: AbortSignal | undefined,
): Promise<HostTensor<"float32">> {
  const { prompt, count: wanted, steps, guidance } = recipe.prior!;
  const { threads, device, seed } = recipe;
  const count = Math.min(BATCH, wanted);
  const condition = await frozenText(base.path, {
    captions: [prompt],
    maxLength: base.maxLength,
    variant: base.variants.of(base.stored.text_encoder.path),
    threads,
    signal,
  });
  const shape = [count, channels, height, width];
  const x = input("x", [2 * count, channels, height, width]);
  const output = predictionOf(base, condition, 2 * count)(x, input("timesteps", [2 * count]));
  const { bind, externalData } = base.fixed(["unet"]);
  const target = inferenceTarget(device === "auto" ? undefined : device);
  const session = await openSession(toOnnx({ output }, { bind, target }).bytes, {
    ...{ name: "class pictures", device, threads, externalData },
  });
  const drawn: HostTensor<"float32">[] = [];
  try {
    const half = (text: string) => Array.from({ length: count }, () => text);
    const words = condition.feeds([...half(prompt), ...half(condition.none)]);
    const plan = samplerFromConfig(base.scheduler).plan({ steps });
    for (let first = 0; first < wanted; first += count) {
      signal?.throwIfAborted();
      // Seeds far from those of the sample grid.
      drawn.push(await drawLatents(session, { plan, shape, words, guidance, seed: seed + 1_000_000 + first }));
    }
  } finally {
    await session.close();
  }
  const latents = joinBatch(drawn);
  const size = channels * height * width;
  const moments = new Float32Array(wanted * 2 * size).fill(CERTAIN);
  for (let i = 0; i < wanted; i++) {
    const own = latents.data.subarray(i * size, (i + 1) * size);
    moments.set(
      own.map((value) => value / scalingFactor + shiftFactor),
      i * 2 * size,
    );
  }
  const kept = float32([wanted, 2 * channels, height, width], moments);
  await mkdir(recipe.run, { recursive: true });
  await writeSafetensors(file, new Map([["moments", kept]]), { origin: originOf(base, recipe) });
  return kept;
}
