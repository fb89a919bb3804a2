import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { cutBatch, joinBatch } from "../core/batch-parts.ts";
import { float32, type HostTensor } from "../core/host-tensor.ts";
import { finished, guide, noiseFrom, samplerFromConfig, seededPerImage } from "../diffusion/index.ts";
import { input } from "../graph/index.ts";
import { imagesFromTensor, saveGrid } from "../io/index.ts";
import { availableDevice, openSession, trainingTarget } from "../runtime/index.ts";
import type { AutoencoderSession } from "./autoencoder-session.ts";
import { conditionedNetwork } from "./denoisers.ts";
import type { LatentDenoising } from "./latent-denoising.ts";
import { runPaths } from "./run-folder.ts";
import type { RunOptions } from "./run-options.ts";
import { evaluationGraph } from "./step.ts";
import type { Preview, TrainedWeights } from "./task.ts";
import { samplingScheduler } from "./text-to-image-folder.ts";
import type { DenoiserStage } from "./text-to-image-recipe.ts";

/** Draws captions with the weights of a run that goes on; both halves of guidance in one batch. */
export async function openLatentPreview(
  options: RunOptions & DenoiserStage,
  { latents, condition, denoiser }: LatentDenoising,
  autoencoder: AutoencoderSession,
  { layout, frozen }: TrainedWeights,
): Promise<Preview> {
  const { sampleCount: count, sampleGuidance: scale, sampleSteps, sampleCaptions, seed } = options;
  const captions = captionsOf(sampleCaptions, latents.captions ?? [], count);
  const device = await availableDevice(options.device);
  const shape = [latents.channels, latents.height, latents.width];
  const x = input("x", [2 * count, ...shape]);
  const network = conditionedNetwork(denoiser, condition);
  const output = denoiser.call(x, input("timesteps", [2 * count]), condition.states(2 * count));
  const model = evaluationGraph(network, output, layout, await trainingTarget(device.name), frozen);
  const session = await openSession(model.bytes, {
    name: "preview",
    device: device.name,
    threads: options.threads,
    resident: { parameters: null },
  });
  const { className, schedulerConfig } = samplingScheduler(options);
  const plan = samplerFromConfig({ _class_name: className, ...schedulerConfig }).plan({ steps: sampleSteps });
  const words = condition.feeds([...captions, ...captions.map(() => condition.none)]);
  const predict = async (samples: HostTensor<"float32">, timestep: number) => {
    const timesteps = float32([2 * count], new Float32Array(2 * count).fill(timestep));
    const { output: said } = await session.run({ x: joinBatch([samples, samples]), timesteps, ...words });
    const [conditional, unconditional] = cutBatch(said as HostTensor<"float32">, 2);
    return guide(conditional!, unconditional!, { scale });
  };
  return {
    async draw(step, weights) {
      await session.write("parameters", float32([layout.size], weights));
      const noise = noiseFrom(seededPerImage(seed, count))([count, ...shape]);
      const last = await finished(plan.sample(predict, noise), noise);
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
