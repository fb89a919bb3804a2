import { UserError } from "../../core/errors.ts";
import { type HostImage, hostImage, resizeImage } from "../../io/index.ts";
import { type CircularAxes, withCircularPadding } from "../../models/index.ts";
import type { PartJob } from "../part-sessions.ts";
import type { Size } from "./family.ts";
import type { TextToImageModel } from "./model.ts";

/** Along which axes pictures tile. */
export const SEAMLESS = ["x", "y", "both"] as const;
export type Seamless = (typeof SEAMLESS)[number] | undefined;

function axesOf(seamless: Seamless): CircularAxes {
  return { x: seamless === "x" || seamless === "both", y: seamless === "y" || seamless === "both" };
}

/** A job whose convolutions see the opposite edge beyond an edge: for all networks that a picture passes through. */
export function seamlessJob(job: PartJob, seamless: Seamless): PartJob {
  if (seamless === undefined) return job;
  return {
    ...job,
    name: `${job.name}, seamless ${seamless}`,
    graph: (inputs) => withCircularPadding(axesOf(seamless), () => job.graph(inputs)),
  };
}

/** Of how many pixels the sides of pictures that tile are multiples: latents stay whole at every halving. */
export function tilingMultiple({ factor, family }: Pick<TextToImageModel, "factor" | "family">): number {
  return factor * 2 ** (family.unet?.halvings ?? 0);
}

/**
 * Throws a UserError for sides that do not stay whole numbers where the network halves them: there one column fewer would
 * be doubled than was halved, and opposite edges would not meet.
 *
 * @param multiple of which a side must be a multiple, in pixels
 */
export function mustTile([height, width]: Size, seamless: Seamless, multiple: number): void {
  const { x, y } = axesOf(seamless);
  for (const [name, side, tiles] of [
    ["width", width, x],
    ["height", height, y],
  ] as const) {
    if (!tiles || side % multiple === 0) continue;
    const below = Math.floor(side / multiple) * multiple;
    throw new UserError(`Pictures that tile have sides that are multiples of ${multiple}; the ${name} is ${side}.`, {
      hint: `Near is ${below > 0 ? `${below} or ` : ""}${below + multiple}.`,
      field: name,
    });
  }
}

/** How much of the opposite edge is seen beyond an edge where a picture is scaled: more than Lanczos' three lobes. */
const MARGIN = 4;

/** Scales a picture that tiles, so that it still does. */
export async function resizedSeamless(image: HostImage, [height, width]: Size, seamless: Seamless): Promise<HostImage> {
  const { x, y } = axesOf(seamless);
  const [before, after] = [x ? marginOf(image.width, width) : [0, 0], y ? marginOf(image.height, height) : [0, 0]];
  const larger = rolledCrop(image, -before[0]!, -after[0]!, image.width + 2 * before[0]!, image.height + 2 * after[0]!);
  const size = { width: width + 2 * before[1]!, height: height + 2 * after[1]! };
  return rolledCrop(await resizeImage(larger, size, { fit: "fill" }), before[1]!, after[1]!, width, height);
}

/** A margin in pixels of the old size that is a whole number of pixels of the new one, and that number. */
function marginOf(old: number, wanted: number): readonly [number, number] {
  const step = old / greatestCommonDivisor(old, wanted);
  const margin = Math.ceil(MARGIN / step) * step;
  return [margin, (margin * wanted) / old];
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/** A part of a picture that goes on at its other side. */
function rolledCrop(image: HostImage, left: number, top: number, width: number, height: number): HostImage {
  const { channels } = image;
  const data = new Uint8Array(width * height * channels);
  const at = (i: number, size: number) => ((i % size) + size) % size;
  for (let y = 0; y < height; y++) {
    const row = at(top + y, image.height) * image.width;
    for (let x = 0; x < width; x++) {
      const from = (row + at(left + x, image.width)) * channels;
      for (let c = 0; c < channels; c++) data[(y * width + x) * channels + c] = image.data[from + c]!;
    }
  }
  return hostImage(width, height, channels, data);
}
