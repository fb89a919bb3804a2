import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { GRIDS, SAMPLERS, type SamplerName } from "../diffusion/index.ts";
import { guidanceFields } from "./guidance-fields.ts";
import { pictureInput } from "./picture-input.ts";
import type { Classes } from "./unconditional-folder.ts";

const SAMPLER_NAMES = Object.keys(SAMPLERS) as [SamplerName, ...SamplerName[]];
const whole = (minimum: number) => z.number().int().min(minimum);
const className = () => z.union([z.string(), whole(0)]);

/** What is asked of an unconditional or class-conditional model. Descriptions are what `--help` shows. */
export const unconditionalRequest = z.strictObject({
  count: whole(1).default(16).describe("pictures to draw"),
  seed: whole(0).default(0).describe("seed of the first picture; the others have the seeds that follow"),
  seeds: z.array(whole(0)).min(1).optional().describe("the seed of each picture, in the place of count and seed"),
  sampler: z.enum(SAMPLER_NAMES).optional().describe("how to draw (default: the model's own scheduler)"),
  steps: whole(1).optional().describe("steps from noise to picture (default: 20; 50 with invert and for DiT)"),
  eta: z.number().min(0).max(1).optional().describe("share of fresh noise in a step of ddim; 0 is deterministic"),
  clippedNoise: z.boolean().optional().describe("let ddim use the noise that belongs to the clipped picture"),
  spread: z.enum(GRIDS).optional().describe("how the steps of a named sampler are spread"),
  class: z
    .union([className(), z.array(className()).min(1)])
    .optional()
    .describe("class by name or number; of several each picture takes the next (default: all in turn)"),
  guidance: z
    .number()
    .min(0)
    .optional()
    .describe("weight of classifier-free guidance to the class; 1 is none (default: 1; 4 for DiT)"),
  ...guidanceFields,
  size: z
    .union([whole(1), z.tuple([whole(1), whole(1)])])
    .optional()
    .describe("height and width in pixels, one number or two (default: that of training)"),
  image: pictureInput().optional().describe("picture to start from, of the size that is drawn"),
  strength: z
    .number()
    .gt(0)
    .max(1)
    .optional()
    .describe("how much of the image is drawn anew, above 0 to 1 (default: 0.6; with a mask 1)"),
  mask: pictureInput().optional().describe("picture that is white where the image is painted anew, black where kept"),
  invert: z.boolean().optional().describe("encode the image to noise by DDIM inversion and draw from that, unclipped"),
  imageClass: className().optional().describe("class of the image to invert (default: the class that is drawn)"),
  between: z
    .tuple([whole(0), whole(0)])
    .optional()
    .describe("two seeds to draw pictures between, both ends among them"),
  batch: whole(1).default(16).describe("most pictures the network sees at once"),
});

/** A request with its defaults filled in. */
export type UnconditionalRequest = z.output<typeof unconditionalRequest> & { readonly guidance: number };
/** What a caller writes of it. */
export type UnconditionalRequestInput = z.input<typeof unconditionalRequest>;

/**
 * The label of each picture, or undefined for a network without classes.
 * @throws UserError for a class that there is not, classes of a network that has none, guidance it was not trained for, and
 *   what is said of guidance where there is none
 */
export function labelsFor(
  request: Pick<UnconditionalRequest, "class" | "guidance" | "guidanceRescale" | "guidanceInterval" | "imageClass">,
  classes: Classes | undefined,
  count: number,
): number[] | undefined {
  const ofGuidance = (["guidanceRescale", "guidanceInterval"] as const).find((name) => request[name]);
  if (!classes) {
    const field =
      (["class", "imageClass"] as const).find((name) => request[name] !== undefined) ??
      (request.guidance !== 1 ? "guidance" : ofGuidance);
    if (!field) return undefined;
    throw new UserError(`\`${field}\` was given; this model has no classes.`, { hint: "Leave it out.", field });
  }
  if (request.guidance !== 1 && classes.none === undefined) {
    throw new UserError(`Guidance ${request.guidance} was asked for; this model was not trained without its classes.`, {
      hint: "Train with class dropout above 0, or leave guidance at 1.",
      field: "guidance",
    });
  }
  if (request.guidance === 1 && ofGuidance) {
    throw new UserError(`\`${ofGuidance}\` was given; it has no effect, since guidance is 1.`, {
      hint: "Leave it out, or raise guidance above 1.",
      field: ofGuidance,
    });
  }
  const asked = request.class === undefined ? [] : Array.isArray(request.class) ? request.class : [request.class];
  const labels = asked.length > 0 ? asked.map((name) => labelOf(name, classes)) : classes.names.map((_, i) => i);
  return Array.from({ length: count }, (_, i) => labels[i % labels.length]!);
}

/**
 * The label of a class. Names go before numbers: a class may be called "7" and stand at another place. Names of ImageNet's
 * classes are lists ("cock, rooster"); each word of one is a name too.
 * @throws UserError for a class that there is not, and a name of several
 */
export function labelOf(name: string | number, { names }: Classes, field = "class"): number {
  const called = (of: (own: string) => boolean) => names.flatMap((own, i) => (of(own) ? [i] : []));
  const exact = called((own) => own === String(name));
  const byName = exact.length > 0 ? exact : called((own) => own.split(",").some((word) => word.trim() === name));
  if (byName.length === 1) return byName[0]!;
  if (byName.length > 1) {
    throw new UserError(`Several classes are called ${JSON.stringify(name)}.`, {
      hint: `Give the number of the one that is meant: ${byName.map((i) => `${i} (${names[i]})`).join(", ")}.`,
      field,
    });
  }
  const index = typeof name === "number" ? name : /^\d+$/.test(name) ? Number(name) : -1;
  if (index >= 0 && index < names.length) return index;
  const shown = names.length > 40 ? `${names.slice(0, 40).join(", ")} and ${names.length - 40} more` : names.join(", ");
  throw new UserError(`There is no class ${JSON.stringify(name)}.`, {
    hint: `The classes are ${shown}; or a number from 0 to ${names.length - 1}.`,
    field,
  });
}
