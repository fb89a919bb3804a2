import { UserError } from "../../core/errors.ts";
import { float32 } from "../../core/host-tensor.ts";
import { type Random, seeded } from "../../core/random.ts";
import { validated } from "../../core/validated.ts";
import {
  type ConfiguredSampler,
  type GuidanceOptions,
  inpainted,
  inpaintedCalls,
  noiseFrom,
  type Samples,
} from "../../diffusion/index.ts";
import { imagesFromTensor } from "../../io/index.ts";
import { chooseSampler } from "../choose-sampler.ts";
import { partSessions } from "../part-sessions.ts";
import { adapterLoader } from "./adapters.ts";
import { batchesOf, firstPictures } from "./batches.ts";
import { conditionsOf, partsOf } from "./conditions.ts";
import { controlOf } from "./control.ts";
import { guidedUnet } from "./denoise.ts";
import { enlarged } from "./enlarge.ts";
import { type AutoencoderOptions, latentSpace } from "./latents.ts";
import { memoryEstimate, mustFit } from "./memory.ts";
import { openTextToImage } from "./open-model.ts";
import type {
  ResolvedRequest,
  TextToImageOptions,
  TextToImagePicture,
  TextToImagePipeline,
  TextToImageRunOptions,
  TextToImageState,
} from "./pipeline-types.ts";
import { latentPreview } from "./preview.ts";
import {
  checkRequest,
  type PictureWords,
  picturesOf,
  type TextToImageRequestInput,
  textToImageRequest,
} from "./request.ts";
import { encodeSource, readControl, readSource, startOfBatch } from "./source.ts";
import { textEncoders } from "./text.ts";

/** Steps and guidance where a request does not say, as diffusers has them. */
const DEFAULTS = {
  stable: { steps: 50, guidance: 7.5 },
  xl: { steps: 50, guidance: 5 },
  consistency: { steps: 4, guidance: 8.5 },
};

/**
 * Opens Stable Diffusion 1.x, 2.x, XL, an inpainting or a latent consistency model in diffusers' layout.
 *
 * The request decides what is done: text-to-image, image-to-image with `image`, inpainting with `mask` too. Each picture
 * has a random source of its own, seeded with its seed, so it does not depend on what is drawn with it.
 * @throws UserError for other folders
 */
