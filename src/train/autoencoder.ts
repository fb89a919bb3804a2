import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { float32, type HostTensor } from "../core/host-tensor.ts";
import { type Batches, batches, type Dataset, fingerprint, imagesAt } from "../data/index.ts";
import { abs, add, input, mean, mul, sub, type Tensor } from "../graph/index.ts";
import { imagesFromTensor, saveGrid, writeModelFolder } from "../io/index.ts";
import { peakSignalToNoise, structuralSimilarity } from "../metrics/image-quality.ts";
import { type AutoencoderKL, autoencoderKL, type Config, diagonalGaussian, initialize } from "../models/index.ts";
import { group } from "../nn/module.ts";
import { availableDevice, openSession, trainingTarget } from "../runtime/index.ts";
import { type AutoencoderRecipe, type AutoencoderRecipeInput, readAutoencoderRecipe } from "./autoencoder-recipe.ts";
import { splitDataset } from "./dataset.ts";
import { normalizedPixels } from "./objective.ts";
import { type RunControl, runTask, type TrainingResult } from "./run.ts";
import { runPaths } from "./run-folder.ts";
import { evaluationGraph } from "./step.ts";
import type { Preview, StepLoss, TrainedWeights, TrainingTask } from "./task.ts";

/** Images to train an autoencoder on, and images it never sees, to judge it by. */
export interface SplitData {
  readonly training: Dataset;
  readonly heldOut: Dataset;
}

/**
 * Trains an autoencoder as a recipe says. Its folder is diffusers' `AutoencoderKL`; the run's `evaluations.jsonl` holds
 * how well held-out images are reconstructed.
 *
 * @throws UserError for a recipe or data that cannot be used, and when the loss is no longer a finite number
 */
export async function trainAutoencoder(
  input: AutoencoderRecipeInput,
  { data, ...control }: RunControl & { readonly data?: SplitData } = {},
): Promise<TrainingResult> {
  const recipe = readAutoencoderRecipe(input);
  const { holdOut: share, seed } = recipe;
  const { training, heldOut } = data ?? (await splitDataset(recipe, { share, seed, signal: control.signal }));
  return runTask(recipe, autoencoderTask(recipe, training, heldOut), control);
}

/**
 * A variational autoencoder (Kingma & Welling 2014) with the weak regularization of latent diffusion (Rombach et al. 2022,
 * section 3.1): the encoder says mean and deviation of each latent number, a sample z = μ + σ·ε of it is decoded, and the
 * loss is the error of the picture plus a small multiple of the divergence of the latent from the normal distribution.
 */
export function autoencoderTask(recipe: AutoencoderRecipe, training: Dataset, heldOut: Dataset): TrainingTask {
  const autoencoder = autoencoderKL(autoencoderConfig(recipe, training));
  const network = group({ autoencoder });
  const { name, count, warnings, channels, height, width } = training;
  const factor = 2 ** (recipe.channels.length - 1);
  const latent = [recipe.latentChannels, height / factor, width / factor];
  return {
    data: { name, count, warnings, fingerprint: () => fingerprint(training) },
    network,
    start: (random) => initialize(network, random),
    lossOf(images) {
      const x = normalizedPixels(input("images", [images, channels, height, width], "uint8"));
      return reconstructionLoss(autoencoder, x, input("noise", [images, ...latent]), recipe);
    },
    feeds(random, from) {
      const data: Batches = batches(training, { batch: recipe.batch, seed: recipe.seed, from });
      return {
        next: () => ({ images: data.next().images, noise: random.normal([recipe.batch, ...latent]) }),
        position: data.position,
      };
    },
    preview: (weights) => openReconstructions(recipe, network, autoencoder, heldOut, weights),
    async write(weights) {
      const { model } = runPaths(recipe.run);
      const tensors = partOf(weights, "autoencoder");
      await writeModelFolder(model, { className: "AutoencoderKL", config: autoencoder.config, tensors });
      return model;
    },
  };
}

/** diffusers' configuration of the autoencoder that a recipe asks for. */
export function autoencoderConfig(recipe: AutoencoderRecipe, { channels, height, width }: Dataset): Config {
  return {
    in_channels: channels,
    out_channels: channels,
    down_block_types: recipe.channels.map(() => "DownEncoderBlock2D"),
    up_block_types: recipe.channels.map(() => "UpDecoderBlock2D"),
    block_out_channels: recipe.channels,
    layers_per_block: recipe.layers,
    norm_num_groups: groupsFor(recipe.channels),
    sample_size: height === width ? height : [height, width],
    latent_channels: recipe.latentChannels,
    mid_block_add_attention: recipe.middleAttention,
    // Until it is measured: latents as they are.
    scaling_factor: 1,
  };
}

