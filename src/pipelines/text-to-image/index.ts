import { UserError } from "../../core/errors.ts";
import { float32 } from "../../core/host-tensor.ts";
import { type Random, seeded } from "../../core/random.ts";
import { validated } from "../../core/validated.ts";
import {
  type ConfiguredSampler,
  firstStep,
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
import { conditionsOf, negativeWords, partsOf, words } from "./conditions.ts";
import { controlOf } from "./control.ts";
import { guidedNetwork } from "./denoise.ts";
import { enlarged } from "./enlarge.ts";
import { contrastOf, samplingOf } from "./family.ts";
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

/**
 * Opens a text-to-image model: Stable Diffusion 1.x, 2.x, XL, an inpainting or a latent consistency model.
 *
 * The request decides what is done: text-to-image, image-to-image with `image`, inpainting with `mask` too. Each picture
 * has a random source of its own, seeded with its seed, so it does not depend on what is drawn with it.
 * @throws UserError for other folders
 */
export async function textToImagePipeline(
  path: string,
  options: TextToImageOptions = {},
): Promise<TextToImagePipeline> {
  const model = await openTextToImage(path, options);
  const { family } = model;
  const text = textEncoders(model, options);
  const denoiser = partSessions(model.denoiser, options);
  const vae = latentSpace(model, options);
  const control = model.controlNet && partSessions(model.controlNet, options);
  const adapters = adapterLoader(model);
  const free = async (part: { close(): Promise<void> }) => {
    if (options.lowMemory) await part.close();
  };

  const resolve = (input: TextToImageRequestInput): ResolvedRequest => {
    const request = validated(textToImageRequest, input);
    const { steps, guidance } = family.defaults(request);
    const resolved = { ...request, steps: request.steps ?? steps, guidance: request.guidance ?? guidance };
    for (const field of options.needs ?? []) {
      if (request[field] === undefined) throw new UserError(`This task needs \`${field}\`.`, { field });
    }
    checkRequest(resolved, model);
    return resolved;
  };

  const memoryNeeds = (request: ResolvedRequest, size: readonly [number, number]) => ({
    batch: Math.min(request.batch, picturesOf(request).length),
    guided: contrastOf(family, request) > 1,
    ...{ size, tile: request.vaeTile, lowMemory: options.lowMemory ?? false },
  });
  const takesAllSteps = ({ className }: Pick<ConfiguredSampler, "className">) =>
    family.consistency && className === "LCMScheduler";

  async function* stream(
    input: TextToImageRequestInput,
    runOptions: TextToImageRunOptions = {},
  ): AsyncGenerator<TextToImageState, void, void> {
    const request = resolve(input);
    if (request.enlarge === undefined) yield* pass(request, runOptions);
    else {
      const all = takesAllSteps(chooseSampler(model.scheduler, request.sampler, request.spread));
      const stepsAfter = (steps: number, strength: number) =>
        all ? steps : steps - firstStep(steps, strength, family.strengthRounds);
      yield* enlarged(request, runOptions, { pass, multiple: model.factor * family.patch, stepsAfter });
    }
  }

  async function* pass(
    request: ResolvedRequest,
    { signal, random: given }: TextToImageRunOptions,
  ): AsyncGenerator<TextToImageState, void, void> {
    // A list of one generator is that generator, as diffusers has it.
    const random = Array.isArray(given) && given.length === 1 ? (given[0] as Random) : given;
    const { steps, eta, originalSteps } = request;
    const pictures = picturesOf(request);
    const { size, source: read } = await readSource(request, model);
    const latentSize = [size[0] / model.factor, size[1] / model.factor] as const;
    const { sampler, levels } = samplingOf(family, request, model.scheduler, latentSize);
    const strength = read && !read.mask && takesAllSteps(sampler) ? read.strength : undefined;
    const source = strength === undefined ? read : { ...read!, strength: 1 };
    const plan = sampler.plan({ steps, eta, originalSteps, strength, ...levels });
    // What is encoded in more parts is not drawn together with others, so that no picture depends on its batch.
    const batches = batchesOf(pictures, request.batch, (picture) => partsOf(picture, text, request));
    if (random && batches.length > 1) {
      throw new UserError("One random source can draw one batch only.", {
        hint: `Raise \`batch\` to ${pictures.length}, and turn \`chunks\` off.`,
        field: "batch",
      });
    }
    mustFit(model, memoryNeeds(request, size), options.memoryLimit);
    const steering = await readControl(request, size);
    const changes = await adapters(request.loras);
    const encoded = source && (await encodeSource(source, vae, { signal, tile: request.vaeTile }));
    if (encoded) await free(vae);
    const guidance: GuidanceOptions = {
      scale: contrastOf(family, request),
      rescale: request.guidanceRescale,
      ...(request.guidanceInterval
        ? { interval: { minimum: request.guidanceInterval[0], maximum: request.guidanceInterval[1] } }
        : {}),
    };

    for (const [b, { first, wanted, batch }] of batches.entries()) {
      const conditions = await conditionsOf(batch, model, text, request, { size, signal, change: changes });
      await free(text);
      const noise = noiseFrom(random ?? batch.map(({ seed }) => seeded(seed)));
      const shape = [batch.length, family.channels, ...latentSize];
      const perPicture = random === undefined || Array.isArray(random);
      const begin = startOfBatch(encoded, { plan, shape, noise, perPicture, vae, model });
      let calls = 0;
      const network = guidedNetwork(family, denoiser, {
        ...{ conditions, guidance, seen: begin.seen, signal, change: changes(model.denoiser.name) },
        control:
          model.controlNet &&
          steering &&
          controlOf(model.controlNet, control!, {
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
          preview: () => latentPreview(x0, family.colours),
          ...finished,
        };
      }
    }
  }

  async function finish(latents: Samples, batch: readonly PictureWords[], decoding: AutoencoderOptions) {
    await free(denoiser);
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
    model,
    text,
    device: denoiser.device,
    resolve,
    async conditions(input, { signal } = {}) {
      const request = resolve(input);
      const { size } = await readSource(request, model);
      const change = await adapters(request.loras);
      return conditionsOf(picturesOf(request), model, text, request, { size, signal, change });
    },
    async memory(input) {
      const request = resolve(input);
      const { size } = await readSource(request, model);
      return memoryEstimate(model, memoryNeeds(request, size));
    },
    dropped(input) {
      const request = resolve(input);
      const seen = picturesOf(request).flatMap((picture) => [
        ...text.dropped(words(picture), request),
        ...text.dropped(negativeWords(picture), request),
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
      await Promise.all([text.close(), denoiser.close(), vae.close(), control?.close()]);
    },
  };
}
