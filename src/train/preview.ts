import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { float32, type HostTensor, hostTensor } from "../core/host-tensor.ts";
import type { Dataset } from "../data/index.ts";
import { finished, noiseFrom, samplerFromConfig, seededPerImage } from "../diffusion/index.ts";
import { input } from "../graph/index.ts";
import { assemblePatches, imagesFromTensor, saveGrid } from "../io/index.ts";
import { availableDevice, openSession, type Session, trainingTarget } from "../runtime/index.ts";
import type { TrainedNetwork } from "./network.ts";
import { schedulerConfigOf } from "./noise-fields.ts";
import type { Recipe } from "./recipe.ts";
import { runPaths } from "./run-folder.ts";
import { evaluationGraph } from "./step.ts";
import type { Preview, TrainedWeights } from "./task.ts";

/** Opens a session whose weights are replaced at every drawing, since sessions are costly to open and close. */
export async function openPreview(
  recipe: Recipe,
  dataset: Dataset,
  trained: TrainedNetwork,
  { layout, frozen }: TrainedWeights,
): Promise<Preview> {
  const device = await availableDevice(recipe.device);
  const count = recipe.sampleCount;
  const x = input("x", [count, ...trained.sample]);
  const timesteps = input("timesteps", [count]);
  const labels = trained.classes > 0 ? input("labels", [count], "int64") : undefined;
  const output = trained.network(x, timesteps, labels);
  const model = evaluationGraph(trained.network, output, layout, await trainingTarget(device.name), frozen);
  const session = await openSession(model.bytes, {
    name: "preview",
    device: device.name,
    threads: recipe.threads,
    resident: { parameters: null },
  });
  const plan = samplerFromConfig({
    _class_name: "DDIMScheduler",
    ...ddimOptions(schedulerConfigOf(recipe)),
  }).plan({ steps: Math.min(recipe.sampleSteps, recipe.timesteps) });
  const classes = labels
    ? hostTensor(
        "int64",
        [count],
        BigInt64Array.from({ length: count }, (_, i) => BigInt(i % trained.classes)),
      )
    : undefined;

  return {
    async draw(step, weights) {
      await session.write("parameters", float32([layout.size], weights));
      const noise = noiseFrom(seededPerImage(recipe.seed, count))(x.shape);
      const network = (samples: HostTensor<"float32">, t: number) => predict(session, samples, t, classes);
      const last = await finished(plan.sample(network, noise), noise);
      const folder = runPaths(recipe.run).samples;
      await mkdir(folder, { recursive: true });
      const path = join(folder, `step-${String(step).padStart(8, "0")}.png`);
      const pictures = imagesFromTensor(assemblePatches(last, recipe.patch));
      await saveGrid(path, pictures, { scale: dataset.height <= 64 ? 2 : 1 });
      return { path };
    },
    close: () => session.close(),
  };
}

async function predict(
  session: Session,
  x: HostTensor<"float32">,
  timestep: number,
  labels: HostTensor<"int64"> | undefined,
): Promise<HostTensor<"float32">> {
  const timesteps = float32([x.shape[0]!], new Float32Array(x.shape[0]!).fill(timestep));
  const { output } = await session.run({ x, timesteps, ...(labels ? { labels } : {}) });
  return output as HostTensor<"float32">;
}

/** DDIM has no reverse variance to choose. */
function ddimOptions({ variance_type: _, ...shared }: Record<string, unknown>): Record<string, unknown> {
  return shared;
}
