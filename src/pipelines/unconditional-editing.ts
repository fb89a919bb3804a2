import { UserError } from "../core/errors.ts";
import { float32, type Shape } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import {
  type ConfiguredSampler,
  firstStep,
  inpainted,
  inpaintedCalls,
  type Network,
  type NoiseSource,
  namedSampler,
  noisedStart,
  noiseFrom,
  type SamplerRun,
  type Samples,
  type SamplingPlan,
  type SchedulerConfig,
  samplerFromConfig,
  slerp,
} from "../diffusion/index.ts";
import { type HostImage, splitPatches, tensorFromImages } from "../io/index.ts";
import { chooseSampler } from "./choose-sampler.ts";
import { readPicture } from "./picture-input.ts";
import type { UnconditionalRequest } from "./unconditional-request.ts";

/** Of a picture without and with a mask, how much of the way is gone again. */
const DEFAULT_STRENGTH = 0.6;
const DEFAULT_MASKED_STRENGTH = 1;

/** The picture that a request starts from. */
export interface SourcePicture {
  /** [1, channels, height, width], in the network's own pixels. */
  readonly image: Samples;
  /** Of the same shape: 1 is painted anew. */
  readonly mask?: Samples;
  /** How much of the way is gone again; undefined where the picture is inverted. */
  readonly strength: number | undefined;
}

/** Throws a UserError for fields that say nothing together, or contradict each other. */
export function checkEditing(request: UnconditionalRequest): void {
  const { image, strength, mask, invert, imageClass, between, count } = request;
  const given = (field: string, value: unknown, needed: string): void => {
    if (value === undefined) return;
    throw new UserError(`\`${field}\` was given without \`${needed}\`.`, {
      hint: `Give \`${needed}\` too, or leave \`${field}\` out.`,
      field,
    });
  };
  if (image === undefined) {
    given("strength", strength, "image");
    given("mask", mask, "image");
    given("invert", invert || undefined, "image");
  }
  if (!invert) given("imageClass", imageClass, "invert");
  for (const [one, other] of [
    ["invert", "strength"],
    ["invert", "mask"],
    ["invert", "between"],
    ["between", "seeds"],
  ] as const) {
    if (!request[one] || request[other] === undefined) continue;
    throw new UserError(`Both \`${one}\` and \`${other}\` were given.`, { hint: "Leave one out.", field: other });
  }
  if (between && request.seed !== 0) {
    throw new UserError("Both `between` and `seed` were given.", { hint: "Leave `seed` out.", field: "seed" });
  }
  if (between && count < 2) {
    throw new UserError(`${count} picture was asked for between two seeds; the two ends are two.`, {
      hint: "Give a count of 2 or more.",
      field: "count",
    });
  }
}

/** Reads the pictures of a request; undefined where it has none. */
export async function sourcePicture(
  request: UnconditionalRequest,
  {
    size,
    channels,
    patch,
  }: { readonly size: readonly [number, number]; readonly channels: 1 | 3; readonly patch: number },
): Promise<SourcePicture | undefined> {
  if (request.image === undefined) return undefined;
  const pixels = (picture: HostImage) => splitPatches(tensorFromImages([picture]), patch);
  const image = pixels(await readPicture(request.image, { field: "image", channels, size }));
  if (request.invert) return { image, strength: undefined };
  if (request.mask === undefined) return { image, strength: request.strength ?? DEFAULT_STRENGTH };
  const gray = await readPicture(request.mask, { field: "mask", channels: 1, size });
  const grayPatches = pixels(gray);
  // From [−1, 1] to [0, 1], and the same for each channel.
  const data = new Float32Array(image.data.length);
  for (let i = 0; i < data.length; i++) data[i] = (grayPatches.data[i % grayPatches.data.length]! + 1) / 2;
  return { image, mask: { ...image, data }, strength: request.strength ?? DEFAULT_MASKED_STRENGTH };
}

/**
 * The sampler of a request and, where a picture is encoded first, DDIM upwards. Neither clips then: what was clipped
 * does not come back.
 */
