import { UserError } from "../../core/errors.ts";
import { float32, type Shape, sizeOf } from "../../core/host-tensor.ts";
import {
  type InpaintOptions,
  type NoiseSource,
  noisedStart,
  type Samples,
  type SamplingPlan,
} from "../../diffusion/index.ts";
import { tensorFromImages } from "../../io/index.ts";
import { decodePicture } from "../picture-input.ts";
import { scaled } from "../unconditional-editing.ts";
import type { Size } from "./family.ts";
import type { AutoencoderOptions, LatentSpace, Posterior } from "./latents.ts";
import type { Box } from "./mask.ts";
import { fitted, fittedCrop, maskedPicture, mustBeAsLarge } from "./masked-source.ts";
import type { TextToImageModel } from "./model.ts";
import type { Paste } from "./paste.ts";
import { picturesOf, type TextToImageRequest } from "./request.ts";
import { mustTile, resizedSeamless, tilingMultiple } from "./seamless.ts";

/** The picture a request starts from, at the size that is drawn. */
export interface Source {
  /** [1, 3, height, width] in −1 … 1. */
  readonly image: Samples;
  /** [1, 1, height, width]: 1 is painted anew, 0 kept. */
  readonly mask: Samples | undefined;
  readonly strength: number;
  /** The part of the picture that is drawn; undefined where all of it is. */
  readonly crop?: Box;
  /** Where what was drawn goes; undefined where it is the result itself. */
  readonly paste?: Paste;
}

/**
 * The size that is drawn, [height, width] in pixels, and the picture it starts from.
 *
 * A picture is scaled to the width and height of the request; without these, it is taken as it is, unless only a part of it
 * is drawn: then the size is that of training.
 * @throws UserError for a size that the model cannot draw (naming the nearest ones), and pictures that cannot be read
 */
export async function readSource(
  request: TextToImageRequest,
  model: TextToImageModel,
): Promise<{ readonly size: Size; readonly source: Source | undefined }> {
  const { image, mask, controlImage, latents } = request;
  if (latents) {
    const size = [latents.shape[2]! * model.factor, latents.shape[3]! * model.factor] as const;
    checkLatents(latents, request, model);
    checkSize(size, model, "latents");
    return { size, source: undefined };
  }
  const sized = request.height !== undefined && request.width !== undefined;
  if (image === undefined) {
    const picture =
      sized || controlImage === undefined
        ? undefined
        : await decodePicture(controlImage, { field: "controlImage", channels: 3 });
    const [height, width] = sized ? [0, 0] : picture ? [picture.height, picture.width] : trainedSize(model);
    const size = [request.height ?? height, request.width ?? width] as const;
    checkSize(size, model, picture && "controlImage");
    mustTile(size, request.seamless, tilingMultiple(model));
    return { size, source: undefined };
  }
  const picture = await decodePicture(image, { field: "image", channels: 3 });
  const unsized = request.height === undefined && request.width === undefined;
  const own = request.onlyMasked ? (sized ? [0, 0] : trainedSize(model)) : [picture.height, picture.width];
  const size = [request.height ?? own[0]!, request.width ?? own[1]!] as const;
  checkSize(size, model, unsized && !request.onlyMasked ? "image" : undefined);
  mustTile(size, request.seamless, tilingMultiple(model));
  const strength = request.strength ?? model.family.defaults(request).strength;
  if (mask === undefined) {
    const { seamless } = request;
    const scaled = await (seamless ? resizedSeamless(picture, size, seamless) : fitted(picture, size));
    return { size, source: { image: tensorFromImages([scaled]), mask: undefined, strength } };
  }
  const masked = await maskedPicture(picture, mask, request, size);
  const binary = float32(
    [1, 1, ...size],
    Float32Array.from(masked.mask.data, (value) => value / 255),
  );
  const { crop, paste } = masked;
  return { size, source: { image: tensorFromImages([masked.image]), mask: binary, strength, crop, paste } };
}

