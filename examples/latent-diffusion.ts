/**
 * Follows one picture through a latent diffusion model: encoder, noise, denoising, decoder. Writes the pictures of
 * docs/latent-diffusion.md. `npx tsx examples/latent-diffusion.ts [model] [folder]`
 */
import { mkdir } from "node:fs/promises";
import { float32, type HostTensor } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { emoji, imagesAt } from "../src/data/index.ts";
import { addNoise, namedSchedule } from "../src/diffusion/index.ts";
import {
  asRgb,
  type HostImage,
  hostImage,
  imagesFromBytes,
  imagesFromTensor,
  readJsonObject,
  saveGrid,
} from "../src/io/index.ts";
import { textToImagePipeline } from "../src/pipelines/index.ts";
import { openAutoencoder } from "../src/train/index.ts";

const [model = "models/emoji", folder = "docs/images"] = process.argv.slice(2);
const PROMPT = "a smiling face";
const LOOK = { scale: 2, gap: 4 };
await mkdir(folder, { recursive: true });

// A picture that the model never saw.
const heldOut = await emoji({ size: 64, split: "held-out" });
const which = Uint32Array.of(heldOut.captions!.findIndex(([caption]) => caption!.includes("face")));
const picture = imagesAt(heldOut, which);

// The encoder says mean and logarithm of the variance of every number of the latent.
const autoencoder = await openAutoencoder(`${model}/vae`);
const { latent_channels: channels, scaling_factor: scale } = autoencoder.config;
const { data: moments, shape } = await autoencoder.encode(picture);
const latentShape = [1, channels, ...shape.slice(2)];
const half = moments.length / 2;
const noise = seeded(0).normal(latentShape);
const deviations = moments.subarray(half).map((logVariance) => Math.exp(0.5 * logVariance));
const z = float32(
  latentShape,
  moments.subarray(0, half).map((mean, i) => scale * (mean + deviations[i]! * noise.data[i]!)),
);
const reconstruction = imagesFromTensor(await autoencoder.decode(z));
await saveGrid(`${folder}/latent-autoencoder.png`, [...imagesFromBytes(picture), ...planes(z), ...reconstruction], {
  ...LOOK,
  columns: 2 + channels,
  labels: ["picture", ...Array.from({ length: channels }, (_, c) => `z, channel ${c}`), "decoded z"],
});
console.log(
  `${picture.data.length} bytes → ${z.data.length} numbers of deviation ${deviation(z.data).toFixed(2)}; ` +
    `the posterior's own deviation is ${(scale * mean(deviations)).toFixed(3)}`,
);

// Noise is added to the latent; what it hides is seen through the decoder.
const { beta_schedule, beta_start, beta_end, rescale_betas_zero_snr } = await readJsonObject(
  `${model}/scheduler/scheduler_config.json`,
);
const schedule = namedSchedule(beta_schedule as "scaled_linear", {
  start: beta_start as number,
  end: beta_end as number,
  zeroTerminalSnr: rescale_betas_zero_snr as boolean,
});
const times = [0, 200, 400, 600, 800, 999];
const noisy: HostImage[] = [];
for (const t of times) {
  noisy.push(...imagesFromTensor(await autoencoder.decode(addNoise(schedule, z, noise, t))));
}
await saveGrid(`${folder}/latent-noise.png`, noisy, {
  ...LOOK,
  columns: times.length,
  labels: times.map((t) => `t = ${t}`),
});

// From noise back, under words: what the model takes for the picture, step by step.
const pipe = await textToImagePipeline(model);
const seen: { step: number; image: HostImage }[] = [];
for await (const state of pipe.stream({ prompt: PROMPT, steps: 20, guidance: 5, seed: 1 })) {
  if (![1, 2, 4, 8, 14, 20].includes(state.step)) continue;
  const [image] = imagesFromTensor(await autoencoder.decode(state.x0));
  seen.push({ step: state.step, image: image! });
}
await saveGrid(
  `${folder}/latent-denoising.png`,
  seen.map(({ image }) => image),
  { ...LOOK, columns: seen.length, labels: seen.map(({ step }) => `step ${step}`) },
);

// Guidance: the same noise, with the words weighing more and more.
const weights = [0, 1, 3, 5, 8];
const guided: HostImage[] = [];
for (const guidance of weights) {
  const prompt = guidance === 0 ? "" : PROMPT;
  guided.push(...(await pipe.generate({ prompt, steps: 20, guidance: Math.max(1, guidance), seed: 1 })));
}
await saveGrid(`${folder}/latent-guidance.png`, guided, {
  ...LOOK,
  columns: weights.length,
  labels: weights.map((w) => (w === 0 ? "no words" : `w = ${w}`)),
});
await pipe.close();
await autoencoder.close();

/** The channels of a latent as gray pictures of 64×64, from −3 (black) to 3 (white). */
function planes({ data, shape: [, count, height, width] }: HostTensor<"float32">): HostImage[] {
  const [rows, columns, times] = [height!, width!, 64 / height!];
  return Array.from({ length: count! }, (_, c) => {
    const gray = Uint8Array.from({ length: 64 * 64 }, (_, i) => {
      const [y, x] = [Math.floor(i / 64 / times), Math.floor((i % 64) / times)];
      const value = data[(c * rows + y) * columns + x]!;
      return Math.round((255 * (Math.min(Math.max(value, -3), 3) + 3)) / 6);
    });
    return asRgb(hostImage(64, 64, 1, gray));
  });
}

function mean(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function deviation(values: Float32Array): number {
  const center = mean(values);
  return Math.sqrt(mean(values.map((value) => (value - center) ** 2)));
}