export function samplersFor(
  request: UnconditionalRequest,
  model: SchedulerConfig,
): { readonly sampler: ConfiguredSampler; readonly inverse?: ConfiguredSampler } {
  if (!request.invert) return { sampler: chooseSampler(model, request.sampler, request.spread) };
  const unclipped = { ...model, clip_sample: false, thresholding: false };
  const { sampler: name = "ddim", spread = name === "ddim" ? "trailing" : undefined } = request;
  // x0 cannot be read as noise at the level without any.
  const last = { set_alpha_to_one: model.prediction_type !== "sample" };
  const ddim = namedSampler("ddim", { ...unclipped, ...last }, { spread: "trailing" });
  return {
    sampler: name === "ddim" && spread === "trailing" ? ddim : chooseSampler(unclipped, name, spread),
    inverse: samplerFromConfig({ ...ddim.options, _class_name: "DDIMInverseScheduler" }),
  };
}

/** A run over a batch: its levels, its networks, where its noise comes from and what it starts with. */
export interface BatchRun {
  readonly plan: SamplingPlan;
  readonly network: Network;
  /** Of the network's input. */
  readonly shape: Shape;
  readonly noise: NoiseSource;
  readonly source: SourcePicture | undefined;
  /** Encodes the source to noise first, with the network of its class. */
  readonly inversion?: { readonly plan: SamplingPlan; readonly network: Network };
}

/** How many steps `sampleBatch` takes. */
export function stepsOfBatch(
  plan: SamplingPlan,
  source: SourcePicture | undefined,
  inversion: SamplingPlan | undefined,
): number {
  if (source?.strength === undefined) return plan.steps + (inversion?.steps ?? 0);
  return plan.steps - firstStep(plan.steps, source.strength);
}

/** Draws a batch from noise, from a noised picture, around a mask, or from the noise that a picture is encoded as. */
export async function* sampleBatch({ plan, network, shape, noise, source, inversion }: BatchRun): SamplerRun {
  if (!source) {
    yield* plan.sample(network, scaled(noise(shape), plan.initNoiseSigma), { noise });
    return;
  }
  const image = repeated(source.image, shape);
  if (inversion) {
    let x = image;
    for await (const state of inversion.plan.sample(inversion.network, x)) {
      yield state;
      x = state.x;
    }
    // Inversion keeps the variance; the sampler may have x in other units.
    const { alpha, sigma } = plan.levelBefore(0);
    yield* plan.sample(network, scaled(x, Math.hypot(alpha, sigma)));
    return;
  }
  const drawn = noise(shape);
  const { x, first } = noisedStart(plan, image, drawn, source.strength!);
  const denoise = plan.denoiser(network);
  if (!source.mask) {
    yield* plan.run(denoise, x, { noise, first });
    return;
  }
  const inpaint = { original: image, mask: repeated(source.mask, shape), noise: drawn };
  yield* inpainted(plan.run(inpaintedCalls(denoise, inpaint), x, { noise, first }), inpaint);
}

/**
 * Noise on the way from one seed's to another's: each draw is between their draws, so stochastic samplers change from
 * picture to picture as gently as others do. Each picture stays independent of its batch.
 *
 * @param shares how far each picture is on the way, from 0 to 1
 */
export function noiseBetween([from, to]: readonly [number, number], shares: readonly number[]): NoiseSource {
  const [a, b] = [noiseFrom(seeded(from)), noiseFrom(seeded(to))];
  return (shape) => {
    const one = [1, ...shape.slice(1)];
    const [first, last] = [a(one), b(one)];
    const size = first.data.length;
    const data = new Float32Array(size * shares.length);
    shares.forEach((share, i) => {
      data.set(slerp(first, last, share).data, i * size);
    });
    return float32(shape, data);
  };
}

export function scaled(x: Samples, factor: number): Samples {
  return factor === 1
    ? x
    : float32(
        x.shape,
        x.data.map((value) => value * factor),
      );
}

function repeated({ data: one }: Samples, shape: Shape): Samples {
  const data = new Float32Array(one.length * shape[0]!);
  for (let n = 0; n < shape[0]!; n++) data.set(one, n * one.length);
  return float32(shape, data);
}
