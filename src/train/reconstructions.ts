import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { float32, type HostTensor } from "../core/host-tensor.ts";
import { type Dataset, imagesAt } from "../data/index.ts";
import { cast, input } from "../graph/index.ts";
import { imagesFromTensor, saveGrid } from "../io/index.ts";
import { peakSignalToNoise, structuralSimilarity } from "../metrics/image-quality.ts";
import { availableDevice, openSession, trainingTarget } from "../runtime/index.ts";
import type { Coder } from "./autoencoder-coder.ts";
import { codebookUseOf } from "./codebook-use.ts";
import { normalizedPixels } from "./objective.ts";
import { runPaths } from "./run-folder.ts";
import type { RunOptions } from "./run-options.ts";
import { evaluationGraph } from "./step.ts";
import type { Preview, TrainedWeights, TrainingTask } from "./task.ts";

/** The most images that are reconstructed at once. */
const EVALUATED_AT_ONCE = 16;
/** Structural similarity has windows of 11×11 pixels. */
const SMALLEST_COMPARED = 11;

/** Draws held-out images above their reconstructions, and measures all of them; of a codebook also how it is used. */
export async function openReconstructions(
  options: RunOptions,
  network: TrainingTask["network"],
  coder: Coder,
  heldOut: Dataset,
  { layout, frozen }: TrainedWeights,
): Promise<Preview> {
  const device = await availableDevice(options.device);
  const { count, channels, height, width } = heldOut;
  const batch = Math.min(count, EVALUATED_AT_ONCE);
  const images = input("images", [batch, channels, height, width], "uint8");
  const { output, indices } = coder.reconstructed(normalizedPixels(images));
  const outputs = { output: cast(output, "float32"), ...(indices ? { indices } : {}) };
  const model = evaluationGraph(network, outputs, layout, await trainingTarget(device.name), frozen);
  const session = await openSession(model.bytes, {
    name: "reconstruction",
    device: device.name,
    threads: options.threads,
    resident: { parameters: null },
  });
  return {
    async draw(step, weights) {
      await session.write("parameters", float32([layout.size], weights));
      const measured = { psnr: [] as number[], ssim: [] as number[] };
      const chosen = new Uint32Array(coder.codebookSize ?? 0);
      let shown: readonly HostTensor<"float32">[] = [];
      for (let first = 0; first < count; first += batch) {
        // The last batch is filled up with images that were measured already.
        const start = Math.min(first, count - batch);
        const known = first - start;
        const bytes = imagesAt(
          heldOut,
          Uint32Array.from({ length: batch }, (_, i) => start + i),
        );
        const results = await session.run({ images: bytes });
        const after = results.output as HostTensor<"float32">;
        const before = float32(
          bytes.shape,
          Float32Array.from(bytes.data, (value) => value / 127.5 - 1),
        );
        measured.psnr.push(...peakSignalToNoise(after, before).slice(known));
        if (Math.min(height, width) >= SMALLEST_COMPARED) {
          measured.ssim.push(...structuralSimilarity(after, before).slice(known));
        }
        if (results.indices) {
          const { data } = results.indices as HostTensor<"int64">;
          for (const index of data.subarray((data.length / batch) * known)) chosen[Number(index)]!++;
        }
        if (first === 0) shown = [before, after];
      }
      const folder = runPaths(options.run).samples;
      await mkdir(folder, { recursive: true });
      const path = join(folder, `step-${String(step).padStart(8, "0")}.png`);
      const columns = Math.min(options.sampleCount, batch);
      const pictures = shown.flatMap((tensor) => imagesFromTensor(tensor).slice(0, columns));
      await saveGrid(path, pictures, { columns, scale: height <= 64 ? 2 : 1 });
      const means = Object.entries(measured).filter(([, values]) => values.length > 0);
      return {
        path,
        measures: {
          ...Object.fromEntries(means.map(([name, values]) => [name, average(values)])),
          ...(indices ? codebookUseOf(chosen) : {}),
        },
      };
    },
    close: () => session.close(),
  };
}

const average = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