/** The error of the decoded sample, and the divergence of its distribution: [n, c, h, w] in −1 … 1 with noise for z. */
export function reconstructionLoss(
  { encode, decode }: Pick<AutoencoderKL, "encode" | "decode">,
  images: Tensor,
  noise: Tensor,
  { reconstruction: kind, klWeight }: Pick<AutoencoderRecipe, "reconstruction" | "klWeight">,
): StepLoss {
  const posterior = diagonalGaussian(encode(images));
  const decoded = decode(add(posterior.mean, mul(posterior.deviation, noise)));
  const difference = sub(decoded, images);
  const reconstruction = mean(kind === "l2" ? mul(difference, difference) : abs(difference));
  const kl = mean(posterior.divergence());
  return { loss: add(reconstruction, mul(kl, klWeight)), measures: { reconstruction, kl } };
}

/** The most groups of group normalization, 32 at most as in Rombach et al. 2022, that divide all numbers of channels. */
export function groupsFor(channels: readonly number[]): number {
  for (let groups = 32; groups > 1; groups--) if (channels.every((count) => count % groups === 0)) return groups;
  return 1;
}

/** The weights below a part's name, without it. */
export function partOf(weights: ReadonlyMap<string, HostTensor>, part: string): Map<string, HostTensor> {
  const own = [...weights].filter(([name]) => name.startsWith(`${part}.`));
  return new Map(own.map(([name, tensor]) => [name.slice(part.length + 1), tensor]));
}

/** Draws held-out images above their reconstructions, and measures all of them. */
async function openReconstructions(
  recipe: AutoencoderRecipe,
  network: TrainingTask["network"],
  autoencoder: AutoencoderKL,
  heldOut: Dataset,
  { layout, frozen }: TrainedWeights,
): Promise<Preview> {
  const device = await availableDevice(recipe.device);
  const { channels, height, width } = heldOut;
  const batch = Math.min(heldOut.count, EVALUATED_AT_ONCE);
  const images = input("images", [batch, channels, height, width], "uint8");
  const model = evaluationGraph(
    network,
    autoencoder(normalizedPixels(images)),
    layout,
    await trainingTarget(device.name),
    frozen,
  );
  const session = await openSession(model.bytes, {
    name: "reconstruction",
    device: device.name,
    threads: recipe.threads,
    resident: { parameters: null },
  });
  return {
    async draw(step, weights) {
      await session.write("parameters", float32([layout.size], weights));
      const psnr: number[] = [];
      const ssim: number[] = [];
      const shown: { before: HostTensor<"float32">; after: HostTensor<"float32"> }[] = [];
      for (let first = 0; first < heldOut.count; first += batch) {
        // The last batch is filled up with images that were measured already.
        const start = Math.min(first, heldOut.count - batch);
        const bytes = imagesAt(
          heldOut,
          Uint32Array.from({ length: batch }, (_, i) => start + i),
        );
        const { output } = await session.run({ images: bytes });
        const before = float32(
          bytes.shape,
          Float32Array.from(bytes.data, (value) => value / 127.5 - 1),
        );
        const after = output as HostTensor<"float32">;
        psnr.push(...peakSignalToNoise(after, before).slice(first - start));
        if (Math.min(height, width) > 10) ssim.push(...structuralSimilarity(after, before).slice(first - start));
        shown.push({ before, after });
      }
      const folder = runPaths(recipe.run).samples;
      await mkdir(folder, { recursive: true });
      const path = join(folder, `step-${String(step).padStart(8, "0")}.png`);
      const columns = Math.min(recipe.sampleCount, batch);
      const [{ before, after }] = shown as [(typeof shown)[number]];
      const rows = [before, after].flatMap((tensor) => imagesFromTensor(tensor).slice(0, columns));
      await saveGrid(path, rows, { columns, scale: height <= 64 ? 2 : 1 });
      return { path, measures: { psnr: average(psnr), ...(ssim.length > 0 ? { ssim: average(ssim) } : {}) } };
    },
    close: () => session.close(),
  };
}

const EVALUATED_AT_ONCE = 16;

const average = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