/**
 * The picture that a control network sees, [1, 3, height, width] from 0 to 1, scaled to the size that is drawn.
 *
 * @param source of which only a part may be drawn: then of the picture, too
 */
export async function readControl(
  { controlImage }: TextToImageRequest,
  size: Size,
  source: Source | undefined,
): Promise<Samples | undefined> {
  if (controlImage === undefined) return undefined;
  const picture = await decodePicture(controlImage, { field: "controlImage", channels: 3 });
  const { crop, paste } = source ?? {};
  if (crop) mustBeAsLarge(picture, paste!.original, "controlImage");
  const { shape, data } = tensorFromImages([await (crop ? fittedCrop(picture, crop, size) : fitted(picture, size))]);
  return float32(
    shape,
    data.map((value) => (value + 1) / 2),
  );
}

/** What the autoencoder says about a source: computed once for all pictures. */
export interface EncodedSource {
  readonly source: Source;
  readonly image: Posterior;
  /** Of the picture with its masked part gray; undefined without a mask. */
  readonly kept: Posterior | undefined;
}

/** Encodes a source's picture and, for a network that sees it, what the mask leaves of it. */
export async function encodeSource(
  source: Source,
  vae: LatentSpace,
  options: AutoencoderOptions,
): Promise<EncodedSource> {
  const image = await vae.encode(source.image, options);
  if (!source.mask) return { source, image, kept: undefined };
  const { shape, data } = source.image;
  const plane = source.mask.data.length;
  const kept = float32(
    shape,
    data.map((value, i) => (source.mask!.data[i % plane]! < 0.5 ? value : 0)),
  );
  return { source, image, kept: await vae.encode(kept, options) };
}

/** Where a batch's run begins. */
export interface BatchStart {
  readonly x: Samples;
  /** The step to begin with. */
  readonly first: number;
  /** How the kept part is put back after each step, where the network does not see it. */
  readonly inpaint: InpaintOptions | undefined;
  /** Mask [n, 1, h, w] and latents of the kept part [n, c, h, w], which an inpainting network sees. */
  readonly seen: { readonly mask: Samples; readonly kept: Samples } | undefined;
}

/** What a run sees that neither paints inside a mask nor sees one. */
export const NOTHING_SEEN = { inpaint: undefined, seen: undefined } as const;

export interface StartOptions {
  readonly plan: SamplingPlan;
  /** Of the latents: [n, channels, h, w]. */
  readonly shape: Shape;
  readonly noise: NoiseSource;
  /** Whether each picture draws from a source of its own; else one draw is shared by all. */
  readonly perPicture: boolean;
  readonly vae: LatentSpace;
  readonly model: TextToImageModel;
}

/**
 * Draws what a batch begins with, in the order of diffusers: the latent of the picture, the noise, and the latent of
 * what the mask leaves of it.
 */
export function startOfBatch(
  encoded: EncodedSource | undefined,
  { plan, shape, noise, perPicture, vae, model }: StartOptions,
): BatchStart {
  if (!encoded) {
    return { ...NOTHING_SEEN, x: scaled(noise(shape), plan.initNoiseSigma), first: 0 };
  }
  const { source, image, kept } = encoded;
  const { inpainting: seesMask, strengthRounds } = model.family;
  const latentOf = (posterior: Posterior): Samples => {
    const drawn = posterior.deviation && noise(perPicture ? shape : [1, ...shape.slice(1)]);
    return repeatedTo(vae.draw(posterior, drawn), shape);
  };
  const fromNoise = source.mask !== undefined && source.strength === 1;
  const latent = fromNoise && seesMask ? undefined : latentOf(image);
  const drawn = noise(shape);
  const start = fromNoise
    ? { x: scaled(drawn, plan.initNoiseSigma), first: 0 }
    : lateStart(plan, latent!, drawn, { strength: source.strength, rounds: strengthRounds });
  if (!source.mask || !kept) return { ...NOTHING_SEEN, ...start };
  const keptLatent = latentOf(kept);
  const mask = latentMask(source.mask, model.factor);
  if (seesMask) {
    const one = [shape[0]!, 1, ...shape.slice(2)];
    return { ...start, inpaint: undefined, seen: { mask: repeatedTo(mask, one), kept: keptLatent } };
  }
  const { steps } = plan;
  const inpaint: InpaintOptions = {
    original: latent!,
    mask,
    noise: drawn,
    // Where the steps of a sampler do not touch, the next one's beginning counts.
    levelAfter: ({ step, level }) => (step < steps ? plan.levelBefore(step) : level),
  };
  return { ...start, inpaint, seen: undefined };
}

