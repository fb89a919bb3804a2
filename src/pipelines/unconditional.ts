import { cutBatch, joinBatch } from "../core/batch-parts.ts";
import { UserError } from "../core/errors.ts";
import { hostTensor, sizeOf } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { validated } from "../core/validated.ts";
import {
  type GuidanceOptions,
  guide,
  guides,
  type Network,
  type NoiseSource,
  noiseFrom,
  type Samples,
} from "../diffusion/index.ts";
import { assemblePatches, type HostImage, type HubOptions, imagesFromTensor, modelFolder } from "../io/index.ts";
import { unet2d } from "../models/index.ts";
import type { Device } from "../runtime/index.ts";
import { noteOnPlan } from "./choose-sampler.ts";
import { guidanceOptions } from "./guidance-fields.ts";
import type { ComputeOptions } from "./part-sessions.ts";
import {
  checkEditing,
  noiseBetween,
  sampleBatch,
  samplersFor,
  scaled,
  sourcePicture,
  stepsOfBatch,
} from "./unconditional-editing.ts";
import { readUnconditionalFolder, type UnconditionalFolder } from "./unconditional-folder.ts";
import { labelOf, labelsFor, type UnconditionalRequestInput, unconditionalRequest } from "./unconditional-request.ts";
import { unetSessions } from "./unet-sessions.ts";

/** A drawn picture and what it was drawn from. */
export interface GeneratedImage extends HostImage {
  readonly seed: number;
  /** Of pictures between two seeds: the other seed, and how far this picture is on the way to it, from 0 to 1. */
  readonly toward?: { readonly seed: number; readonly share: number };
  /** The name of its class, for models with classes. */
  readonly class?: string;
}

/** Where a generation stands, after each step of each batch. */
export interface GenerationState {
  /** Steps done and to do, of all batches together. */
  readonly done: number;
  readonly total: number;
  /** Steps done and to do in this batch, those of an inversion first. */
  readonly step: number;
  readonly steps: number;
  /** The pictures of this batch: index of the first among all, and their seeds. */
  readonly first: number;
  readonly seeds: readonly number[];
  readonly timestep: number;
  /** [pictures, channels, height, width]: x after the step, and the estimate of the pictures. */
  readonly x: Samples;
  readonly x0: Samples;
  /** The estimate as pictures. */
  preview(): HostImage[];
  /** x as pictures, scaled to the variance of pictures. */
  noisy(): HostImage[];
  /** The finished pictures, after the last step of the batch. */
  readonly images?: readonly GeneratedImage[];
}

export interface GenerateOptions {
  readonly signal?: AbortSignal;
  /**
   * Draws the noise of all pictures of a batch in the place of one source per seed; then all must fit into one batch.
   */
  readonly noise?: NoiseSource;
  /** Is told what of the request will not draw well, before anything is drawn. */
  readonly onNote?: (note: string) => void;
}

/** A model that draws pictures from noise alone, or from a class. */
export interface UnconditionalPipeline {
  readonly folder: UnconditionalFolder;
  /** What it runs on, known once it drew something. */
  device(): Device | undefined;
  /**
   * Draws pictures step by step. Leaving the loop stops between steps; an aborted signal throws its reason.
   * @throws UserError for a request that cannot be met
   */
  stream(request?: UnconditionalRequestInput, options?: GenerateOptions): AsyncGenerator<GenerationState, void, void>;
  /** Draws all pictures of a request. */
  generate(request?: UnconditionalRequestInput, options?: GenerateOptions): Promise<GeneratedImage[]>;
  /** Frees the network. */
  close(): Promise<void>;
}

/**
 * Steps of a run that says nothing of them, where the network was trained with as many timesteps. Measured on the demo's
 * digits, more do not help: docs/choose-a-sampler.md.
 */
const DEFAULT_STEPS = 20;
/** The same where a picture is encoded first: what comes back of it gets nearer with more. */
const DEFAULT_INVERSION_STEPS = 50;

