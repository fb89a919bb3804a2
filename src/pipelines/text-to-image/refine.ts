import { UserError } from "../../core/errors.ts";
import { float32, sizeOf } from "../../core/host-tensor.ts";
import type { Samples } from "../../diffusion/index.ts";
import type { TokenAttention } from "./attention-maps.ts";
import type { Pass } from "./enlarge.ts";
import { samplingOf } from "./family.ts";
import { stepsBefore } from "./handover.ts";
import type { TextToImageModel } from "./model.ts";
import type {
  ResolvedRequest,
  TextToImagePipeline,
  TextToImageRunOptions,
  TextToImageState,
} from "./pipeline-types.ts";
import { type PictureWords, picturesOf, type TextToImageRequestInput } from "./request.ts";
import { readSource } from "./source.ts";
import { stacked } from "./text.ts";

/** Share of the way after which a refiner takes over, where a request does not say (Podell et al. 2023, section 2.5). */
export const REFINE_FROM = 0.8;

/** A model with the one that goes on with its latents. Throws a UserError where their latents are of different kinds. */
export function withRefiner(model: TextToImageModel, refiner: TextToImageModel | undefined): TextToImageModel {
  if (!refiner) return model;
  const kind = ({ family: { channels }, factor }: TextToImageModel) => `${channels} channels, ${factor} pixels each`;
  if (kind(model) === kind(refiner)) {
    return { ...model, refiner, warnings: [...model.warnings, ...refiner.warnings] };
  }
  throw new UserError(
    `The refiner ${refiner.path} draws latents of ${kind(refiner)}; the model's are of ${kind(model)}.`,
    { hint: "A refiner goes on with the latents of the model it was trained for.", field: "refiner" },
  );
}

/**
 * Draws the first part of each picture's way with one model and the rest with another (an ensemble of expert denoisers).
 * Yields the steps of both; the pictures are those of the second.
 */
export async function* refined(
  request: ResolvedRequest,
  options: TextToImageRunOptions,
  about: { readonly pass: Pass; readonly model: TextToImageModel; readonly refiner: TextToImagePipeline },
): AsyncGenerator<TextToImageState, void, void> {
  const { pass, model, refiner } = about;
  const share = request.refineFrom!;
  const pictures = picturesOf(request);
  const { size } = await readSource(request, model);
  const latentSize = [size[0] / model.factor, size[1] / model.factor] as const;

  // The refiner's part is checked before anything is drawn, with latents that are still to come.
  const empty = [pictures.length, model.family.channels, ...latentSize];
  const rest = {
    ...restOf(request, refiner.model),
    denoisingStart: share,
    latents: float32(empty, new Float32Array(sizeOf(empty))),
  };
  const resolved = refiner.resolve(rest);
  const { sampler, levels } = samplingOf(refiner.model.family, resolved, refiner.model.scheduler, latentSize);
  const plan = sampler.plan({ steps: resolved.steps, eta: resolved.eta, ...levels });
  const left = plan.steps - stepsBefore(share, plan, sampler.options.num_train_timesteps as number);

  const latents: Samples[] = [];
  const attention: (readonly TokenAttention[])[] = [];
  let before = 0;
  const first = { ...request, refineFrom: undefined, denoisingEnd: share };
  for await (const { attention: maps = [], ...state } of pass(first, { ...options, latentsOnly: true })) {
    if (state.step === state.steps) latents.push(state.x);
    attention.push(...maps);
    before = state.total;
    yield { ...state, total: state.total + (state.total / state.steps) * left };
  }
  // What was looked at is told of the first model, which lays out the picture.
  const later = { ...options, attention: undefined };
  for await (const state of refiner.stream({ ...rest, latents: stacked(latents) }, later)) {
    // A refiner has one text encoder; the picture keeps all that was said.
    const images = state.images?.map((image, i) => ({ ...image, ...pictures[state.first + i]! }));
    yield {
      ...{ ...state, done: before + state.done, total: before + state.total },
      ...(images && { images }),
      ...(images && attention.length > 0 && { attention: images.map((_, i) => attention[state.first + i]!) }),
    };
  }
}

/** What is asked of the first model alone, or said anew. */
const NOT_REFINED = [
  ...["prompt", "prompt2", "prompt3", "negativePrompt", "negativePrompt2", "negativePrompt3", "count", "seed", "seeds"],
  ...["width", "height", "image", "strength", "controlImage", "controlScale", "controlInterval", "loras", "refineFrom"],
];

/** What is asked of the refiner. Its only text encoder is the second one, and reads what that one read. */
function restOf(request: ResolvedRequest, refiner: TextToImageModel): TextToImageRequestInput {
  const pictures = picturesOf(request);
  const single = refiner.textEncoders.length === 1;
  const texts = (of: (picture: PictureWords) => string | undefined): string[] | undefined => {
    const all = pictures.flatMap((picture) => of(picture) ?? []);
    return all.length > 0 ? all : undefined;
  };
  return {
    ...Object.fromEntries(Object.entries(request).filter(([name]) => !NOT_REFINED.includes(name))),
    prompt: pictures.map(({ prompt, prompt2 }) => (single ? prompt2 : prompt)),
    negativePrompt: texts(({ negative, negative2 }) => (single ? negative2 : negative)),
    ...(single
      ? {}
      : { prompt2: texts(({ prompt2 }) => prompt2), negativePrompt2: texts(({ negative2 }) => negative2) }),
    seeds: pictures.map(({ seed }) => seed),
  };
}