/** A noised latent and the step to begin with; with PNDM one timestep earlier, see `RunOptions.restart`. */
function lateStart(
  plan: SamplingPlan,
  latent: Samples,
  noise: Samples,
  { strength, rounds }: { readonly strength: number; readonly rounds: "down" | "up" },
) {
  const start = noisedStart(plan, latent, noise, strength, rounds);
  if (plan.className !== "PNDMScheduler" || start.first === 0) return start;
  return { ...start, x: plan.addNoise(latent, noise, plan.timesteps[start.first]!) };
}

function checkLatents(latents: Samples, request: TextToImageRequest, { family }: TextToImageModel): void {
  const [n, channels] = latents.shape as [number, number];
  const pictures = picturesOf(request).length;
  if (n !== pictures || channels !== family.channels) {
    throw new UserError(`Latents of ${n} pictures with ${channels} channels were given.`, {
      hint: `Needed are those of ${pictures} pictures with ${family.channels} channels.`,
      field: "latents",
    });
  }
}

/** The size a model was trained with, in pixels. */
function trainedSize({ family: { trained }, factor, path }: TextToImageModel): Size {
  if (trained) return [trained[0] * factor, trained[1] * factor];
  throw new UserError(`${path} does not say which size it was trained with.`, {
    hint: "Give `width` and `height`.",
    field: "width",
  });
}

function checkSize([height, width]: Size, { factor, family }: TextToImageModel, field?: string): void {
  const multiple = factor * family.patch;
  const longest = (family.longest ?? Number.POSITIVE_INFINITY) * factor;
  for (const [name, value] of [
    ["height", height],
    ["width", width],
  ] as const) {
    const given = `the ${name} is ${value}`;
    if (value % multiple !== 0) {
      const below = Math.floor(value / multiple) * multiple;
      const near = below > 0 ? `${below} or ${below + multiple}` : `${multiple}`;
      throw new UserError(`This model draws pictures whose sides are multiples of ${multiple}; ${given}.`, {
        hint: field
          ? `Give \`width\` and \`height\`, to which the image is scaled; near is a ${name} of ${near}.`
          : `Near is ${near}.`,
        field: field ?? name,
      });
    }
    if (value > longest) {
      throw new UserError(`This model draws pictures whose sides are at most ${longest}; ${given}.`, {
        field: field ?? name,
      });
    }
  }
}

/** The mask at the latents' size: the top left pixel of each square, as torch's nearest interpolation takes it. */
function latentMask({ shape, data }: Samples, factor: number): Samples {
  const [height, width] = [shape[2]! / factor, shape[3]! / factor];
  const small = new Float32Array(height * width);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) small[y * width + x] = data[y * factor * shape[3]! + x * factor]!;
  }
  return float32([1, 1, height, width], small);
}

/** A tensor [1, …] as often as a shape [n, …] says. */
export function repeatedTo(x: Samples, shape: Shape): Samples {
  if (x.data.length === sizeOf(shape)) return x;
  const data = new Float32Array(sizeOf(shape));
  for (let at = 0; at < data.length; at += x.data.length) data.set(x.data, at);
  return float32(shape, data);
}
