import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { float32 } from "../core/host-tensor.ts";
import type { LatentDataset } from "../data/index.ts";
import { type SchedulerConfig, samplerFromConfig } from "../diffusion/index.ts";
import { input, type Tensor } from "../graph/index.ts";
import { imagesFromTensor, saveGrid } from "../io/index.ts";
import type { PartGroup } from "../nn/module.ts";
import { availableDevice, openSession, trainingTarget } from "../runtime/index.ts";
import type { AutoencoderSession } from "./autoencoder-session.ts";
import type { Condition } from "./condition.ts";
import { conditionedNetwork } from "./denoisers.ts";
import { drawLatents } from "./draw-latents.ts";
import type { LatentDenoising } from "./latent-denoising.ts";
import { runPaths } from "./run-folder.ts";
import type { RunOptions } from "./run-options.ts";
import { evaluationGraph } from "./step.ts";
import type { FixedWeights, Preview, TrainedWeights } from "./task.ts";
import { samplingScheduler } from "./text-to-image-folder.ts";
import type { DenoiserStage } from "./text-to-image-recipe.ts";

/** What a recipe says of its sample grids. */
export interface SampleOptions {
  readonly sampleGuidance: number;
  readonly sampleSteps: number;
  readonly sampleCaptions: readonly string[];
}

/** A network that is drawn with while it learns. */
export interface DrawnNetwork {
  readonly network: PartGroup;
  readonly fixed?: FixedWeights;
  readonly latents: Pick<LatentDataset, "channels" | "height" | "width" | "captions">;
  readonly condition: Condition;
  readonly scheduler: SchedulerConfig;
  /** What the network predicts for so many noisy latents and their captions, the inputs of the condition. */
  output(x: Tensor, timesteps: Tensor): Tensor;
}

/** Draws captions with the weights of a denoiser that is trained from nothing. */
export function openLatentPreview(
  options: RunOptions & DenoiserStage,
  { latents, condition, denoiser }: LatentDenoising,
  autoencoder: AutoencoderSession,
  weights: TrainedWeights,
): Promise<Preview> {
  const { className, schedulerConfig } = samplingScheduler(options);
  const network = conditionedNetwork(denoiser, condition);
  const scheduler = { _class_name: className, ...schedulerConfig };
  const output = (x: Tensor, timesteps: Tensor) => denoiser.call(x, timesteps, condition.states(x.shape[0]!));
  return openCaptionPreview(options, { network, latents, condition, scheduler, output }, autoencoder, weights);
}

/** Draws captions with the weights of a run that goes on; both halves of guidance in one batch. */
export async function openCaptionPreview(
  options: RunOptions & SampleOptions,
  { network, fixed, latents, condition, scheduler, output }: DrawnNetwork,
  autoencoder: AutoencoderSession,
  { layout, frozen }: TrainedWeights,
): Promise<Preview> {
  const { sampleCount: count, sampleGuidance: guidance, sampleSteps, sampleCaptions, seed } = options;
  const captions = captionsOf(sampleCaptions, latents.captions ?? [], count);
  const device = await availableDevice(options.device);
  const shape = [count, latents.channels, latents.height, latents.width];
  const x = input("x", [2 * count, ...shape.slice(1)]);
  const predicted = output(x, input("timesteps", [2 * count]));
  const target = await trainingTarget(device.name);
  const model = evaluationGraph(network, predicted, layout, target, frozen, fixed?.bind);
  const session = await openSession(model.bytes, {
    name: "preview",
    device: device.name,
    threads: options.threads,
    resident: { parameters: null },
    externalData: fixed?.externalData,
  });
  const plan = samplerFromConfig(scheduler).plan({ steps: sampleSteps });
  const words = condition.feeds([...captions, ...captions.map(() => condition.none)]);
  return {
    async draw(step, weights) {
      await session.write("parameters", float32([layout.size], weights));
      const last = await drawLatents(session, { plan, shape, words, guidance, seed });
      const pictures = imagesFromTensor(await autoencoder.decode(last));
      const folder = runPaths(options.run).samples;
      await mkdir(folder, { recursive: true });
      const path = join(folder, `step-${String(step).padStart(8, "0")}.png`);
      await saveGrid(path, pictures, { scale: latents.height <= 16 ? 2 : 1 });
      return { path };
    },
    close: () => session.close(),
  };
}

/** As many captions as wanted: those asked for in turn, or the first of each of the first images. */
function captionsOf(asked: readonly string[], own: readonly (readonly string[])[], count: number): string[] {
  const from = asked.length > 0 ? asked : own.slice(0, count).map(([first]) => first!);
  return Array.from({ length: count }, (_, i) => from[i % from.length]!);
}
