import { UserError } from "../../core/errors.ts";
import { type HostImage, hostImage, resizeImage } from "../../io/index.ts";
import { decodePicture, type PictureInput } from "../picture-input.ts";
import type { Size } from "./family.ts";
import { type Box, blackAndWhite, cropped, feathered, paintedBox } from "./mask.ts";
import type { Paste } from "./paste.ts";
import type { TextToImageRequest } from "./request.ts";

/** What is drawn of a picture with a mask, both at the size that is drawn, and where it goes afterwards. */
export interface MaskedPicture {
  readonly image: HostImage;
  /** Black and white. */
  readonly mask: HostImage;
  /** The part of the picture that is drawn; undefined where all of it is. */
  readonly crop: Box | undefined;
  /** Undefined where what is drawn is the result. */
  readonly paste: Paste | undefined;
}

/** Pixels that are left around what is painted, as the web UI of AUTOMATIC1111 has it. */
const PADDING = 32;

/**
 * Reads the mask of a picture. Image and mask are scaled to the size that is drawn: whole, or with `onlyMasked` a box around
 * what is painted.
 *
 * @param picture as it was decoded
 * @throws UserError for a mask of another size than the picture's, or one that paints nothing where only that is drawn
 */
export async function maskedPicture(
  picture: HostImage,
  mask: PictureInput,
  { onlyMasked, maskPadding = PADDING, maskFeather, keepOutside }: TextToImageRequest,
  size: Size,
): Promise<MaskedPicture> {
  const gray = await decodePicture(mask, { field: "mask", channels: 1 });
  mustBeAsLarge(gray, picture, "mask");
  if (onlyMasked) {
    const own = blackAndWhite(gray);
    const share = keepOutside ? await feathered(own, maskFeather) : own;
    const box = paintedBox(share, { padding: maskPadding, size });
    return {
      image: await fittedCrop(picture, box, size),
      mask: blackAndWhite(await fittedCrop(own, box, size)),
      crop: box,
      paste: { original: picture, box, share: keepOutside ? cropped(share, box) : white(box) },
    };
  }
  const [height, width] = size;
  const image = await fitted(picture, size);
  const own = blackAndWhite(await fitted(gray, size));
  const box = { left: 0, top: 0, width, height };
  const paste = keepOutside ? { original: image, box, share: await feathered(own, maskFeather) } : undefined;
  return { image, mask: own, crop: undefined, paste };
}

/** Throws a UserError where a picture that belongs to the image has another size. */
export function mustBeAsLarge(other: HostImage, image: HostImage, field: "mask" | "controlImage"): void {
  if (other.width === image.width && other.height === image.height) return;
  const name = field === "mask" ? "mask" : "control image";
  throw new UserError(
    `The ${name} is ${other.width}×${other.height} (width × height), the image ${image.width}×${image.height}.`,
    { hint: "Both must have the same size.", field },
  );
}

/** A picture at a size: of other proportions its middle. */
export async function fitted(image: HostImage, [height, width]: Size): Promise<HostImage> {
  if (image.width === width && image.height === height) return image;
  return resizeImage(image, { width, height });
}

/** A box of a picture at a size, all of it: that the box has the size's proportions in whole pixels only is made up for. */
export async function fittedCrop(image: HostImage, box: Box, [height, width]: Size): Promise<HostImage> {
  const part = cropped(image, box);
  if (part.width === width && part.height === height) return part;
  return resizeImage(part, { width, height }, { fit: "fill" });
}

function white({ width, height }: Box): HostImage {
  return hostImage(width, height, 1, new Uint8Array(width * height).fill(255));
}
