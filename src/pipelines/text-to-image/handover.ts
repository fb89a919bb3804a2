import { UserError } from "../../core/errors.ts";
import { float32, type Shape, sizeOf } from "../../core/host-tensor.ts";
import { roundHalfEven, type Samples, type SamplingPlan } from "../../diffusion/index.ts";
import type { TextToImageModel } from "./model.ts";
import type { TextToImageRequest } from "./request.ts";

// A run that ends early hands its latents over to a model that goes on with them: SDXL's base to its refiner (Podell et al.
// 2023, section 2.5).

/** The steps of a plan that a run takes: from `first` up to `end`, which is not taken. */
export interface StepRange {
  readonly first: number;
  readonly end: number;
}

/**
 * How many steps of a plan begin before a share of the training timesteps is gone, as diffusers counts them for
 * `denoising_end` and `denoising_start`. Steps are not divided: where a sampler calls the network twice in one, diffusers
 * may cut between the calls.
 *
 * @param trained how many timesteps the network was trained with
 */
export function stepsBefore(share: number, plan: SamplingPlan, trained: number): number {
  const cutoff = roundHalfEven(trained - share * trained);
  let count = 0;
  while (count < plan.steps && plan.levelBefore(count).timestep >= cutoff) count++;
  return count;
}

/** The steps that a request's shares leave of a plan. Throws a UserError where that is none. */
export function stepRange(
  { denoisingStart, denoisingEnd }: Pick<TextToImageRequest, "denoisingStart" | "denoisingEnd">,
  plan: SamplingPlan,
  { trained, first }: { readonly trained: number; readonly first: number },
): StepRange {
  const from = denoisingStart === undefined ? first : stepsBefore(denoisingStart, plan, trained);
  const end = denoisingEnd === undefined ? plan.steps : stepsBefore(denoisingEnd, plan, trained);
  if (from < end) return { first: from, end };
  const field = denoisingEnd === undefined ? "denoisingStart" : "denoisingEnd";
  throw new UserError(`No step lies in the share of the ${plan.steps} steps that was asked for.`, {
    hint: `Change \`${field}\`, or take more steps.`,
    field,
  });
}

/** The model that goes on with a request's latents, if one does. */
export function refines(
  { refineFrom }: TextToImageRequest,
  { refiner }: TextToImageModel,
): TextToImageModel | undefined {
  return refineFrom === 1 ? undefined : refiner;
}

/** Throws a UserError for what says nothing about a hand-over, or contradicts it. */
export function checkHandover(request: TextToImageRequest, model: TextToImageModel): void {
  const { denoisingStart, denoisingEnd, latents } = request;
  const refuse = (field: string, text: string, hint: string) => {
    throw new UserError(`\`${field}\` was given ${text}.`, { hint, field });
  };
  if (request.refineFrom !== undefined && !model.refiner) {
    refuse("refineFrom", "without a refiner", "Open the model with `refiner`, the folder of one; or leave it out.");
  }
  if (latents && denoisingStart === undefined) {
    refuse("latents", "without `denoisingStart`", "Give the share of the way that they have gone, or leave them out.");
  }
  if (denoisingStart !== undefined && !latents) {
    refuse(
      "denoisingStart",
      "without `latents`",
      "Give those that another model ended with; or begin from an `image`.",
    );
  }
  if (denoisingStart !== undefined && denoisingEnd !== undefined && denoisingStart >= denoisingEnd) {
    refuse("denoisingEnd", `as ${denoisingEnd}, which is not after ${denoisingStart}`, "Raise it, or leave it out.");
  }
  const others = (fields: readonly (keyof TextToImageRequest)[]) =>
    fields.find((field) => request[field] !== undefined);
  const besideLatents = others(["image", "mask", "strength", "enlarge", "width", "height"]);
  if (latents && besideLatents) {
    refuse(besideLatents, "together with `latents`, which say it themselves", "Leave one out.");
  }
  if (denoisingEnd !== undefined && request.enlarge !== undefined) {
    refuse("denoisingEnd", "together with `enlarge`, for which pictures are needed", "Leave one out.");
  }
  const besideRefiner = others(["latents", "denoisingEnd", "mask", "enlarge"]);
  if (refines(request, model) && besideRefiner) {
    refuse(
      besideRefiner,
      "together with a refiner",
      "Leave it out, or give `refineFrom: 1`, with which nothing is refined.",
    );
  }
}

/** Whether a value is latents as a request may hold them: [pictures, channels, height, width]. */
export function isLatents(value: unknown): value is Samples {
  const { dtype, shape, data } = (value ?? {}) as Partial<Samples>;
  if (dtype !== "float32" || !(data instanceof Float32Array) || !Array.isArray(shape)) return false;
  const whole = (shape as Shape).every((size) => Number.isInteger(size) && size > 0);
  return shape.length === 4 && whole && data.length === sizeOf(shape as Shape);
}

/** Those of the latents of all pictures that belong to a batch, by index. */
export function latentsOf(all: Samples, indices: readonly number[]): Samples {
  const size = all.data.length / all.shape[0]!;
  const data = new Float32Array(indices.length * size);
  for (const [i, index] of indices.entries()) data.set(all.data.subarray(index * size, (index + 1) * size), i * size);
  return float32([indices.length, ...all.shape.slice(1)], data);
}
