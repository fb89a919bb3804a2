import { UserError } from "../../core/errors.ts";
import { blurImage, type HostImage, hostImage } from "../../io/index.ts";

// Masks as pictures of one channel: 255 is painted anew, 0 kept.

/** A part of a picture, in its pixels; it may reach beyond the picture's edges. */
export interface Box {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

/** A gray picture made black and white at half gray, as diffusers does with masks. */
export function blackAndWhite({ width, height, data }: HostImage): HostImage {
  return hostImage(
    width,
    height,
    1,
    data.map((value) => (value >= 128 ? 255 : 0)),
  );
}

/**
 * How much of what is drawn shows in each pixel, 255 being all: all of it inside the mask; outside it fades out like twice a
 * Gaussian blur of the mask with this deviation in pixels, which is 255 at its edge. So nothing of what is painted over
 * shines through, and the two pictures meet where both show the same.
 */
export async function feathered(mask: HostImage, deviation: number): Promise<HostImage> {
  if (deviation === 0) return mask;
  const { width, height, data } = await blurImage(mask, deviation);
  return hostImage(
    width,
    height,
    1,
    data.map((value, i) => (mask.data[i] === 255 ? 255 : Math.min(255, 2 * value))),
  );
}

export interface BoxNeeds {
  /** Pixels that are left around what is painted, as far as the picture reaches. */
  readonly padding: number;
  /** [height, width] that is drawn: the box gets these proportions. */
  readonly size: readonly [number, number];
}

/**
 * The box around what is not black in a mask: with room on all sides, then grown to the proportions that are drawn, inside the picture
 * where it fits into it and else evenly beyond two of its edges.
 *
 * @throws UserError when the mask paints nothing
 */
export function paintedBox(mask: HostImage, { padding, size: [height, width] }: BoxNeeds): Box {
  const tight = boundingBox(mask);
  if (!tight) {
    throw new UserError("The mask is black everywhere: with `onlyMasked` there is nothing to draw.", {
      hint: "Make white what is to be painted anew.",
      field: "mask",
    });
  }
  const left = Math.max(0, tight.left - padding);
  const top = Math.max(0, tight.top - padding);
  const right = Math.min(mask.width, tight.left + tight.width + padding);
  const bottom = Math.min(mask.height, tight.top + tight.height + padding);
  const [w, h] = [right - left, bottom - top];
  const wide = w * height > h * width;
  const boxWidth = wide ? w : Math.round((h * width) / height);
  const boxHeight = wide ? Math.round((w * height) / width) : h;
  return {
    left: placed(left, w, boxWidth, mask.width),
    top: placed(top, h, boxHeight, mask.height),
    width: boxWidth,
    height: boxHeight,
  };
}

/** Where a stretch begins that was grown evenly from `old` to `length`: within 0 … `limit` if it fits there. */
function placed(start: number, old: number, length: number, limit: number): number {
  if (length > limit) return Math.floor((limit - length) / 2);
  return Math.min(Math.max(0, start - Math.floor((length - old) / 2)), limit - length);
}

function boundingBox({ width, height, data }: HostImage): Box | undefined {
  let [left, right, top, bottom] = [width, -1, height, -1];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (data[y * width + x] === 0) continue;
      left = Math.min(left, x);
      right = Math.max(right, x);
      top = Math.min(top, y);
      bottom = y;
    }
  }
  return right < 0 ? undefined : { left, top, width: right - left + 1, height: bottom - top + 1 };
}

/** What a box shows of a picture. Beyond its edges the picture's last pixels are repeated. */
export function cropped(image: HostImage, { left, top, width, height }: Box): HostImage {
  const { channels } = image;
  const data = new Uint8Array(width * height * channels);
  for (let y = 0; y < height; y++) {
    const row = Math.min(Math.max(top + y, 0), image.height - 1) * image.width;
    for (let x = 0; x < width; x++) {
      const from = (row + Math.min(Math.max(left + x, 0), image.width - 1)) * channels;
      for (let c = 0; c < channels; c++) data[(y * width + x) * channels + c] = image.data[from + c]!;
    }
  }
  return hostImage(width, height, channels, data);
}