export async function textToImagePipeline(
  path: string,
  options: TextToImageOptions = {},
): Promise<TextToImagePipeline> {
  const folder = await openTextToImage(path, options);
  const text = textEncoders(folder, options);
  const unet = partSessions(folder.unet, options);
  const vae = latentSpace(folder, options);
  const control = folder.controlNet && partSessions(folder.controlNet, options);
  const adapters = adapterLoader(folder);
  const free = async (part: { close(): Promise<void> }) => {
    if (options.lowMemory) await part.close();
  };

  const resolve = (input: TextToImageRequestInput): ResolvedRequest => {
    const request = validated(textToImageRequest, input);
    const { steps, guidance } = folder.guidanceEmbedding
      ? DEFAULTS.consistency
      : folder.sizeConditions
        ? DEFAULTS.xl
        : DEFAULTS.stable;
    const resolved = { ...request, steps: request.steps ?? steps, guidance: request.guidance ?? guidance };
    for (const field of options.needs ?? []) {
      if (request[field] === undefined) throw new UserError(`This task needs \`${field}\`.`, { field });
    }
    checkRequest(resolved, folder, resolved.guidance);
    return resolved;
  };

  const memoryNeeds = (request: ResolvedRequest, size: readonly [number, number]) => ({
    batch: Math.min(request.batch, picturesOf(request).length),
    guided: request.guidance > 1 && !folder.guidanceEmbedding,
    ...{ size, tile: request.vaeTile, lowMemory: options.lowMemory ?? false },
  });
  const startsLate = ({ className }: Pick<ConfiguredSampler, "className">) =>
    folder.guidanceEmbedding && className === "LCMScheduler";

  async function* stream(
    input: TextToImageRequestInput,
    runOptions: TextToImageRunOptions = {},
  ): AsyncGenerator<TextToImageState, void, void> {
    const request = resolve(input);
    if (request.enlarge === undefined) yield* pass(request, runOptions);
    else yield* enlarged(request, runOptions, { pass, folder });
  }

  async function* pass(
    request: ResolvedRequest,
    { signal, random: given }: TextToImageRunOptions,
  ): AsyncGenerator<TextToImageState, void, void> {
    // A list of one generator is that generator, as diffusers has it.
    const random = Array.isArray(given) && given.length === 1 ? (given[0] as Random) : given;
    const { steps, eta, originalSteps, clipSkip } = request;
    const pictures = picturesOf(request);
    const sampler = chooseSampler(folder.scheduler, request.sampler, request.spread);
    const { size, source: read } = await readSource(request, folder);
    // A latent consistency model takes all its steps over what the strength leaves; others leave out the first ones.
    const strength = read && !read.mask && startsLate(sampler) ? read.strength : undefined;
    const source = strength === undefined ? read : { ...read!, strength: 1 };
    const plan = sampler.plan({ steps, eta, originalSteps, strength });
    // What is encoded in more parts is not drawn together with others, so that no picture depends on its batch.
    const batches = batchesOf(pictures, request.batch, (picture) => partsOf(picture, text, request));
    if (random && batches.length > 1) {
      throw new UserError("One random source can draw one batch only.", {
        hint: `Raise \`batch\` to ${pictures.length}, and turn \`chunks\` off.`,
        field: "batch",
      });
    }
    mustFit(folder, memoryNeeds(request, size), options.memoryLimit);
    const steering = await readControl(request, size);
    const changes = await adapters(request.loras);
    const encoded = source && (await encodeSource(source, vae, { signal, tile: request.vaeTile }));
    if (encoded) await free(vae);
    const guidance: GuidanceOptions = {
      scale: request.guidance,
      rescale: request.guidanceRescale,
      ...(request.guidanceInterval
        ? { interval: { minimum: request.guidanceInterval[0], maximum: request.guidanceInterval[1] } }
        : {}),
    };

    for (const [b, { first, wanted, batch }] of batches.entries()) {
      const conditions = await conditionsOf(batch, folder, text, request, {
        ...{ guidance: request.guidance, size, clipSkip },
        ...{ signal, change: changes },
      });
      await free(text);
      const noise = noiseFrom(random ?? batch.map(({ seed }) => seeded(seed)));
      const shape = [batch.length, folder.channels, size[0] / folder.factor, size[1] / folder.factor];
      const perPicture = random === undefined || Array.isArray(random);
      const begin = startOfBatch(encoded, { plan, shape, noise, perPicture, vae, folder });
      let calls = 0;
      const network = guidedUnet(folder, unet, {
        ...{ conditions, guidance, seen: begin.seen, signal, change: changes("unet") },
        control:
          folder.controlNet &&
          steering &&
          controlOf(folder.controlNet, control!, {
            ...{
              picture: steering,
              scale: request.controlScale,
              interval: request.controlInterval,
              first: begin.first,
            },
          }),
        onCall: () => calls++,
      });
      const denoise = plan.denoiser(network);
      const from = { noise, first: begin.first, restart: true };
      const run = begin.inpaint
        ? inpainted(plan.run(inpaintedCalls(denoise, begin.inpaint), begin.x, from), begin.inpaint)
        : plan.run(denoise, begin.x, from);
      const ofBatch = plan.steps - begin.first;
      const start = firstPictures({ ...begin.x, data: begin.x.data.slice() }, wanted);
      let step = 0;
      signal?.throwIfAborted();
      for await (const state of run) {
        signal?.throwIfAborted();
        step++;
        const x0 = firstPictures(state.x0, wanted);
        const finished =
          step === ofBatch
            ? await finish(firstPictures(state.x, wanted), batch, { signal, tile: request.vaeTile })
            : {};
        yield {
          done: b * ofBatch + step,
          total: batches.length * ofBatch,
          ...{ step, steps: ofBatch, calls, first, seeds: batch.slice(0, wanted).map(({ seed }) => seed) },
          ...{ timestep: state.timestep, start, x: firstPictures(state.x, wanted), x0 },
          preview: () => latentPreview(x0, folder),
          ...finished,
        };
      }
    }
  }

  async function finish(latents: Samples, batch: readonly PictureWords[], decoding: AutoencoderOptions) {
    await free(unet);
    if (control) await free(control);
    const decoded = await vae.decode(latents, decoding);
    await free(vae);
    decoding.signal?.throwIfAborted();
    const size = decoded.data.length / decoded.shape[0]!;
    const images = imagesFromTensor(decoded).map((image, i): TextToImagePicture => {
      const own = decoded.data.subarray(i * size, (i + 1) * size);
      const float = own.map((value) => Math.min(Math.max(value / 2 + 0.5, 0), 1));
      return { ...image, ...batch[i]!, float: float32(decoded.shape.slice(1), float) };
    });
    return { decoded, images };
  }

  return {
    folder,
    text,
    device: unet.device,
    resolve,
    async conditions(input, { signal } = {}) {
      const request = resolve(input);
      const { size } = await readSource(request, folder);
      return conditionsOf(picturesOf(request), folder, text, request, {
        ...{ guidance: request.guidance, size, clipSkip: request.clipSkip },
        ...{ signal, change: await adapters(request.loras) },
      });
    },
    async memory(input) {
      const request = resolve(input);
      const { size } = await readSource(request, folder);
      return memoryEstimate(folder, memoryNeeds(request, size));
    },
    dropped(input) {
      const request = resolve(input);
      const seen = picturesOf(request).flatMap(({ prompt, prompt2, negative = "", negative2 = negative }) => [
        ...text.dropped([prompt, prompt2], request),
        ...text.dropped([negative, negative2], request),
      ]);
      return seen.filter((one, i) => seen.findIndex((other) => other.text === one.text) === i);
    },
    stream,
    async generate(request, runOptions) {
      const images: TextToImagePicture[] = [];
      for await (const state of stream(request, runOptions)) images.push(...(state.images ?? []));
      return images;
    },
    async close() {
      await Promise.all([text.close(), unet.close(), vae.close(), control?.close()]);
    },
  };
}
