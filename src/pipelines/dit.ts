import { join } from "node:path";
import { cutBatch, joinBatch } from "../core/batch-parts.ts";
import { UserError } from "../core/errors.ts";
import { float32, int64 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { validated } from "../core/validated.ts";
import { guide, guides, type Network, noiseFrom, notesOnConfig, type Samples } from "../diffusion/index.ts";
import {
  chosenVariants,
  imagesFromTensor,
  isPipelineFolder,
  modelFolder,
  readJsonObject,
  readModelFolder,
  readPipelineFolder,
  readSchedulerConfig,
} from "../io/index.ts";
import { dit, networkName } from "../models/index.ts";
import { chooseSampler, noteOnPlan } from "./choose-sampler.ts";
import { guidanceOptions } from "./guidance-fields.ts";
import { partSessions } from "./part-sessions.ts";
import { latentSpace } from "./text-to-image/latents.ts";
import { vaeOf } from "./text-to-image/open-model.ts";
import { COLOURS, latentPreview } from "./text-to-image/preview.ts";
import {
  type GeneratedImage,
  type GenerateOptions,
  type GenerationState,
  type UnconditionalOptions,
  type UnconditionalPipeline,
  unconditionalPipeline,
} from "./unconditional.ts";
import { scaled } from "./unconditional-editing.ts";
import { classNames, type UnconditionalFolder } from "./unconditional-folder.ts";
import { labelsFor, type UnconditionalRequestInput, unconditionalRequest } from "./unconditional-request.ts";

/** Of a run that says nothing of them, as diffusers has them. */
const DEFAULT_STEPS = 50;
const DEFAULT_GUIDANCE = 4;

/** Fields of a request that need pixels. */
const PIXELS_ONLY = ["image", "mask", "strength", "invert", "imageClass", "between", "size", "clippedNoise"] as const;

/**
 * Opens a model that draws without words, whichever kind it is: a `UNet2DModel` over pixels, or a transformer over latents.
 *
 * @param model a run folder, a folder in diffusers' layout, or `org/name` of the hub
 * @throws UserError for other folders
 */
export async function wordlessPipeline(
  model: string,
  { hub, ...options }: UnconditionalOptions = {},
): Promise<UnconditionalPipeline> {
  const path = await modelFolder(model, { ...hub, variant: options.variant });
  return (await isDitFolder(path)) ? ditPipeline(path, options) : unconditionalPipeline(path, options);
}

/** Whether a folder is that of a diffusion transformer over latents. */
async function isDitFolder(path: string): Promise<boolean> {
  if (!isPipelineFolder(path)) return false;
  const { components } = await readPipelineFolder(path);
  const { className } = components.get("transformer") ?? {};
  return className === "DiTTransformer2DModel" || className === "Transformer2DModel";
}

/**
 * Opens a class-conditional diffusion transformer over latents (Peebles & Xie 2023), a `DiTPipeline` folder.
 *
 * Each picture has a random source of its own, seeded with its seed.
 * @throws UserError for other folders
 */
async function ditPipeline(
  path: string,
  { variant, ...options }: Omit<UnconditionalOptions, "hub"> = {},
): Promise<UnconditionalPipeline> {
  const { components } = await readPipelineFolder(path, { needs: ["transformer", "vae", "scheduler"] });
  const at = (name: string) => components.get(name)!.path;
  const variants = await chosenVariants([at("transformer"), at("vae")], variant);
  const read = (name: string) => readModelFolder(at(name), { variant: variants.of(at(name)) });
  const { config: given, weights } = await read("transformer");
  if (networkName(given) !== "DiTTransformer2DModel") {
    throw new UserError(`${at("transformer")} is no DiTTransformer2DModel.`, { field: "model" });
  }
  const network = dit(given);
  const { in_channels: channels, num_embeds_ada_norm: none, sample_size: side } = network.config;
  const vae = vaeOf(await read("vae"));
  if (vae.channels !== channels) {
    throw new UserError(`The autoencoder has ${vae.channels} latent channels, the transformer ${channels}.`, {
      field: "model",
    });
  }
  const names = classNames(await readJsonObject(join(path, "model_index.json")));
  const scheduler = await readSchedulerConfig(at("scheduler"));
  const folder: UnconditionalFolder = {
    ...{ path, network: at("transformer"), config: given, weights, scheduler },
    patch: 1,
    classes: { names: names ?? Array.from({ length: none }, (_, i) => String(i)), none },
    warnings: [...variants.warnings, ...notesOnConfig(scheduler)],
  };
  const sessions = partSessions({ name: "transformer", network, weights }, options);
  const latents = latentSpace({ vae: vae.part, factor: vae.factor }, options);

  async function* stream(
    input: UnconditionalRequestInput = {},
    { signal, noise, onNote }: GenerateOptions = {},
  ): AsyncGenerator<GenerationState, void, void> {
    const given = validated(unconditionalRequest, input);
    const request = { ...given, guidance: given.guidance ?? DEFAULT_GUIDANCE };
    for (const field of PIXELS_ONLY) {
      if (request[field] === undefined) continue;
      throw new UserError(`\`${field}\` was given; this model has no use for it.`, { hint: "Leave it out.", field });
    }
    const seeds = request.seeds ?? Array.from({ length: request.count }, (_, i) => request.seed + i);
    const labels = labelsFor(request, folder.classes, seeds.length)!;
    const guidance = guidanceOptions(request.guidance, request);
    const steps = request.steps ?? DEFAULT_STEPS;
    const plan = chooseSampler(folder.scheduler, request.sampler, request.spread).plan({ steps, eta: request.eta });
    const note = noteOnPlan(plan, request.sampler);
    if (note !== undefined) onNote?.(note);
    const batches = Math.ceil(seeds.length / request.batch);
    const batch = Math.ceil(seeds.length / batches);
    if (noise && batches > 1) {
      throw new UserError("One noise source can draw one batch only.", {
        hint: "Raise `batch` to `count`.",
        field: "batch",
      });
    }
    for (let b = 0; b < batches; b++) {
      const first = b * batch;
      const indices = Array.from({ length: batch }, (_, i) => Math.min(first + i, seeds.length - 1));
      const wanted = Math.min(batch, seeds.length - first);
      const draw = noise ?? noiseFrom(indices.map((i) => seeded(seeds[i]!)));
      const own = indices.map((i) => labels[i]!);
      const call = async (x: Samples, timestep: number, classes: readonly number[]) => {
        const n = x.shape[0]!;
        const job = {
          name: "denoise",
          feeds: {
            x,
            timestep: float32([n], new Float32Array(n).fill(timestep)),
            labels: int64([n], classes),
          },
          graph: (inputs: Parameters<Parameters<typeof sessions.run>[0]["graph"]>[0]) => ({
            output: network(inputs.x!, inputs.timestep!, inputs.labels!),
          }),
        };
        // The learned variance is not used: diffusers' pipeline leaves it out, whatever the sampler.
        return firstChannels((await sessions.run(job, { signal })).output as Samples, channels);
      };
      const guided: Network = async (x, timestep, at) => {
        if (!guides(guidance, at.level)) return call(x, timestep, own);
        const said = await call(joinBatch([x, x]), timestep, [...own, ...own.map(() => none)]);
        const [conditional, unconditional] = cutBatch(said, 2);
        return guide(conditional!, unconditional!, guidance);
      };
      const start = scaled(draw([batch, channels, side, side]), plan.initNoiseSigma);
      signal?.throwIfAborted();
      for await (const { step, timestep, x, x0, level } of plan.sample(guided, start, { noise: draw })) {
        signal?.throwIfAborted();
        const [seen, estimate] = [rows(x, 0, wanted), rows(x0, 0, wanted)];
        const finished = step === plan.steps ? imagesFromTensor(await latents.decode(seen, { signal })) : undefined;
        yield {
          ...{ done: b * plan.steps + step, total: batches * plan.steps, step, steps: plan.steps, first, timestep },
          ...{ seeds: indices.slice(0, wanted).map((i) => seeds[i]!), x: seen, x0: estimate },
          preview: () => latentPreview(estimate, COLOURS.stable),
          noisy: () => latentPreview(scaled(seen, 1 / Math.hypot(level.alpha, level.sigma)), COLOURS.stable),
          ...(finished
            ? {
                images: finished.map((image, i): GeneratedImage => {
                  const at = indices[i]!;
                  return { ...image, seed: seeds[at]!, class: folder.classes!.names[labels[at]!]! };
                }),
              }
            : {}),
        };
      }
    }
  }

  return {
    folder,
    device: sessions.device,
    stream,
    async generate(request, generateOptions) {
      const images: GeneratedImage[] = [];
      for await (const state of stream(request, generateOptions)) images.push(...(state.images ?? []));
      return images;
    },
    async close() {
      await Promise.all([sessions.close(), latents.close()]);
    },
  };
}

function rows(x: Samples, from: number, to: number): Samples {
  const size = x.data.length / x.shape[0]!;
  return float32([to - from, ...x.shape.slice(1)], x.data.subarray(from * size, to * size));
}

/** The first channels of each picture: [n, c, h, w] → [n, count, h, w]. */
function firstChannels(x: Samples, count: number): Samples {
  const [n = 1, channels = 1, h = 1, w = 1] = x.shape;
  if (channels === count) return x;
  const data = new Float32Array(n * count * h * w);
  for (let i = 0; i < n; i++) {
    const from = i * channels * h * w;
    data.set(x.data.subarray(from, from + count * h * w), i * count * h * w);
  }
  return float32([n, count, h, w], data);
}
