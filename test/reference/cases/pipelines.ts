import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { HostTensor } from "../../../src/core/host-tensor.ts";
import { seeded } from "../../../src/core/random.ts";
import { noiseFrom } from "../../../src/diffusion/index.ts";
import { isPipelineFolder, readJsonObject, readSafetensors } from "../../../src/io/index.ts";
import { unconditionalPipeline } from "../../../src/pipelines/index.ts";
import { type CaseKind, type Comparison, compare } from "../case.ts";
import { runStableDiffusion } from "./stable-diffusion.ts";

/** The parts of a case's JSON that an unconditional pipeline needs. */
interface PipelineCase {
  readonly generator_seeds: number | readonly number[];
  readonly call: {
    readonly batch_size: number;
    readonly num_inference_steps: number;
    readonly eta?: number;
    readonly use_clipped_model_output?: boolean;
  };
  readonly sensitivity: { readonly image: number };
}

/** Whole runs of pipelines from their seeds; folders of pipelines without a U-Net are not built yet. */
export const pipelines: CaseKind = {
  kind: "pipelines",
  async discover(folder) {
    const cases = await casesIn(folder);
    return cases.flatMap(({ name, path, stem, run }) => (run ? [{ name, run: () => run(path, stem) }] : []));
  },
  async notBuilt(folder) {
    const cases = await casesIn(folder);
    return cases.filter(({ run }) => !run).map(({ name }) => name);
  },
};

interface Found {
  readonly name: string;
  readonly run: ((folder: string, stem: string) => Promise<Comparison[]>) | undefined;
  /** The pipeline's folder, and the case's files without their extension. */
  readonly path: string;
  readonly stem: string;
}

async function casesIn(folder: string): Promise<Found[]> {
  const found: Found[] = [];
  for (const name of await names(join(folder, "pipelines"))) {
    const path = join(folder, "pipelines", name);
    if (!isPipelineFolder(path)) continue;
    const { unet, vae } = await readJsonObject(join(path, "model_index.json"));
    const run = !unet ? undefined : vae ? runStableDiffusion : runUnconditional;
    for (const file of await names(join(path, "cases"))) {
      if (!file.endsWith(".json")) continue;
      const base = file.slice(0, -".json".length);
      found.push({ name: `pipelines/${name}/${base}`, run, path, stem: join(path, "cases", base) });
    }
  }
  return found;
}

async function names(folder: string): Promise<string[]> {
  return (await readdir(folder).catch(() => [])).sort();
}

/** The README's tolerance: 2e-4 of the largest value for steps, 5e-4 for images, or 30 times the sensitivity. */
async function runUnconditional(folder: string, stem: string): Promise<Comparison[]> {
  const { generator_seeds, call, sensitivity } = JSON.parse(await readFile(`${stem}.json`, "utf8")) as PipelineCase;
  const tensors = await readSafetensors(`${stem}.safetensors`);
  const numbers = (name: string) => tensors.get(name) as HostTensor<"float32">;
  const amplified = 30 * sensitivity.image;
  const pipe = await unconditionalPipeline(folder, { threads: 1 });
  const result: Comparison[] = [];
  const request = {
    ...(typeof generator_seeds === "number" ? { count: call.batch_size } : { seeds: [...generator_seeds] }),
    steps: call.num_inference_steps,
    eta: call.eta,
    clippedNoise: call.use_clipped_model_output,
  };
  // One seed for a whole batch is one generator that draws all of it.
  const noise = typeof generator_seeds === "number" ? noiseFrom(seeded(generator_seeds)) : undefined;
  for await (const state of pipe.stream(request, { noise })) {
    const expected = numbers(`step.${state.step - 1}`);
    if (expected) {
      const tolerance = { absolute: 2 * amplified, ofMaximum: 2e-4 };
      result.push(compare(`step.${state.step - 1}`, state.x.data, expected.data, tolerance));
    }
    if (!state.images) continue;
    const image = state.x.data.map((value) => Math.min(Math.max(value / 2 + 0.5, 0), 1));
    result.push(compare("image", image, numbers("image").data, { absolute: Math.max(5e-4, amplified) }));
    const bytes = state.images.flatMap(({ data }) => [...data]);
    const theirs = tensors.get("image_u8") as HostTensor<"uint8">;
    result.push(compare("image_u8", bytes, theirs.data, { absolute: amplified > 5e-4 ? 2 : 1 }));
  }
  await pipe.close();
  return result;
}