export interface UnconditionalOptions extends ComputeOptions {
  /** How models of the hub are found: revision, cache, token, progress of downloads. */
  readonly hub?: Omit<HubOptions, "variant">;
  /** Takes `NAME.VARIANT.safetensors`, for example "fp16". */
  readonly variant?: string;
}

/**
 * Opens a run folder, a diffusers folder of a `UNet2DModel` and a scheduler, or one of the hub (`org/name`).
 *
 * Each picture has a random source of its own, seeded with its seed, so it does not depend on what is drawn with it.
 * @throws UserError for other folders
 */
export async function unconditionalPipeline(
  path: string,
  options: UnconditionalOptions = {},
): Promise<UnconditionalPipeline> {
  const { variant, hub } = options;
  const folder = await readUnconditionalFolder(await modelFolder(path, { ...hub, variant }), { variant });
  const { config } = unet2d(folder.config);
  const { patch } = folder;
  const channels = config.in_channels / (patch * patch);
  if (channels !== 1 && channels !== 3) {
    const patches = patch > 1 ? ` for patches of ${patch}×${patch}` : "";
    throw new UserError(`The network of ${path} takes ${config.in_channels} channels${patches}.`, {
      hint: `Pictures have ${patch * patch} or ${3 * patch * patch} there; it is probably part of a latent diffusion model.`,
    });
  }
  const sessions = unetSessions(folder, options);

  async function* stream(
    input: UnconditionalRequestInput = {},
    { signal, noise, onNote }: GenerateOptions = {},
  ): AsyncGenerator<GenerationState, void, void> {
    const given = validated(unconditionalRequest, input);
    const request = { ...given, guidance: given.guidance ?? 1 };
    checkEditing(request);
    const { between, eta, clippedNoise } = request;
    const seeds = request.seeds ?? Array.from({ length: request.count }, (_, i) => between?.[0] ?? request.seed + i);
    const shareOf = (i: number) => i / (seeds.length - 1);
    const labels = labelsFor(request, folder.classes, seeds.length);
    const { sampler, inverse } = samplersFor(request, folder.scheduler);
    const trained = sampler.options.num_train_timesteps as number;
    const steps = request.steps ?? Math.min(inverse ? DEFAULT_INVERSION_STEPS : DEFAULT_STEPS, trained);
    const plan = sampler.plan({ steps, eta, clippedNoise });
    const upwards = inverse?.plan({ steps });
    if (upwards && plan.stochastic) {
      throw new UserError(
        `The sampler ${request.sampler ?? "ddim"} adds noise; what was encoded would not come back.`,
        {
          hint: "Leave the sampler and eta out, or name a deterministic sampler.",
          field: "sampler",
        },
      );
    }
    const [height, width] = sizeFor(request.size, config.sample_size, folder);
    const size = [height * patch, width * patch] as const;
    const source = await sourcePicture(request, { size, channels: channels as 1 | 3, patch });
    // As even as can be: the last batch is filled up to the size of the others, which costs less than another session.
    const batches = Math.ceil(seeds.length / request.batch);
    const batch = Math.ceil(seeds.length / batches);
    if (noise && batches > 1) {
      throw new UserError("One noise source can draw one batch only.", {
        hint: "Raise `batch` to `count`.",
        field: "batch",
      });
    }
    const guidance = guidanceOptions(request.guidance, request);
    const ofBatch = stepsOfBatch(plan, source, upwards);
    const note = noteOnPlan(plan, request.sampler, upwards ? 0 : plan.steps - ofBatch);
    if (note !== undefined) onNote?.(note);
    const imageLabel =
      request.imageClass === undefined ? undefined : labelOf(request.imageClass, folder.classes!, "imageClass");

    for (let b = 0; b < batches; b++) {
      const first = b * batch;
      const inBatch = Array.from({ length: batch }, (_, i) => Math.min(first + i, seeds.length - 1));
      const batchLabels = labels && inBatch.map((i) => labels[i]!);
      const network = guidedNetwork(batchLabels, guidance);
      const draw =
        noise ??
        (between ? noiseBetween(between, inBatch.map(shareOf)) : noiseFrom(inBatch.map((i) => seeded(seeds[i]!))));
      const sourceLabels = imageLabel === undefined ? batchLabels : inBatch.map(() => imageLabel);
      const run = sampleBatch({
        plan,
        network,
        shape: [batch, config.in_channels, height, width],
        noise: draw,
        source,
        ...(upwards ? { inversion: { plan: upwards, network: guidedNetwork(sourceLabels, { scale: 1 }) } } : {}),
      });
      const wanted = Math.min(batch, seeds.length - first);
      const pictures = inBatch.slice(0, wanted);
      let step = 0;
      signal?.throwIfAborted();
      for await (const state of run) {
        signal?.throwIfAborted();
        step++;
        const x = assemblePatches(firstImages(state.x, wanted), patch);
        const x0 = assemblePatches(firstImages(state.x0, wanted), patch);
        const { alpha, sigma } = state.level;
        yield {
          done: b * ofBatch + step,
          total: batches * ofBatch,
          step,
          steps: ofBatch,
          first,
          seeds: pictures.map((i) => seeds[i]!),
          timestep: state.timestep,
          x,
          x0,
          preview: () => imagesFromTensor(x0),
          noisy: () => imagesFromTensor(scaled(x, 1 / Math.hypot(alpha, sigma))),
          ...(step === ofBatch
            ? { images: imagesFromTensor(x).map((image, i) => described(image, pictures[i]!)) }
            : {}),
        };
      }
    }

    function described(image: HostImage, i: number): GeneratedImage {
      return {
        ...image,
        seed: seeds[i]!,
        ...(between ? { toward: { seed: between[1], share: shareOf(i) } } : {}),
        ...(labels ? { class: folder.classes!.names[labels[i]!]! } : {}),
      };
    }

    /** The network with its labels, guided where the request says so: both halves in one batch. */
    function guidedNetwork(batchLabels: readonly number[] | undefined, options: GuidanceOptions): Network {
      const none = folder.classes?.none;
      if (!batchLabels || options.scale === 1 || none === undefined) {
        return (x, timestep) => sessions.run({ x, timestep, labels: batchLabels }, { signal });
      }
      const both = [...batchLabels, ...batchLabels.map(() => none)];
      return async (x, timestep, at) => {
        if (!guides(options, at.level)) return sessions.run({ x, timestep, labels: batchLabels }, { signal });
        const said = await sessions.run({ x: joinBatch([x, x]), timestep, labels: both }, { signal });
        const [conditional, unconditional] = cutBatch(said, 2);
        return guide(conditional!, unconditional!, options);
      };
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
    close: sessions.close,
  };
}

/** [height, width] in the network's pixels. */
function sizeFor(
  asked: number | readonly [number, number] | undefined,
  trained: number | readonly number[] | null,
  { path, patch }: UnconditionalFolder,
): [number, number] {
  if (asked === undefined) {
    if (trained === null) {
      throw new UserError(`${path} does not say which size of images it was trained with.`, {
        hint: "Give `size`.",
        field: "size",
      });
    }
    return typeof trained === "number" ? [trained, trained] : (trained as [number, number]);
  }
  const [height, width] = typeof asked === "number" ? [asked, asked] : asked;
  if (height % patch === 0 && width % patch === 0) return [height / patch, width / patch];
  throw new UserError(`The network of ${path} sees ${patch}×${patch} patches; given was ${height}×${width}.`, {
    hint: `Give a height and width that are multiples of ${patch}.`,
    field: "size",
  });
}

function firstImages(x: Samples, count: number): Samples {
  if (count === x.shape[0]) return x;
  const shape = [count, ...x.shape.slice(1)];
  return hostTensor("float32", shape, x.data.subarray(0, sizeOf(shape)));
}
