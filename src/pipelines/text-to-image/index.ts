import { UserError } from "../../core/errors.ts";
import { type Random, seeded } from "../../core/random.ts";
import { validated } from "../../core/validated.ts";
import {
  type ConfiguredSampler,
  firstStep,
  inpainted,
  inpaintedCalls,
  noiseFrom,
  type Samples,
} from "../../diffusion/index.ts";
import { chooseSampler } from "../choose-sampler.ts";
import { guidanceOptions } from "../guidance-fields.ts";
import { partSessions } from "../part-sessions.ts";
import { adapterLoader } from "./adapters.ts";
import { attentionLevel, attentionRecord } from "./attention-maps.ts";
import { batchesOf, firstPictures } from "./batches.ts";
import { conditionsOf, negativeWords, partsOf, words } from "./conditions.ts";
import { controlOf } from "./control.ts";
import { guidedNetwork } from "./denoise.ts";
import { enlarged } from "./enlarge.ts";
import { contrastOf, type Size, samplingOf } from "./family.ts";
import { latentsOf, refines, stepRange } from "./handover.ts";
import { type AutoencoderOptions, latentSpace } from "./latents.ts";
import { measuredColours } from "./measured-colours.ts";
import { memoryEstimate, mustFit } from "./memory.ts";
import { openTextToImage } from "./open-model.ts";
import { drawnPictures, type Paste, pasted } from "./paste.ts";
import type {
  ResolvedRequest,
  TextToImageOptions,
  TextToImagePicture,
  TextToImagePipeline,
  TextToImageRunOptions,
  TextToImageState,
} from "./pipeline-types.ts";
import { latentPreview, previewDecoder } from "./preview.ts";
import type { PromptTable } from "./prompt-tokens.ts";
import { REFINE_FROM, refined, withRefiner } from "./refine.ts";
import {
  checkRequest,
  type PictureWords,
  picturesOf,
  type TextToImageRequestInput,
  textToImageRequest,
} from "./request.ts";
import { mustTile, tilingMultiple } from "./seamless.ts";
import { encodeSource, NOTHING_SEEN, readControl, readSource, startOfBatch } from "./source.ts";
import { partHub } from "./stored-part.ts";
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
  checkQuantize(options);
  const refiner = options.refiner === undefined ? undefined : await refinerPipeline(options);
  const model = withRefiner(await openTextToImage(path, options), refiner?.model);
  const { family } = model;
  const { device, threads, quantize } = options;
  const compute = { device, threads };
  const text = textEncoders(model, { ...compute, quantize });
  const denoiser = partSessions(model.denoiser, { ...compute, quantize });
  const vae = latentSpace(model, compute);
  const control = model.controlNet && partSessions(model.controlNet, compute);
  const previews = model.previewVae && previewDecoder(model.previewVae, compute);
  const colours = measuredColours(family.colours);
  const adapters = adapterLoader(model, { hub: options.hub, switchable: options.switchableLoras });
  const free = async (part: { close(): Promise<void> }) => {
    if (options.lowMemory) await part.close();
  };

  const resolve = (input: TextToImageRequestInput): ResolvedRequest => {
    const request = validated(textToImageRequest, input);
    const { steps, guidance } = family.defaults(request);
    const resolved = {
      ...{ ...request, steps: request.steps ?? steps, guidance: request.guidance ?? guidance },
      refineFrom: request.refineFrom ?? (model.refiner && REFINE_FROM),
    };
    for (const field of options.needs ?? []) {
      if (request[field] === undefined) throw new UserError(`This task needs \`${field}\`.`, { field });
    }
    checkRequest(resolved, model);
    return resolved;
  };

  const memoryNeeds = (request: ResolvedRequest, size: readonly [number, number]) => ({
    batch: Math.min(request.batch, picturesOf(request).length),
    guided: contrastOf(family, request) > 1 && !request.guidanceInTurn,
    refined: refines(request, model) !== undefined,
    ...{ size, tile: request.vaeTile, lowMemory: options.lowMemory ?? false, quantize },
  });
  /** The tokens that maps are made of: those of the first encoder. */
  const promptTable = (picture: PictureWords, request: ResolvedRequest) =>
    text.table(words(picture), request)[0]!.tokens;
  const takesAllSteps = ({ className }: Pick<ConfiguredSampler, "className">) =>
    family.consistency && className === "LCMScheduler";

  async function* stream(
    input: TextToImageRequestInput,
    runOptions: TextToImageRunOptions = {},
  ): AsyncGenerator<TextToImageState, void, void> {
    const request = resolve(input);
    if (refiner && refines(request, model)) yield* refined(request, runOptions, { pass, model, refiner });
    else if (request.enlarge === undefined) yield* pass(request, runOptions);
    else {
      const all = takesAllSteps(chooseSampler(model.scheduler, request.sampler, request.spread));
      const stepsAfter = (steps: number, strength: number) =>
        all ? steps : steps - firstStep(steps, strength, family.strengthRounds);
      const { size } = await readSource(request, model);
      const multiple = model.factor * family.patch;
      const check = (larger: Size) => mustTile(larger, request.seamless, tilingMultiple(model));
      yield* enlarged(request, runOptions, { pass, size, multiple, check, stepsAfter });
    }
  }

  async function* pass(
    request: ResolvedRequest,
    { signal, random: given, attention, latentsOnly = false }: TextToImageRunOptions,
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
    const steering = await readControl(request, size, source);
    const changes = await adapters(request.loras);
    const { seamless, stepCache: every, stepCacheDepth: depth = 1 } = request;
    const coding = { signal, tile: request.vaeTile, seamless };
    const level = attention && attentionLevel(family, attention);
    const encoded = source && (await encodeSource(source, vae, coding));
    if (encoded) await free(vae);
    const guidance = guidanceOptions(contrastOf(family, request), request);

    for (const [b, { first, wanted, batch, indices }] of batches.entries()) {
      const conditions = await conditionsOf(batch, model, text, request, { size, signal, change: changes });
      await free(text);
      const noise = noiseFrom(random ?? batch.map(({ seed }) => seeded(seed)));
      const shape = [batch.length, family.channels, ...latentSize];
      const perPicture = random === undefined || Array.isArray(random);
      const begin = request.latents
        ? { ...NOTHING_SEEN, x: latentsOf(request.latents, indices), first: 0 }
        : startOfBatch(encoded, { plan, shape, noise, perPicture, vae, model });
      const trained = sampler.options.num_train_timesteps as number;
      const { first: from, end } = stepRange(request, plan, { trained, first: begin.first });
      let calls = 0;
      const looks = level === undefined ? undefined : attentionRecord(latentSize, level, batch.length);
      const network = guidedNetwork(family, denoiser, {
        ...{ seamless, attention: looks },
        cache: every === undefined ? undefined : { every, depth, first: from },
        inTurn: request.guidanceInTurn,
        ...{ conditions, guidance, seen: begin.seen, signal, change: changes(model.denoiser.name) },
        control:
          model.controlNet &&
          steering &&
          controlOf(model.controlNet, control!, {
            ...{
              picture: steering,
              scale: request.controlScale,
              interval: request.controlInterval,
              first: from,
              seamless,
            },
          }),
        onCall: () => calls++,
      });
      const denoise = plan.denoiser(network);
      // What was handed over is where its step begins, also where PNDM's late start is one timestep earlier.
      const late = { noise, first: from, restart: request.latents === undefined };
      const run = begin.inpaint
        ? inpainted(plan.run(inpaintedCalls(denoise, begin.inpaint), begin.x, late), begin.inpaint)
        : plan.run(denoise, begin.x, late);
      const ofBatch = end - from;
      const start = firstPictures({ ...begin.x, data: begin.x.data.slice() }, wanted);
      let step = 0;
      signal?.throwIfAborted();
      for await (const state of run) {
        signal?.throwIfAborted();
        step++;
        const x0 = firstPictures(state.x0, wanted);
        const finished =
          step === ofBatch
            ? {
                ...(await finish(
                  latentsOnly ? undefined : firstPictures(state.x, wanted),
                  batch,
                  source?.paste,
                  coding,
                )),
                ...(looks && { attention: looks.maps(batch.slice(0, wanted).map((one) => promptTable(one, request))) }),
              }
            : {};
        yield {
          done: b * ofBatch + step,
          total: batches.length * ofBatch,
          ...{ step, steps: ofBatch, calls, first, seeds: batch.slice(0, wanted).map(({ seed }) => seed) },
          ...{ timestep: state.timestep, start, x: firstPictures(state.x, wanted), x0 },
          preview: async () => previews?.decode(x0, coding) ?? latentPreview(x0, colours.current()),
          ...finished,
        };
        if (step === ofBatch) break;
      }
    }
  }

  async function finish(
    latents: Samples | undefined,
    batch: readonly PictureWords[],
    paste: Paste | undefined,
    decoding: AutoencoderOptions,
  ) {
    await free(denoiser);
    if (control) await free(control);
    if (!latents) return {};
    const decoded = await vae.decode(latents, decoding);
    await free(vae);
    decoding.signal?.throwIfAborted();
    colours.learn(latents, decoded);
    const images: TextToImagePicture[] = [];
    for (const [i, { image, float }] of drawnPictures(decoded).entries()) {
      const whole = paste ? await pasted(float, paste) : { image, float };
      images.push({ ...whole.image, ...batch[i]!, float: whole.float });
    }
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
    tokens(input) {
      const request = resolve(input);
      const tables = picturesOf(request).flatMap((picture) => text.table(words(picture), request));
      const key = ({ encoder, prompt }: PromptTable) => JSON.stringify([encoder, prompt]);
      return tables.filter((table, i) => tables.findIndex((other) => key(other) === key(table)) === i);
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
      await Promise.all([
        text.close(),
        denoiser.close(),
        vae.close(),
        control?.close(),
        previews?.close(),
        refiner?.close(),
      ]);
    },
  };
}

/** The pipeline of a model that goes on with another's latents; it computes where that does. */
function refinerPipeline(options: TextToImageOptions) {
  const { refiner, device, threads, variant, hub, lowMemory, memoryLimit, embeddings, quantize } = options;
  return textToImagePipeline(refiner!, {
    ...{ device, threads, variant, lowMemory, memoryLimit, embeddings, quantize, hub: partHub(hub) },
  });
}

function checkQuantize({ quantize, device = "cpu" }: TextToImageOptions): void {
  if (quantize === undefined) return;
  if (![4, 8].includes(quantize)) {
    throw new UserError(`Weights of ${quantize} bits were asked for; 4 and 8 are there.`, { field: "quantize" });
  }
  if (device !== "cpu") {
    throw new UserError(`Rounded weights run on the CPU, not on ${device}.`, {
      hint: 'Leave out `quantize`, or choose the device "cpu".',
      field: "quantize",
    });
  }
}
