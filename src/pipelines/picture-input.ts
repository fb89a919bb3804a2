import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { type DecodedImage, decodeImage, type HostImage } from "../io/index.ts";

/** A picture in a request: a file's path, a `data:` URL with base64, or decoded pixels. */
export const pictureInput = () =>
  z.union([
    z.string().min(1),
    z.custom<HostImage>(isHostImage, "Accepted is a path, a data: URL, or an image that was decoded"),
  ]);
export type PictureInput = string | HostImage;

/** Whether a picture of a request is to be read from this computer's files; a server refuses these. */
export function isPicturePath(picture: PictureInput): picture is string {
  return typeof picture === "string" && !picture.startsWith("data:");
}

/**
 * Decodes a picture of a request as gray or in colour, as the model needs it.
 *
 * @throws UserError when it cannot be decoded, or is not of the size [height, width] that is drawn
 */
export async function readPicture(
  picture: PictureInput,
  { field, channels, size: [height, width] }: PictureNeeds,
): Promise<HostImage> {
  const image = await decodePicture(picture, { field, channels });
  if (image.width === width && image.height === height) return image;
  throw new UserError(
    `The ${field} is ${image.height}×${image.width} (height × width); ${height}×${width} pictures are drawn.`,
    { hint: "Give `size`, or scale it first.", field },
  );
}

export interface PictureNeeds {
  /** The field of the request that holds it. */
  readonly field: string;
  readonly channels: 1 | 3;
  readonly size: readonly [number, number];
}

/** Decodes a picture of a request, of whatever size it is. Throws a UserError that names the field. */
export async function decodePicture(
  picture: PictureInput,
  { field, channels }: Pick<PictureNeeds, "field" | "channels">,
): Promise<HostImage | DecodedImage> {
  if (isPicturePath(picture)) return decodeImage(picture, { channels });
  if (typeof picture !== "string") {
    if (picture.channels === channels) return picture;
    throw new UserError(`The ${field} has ${picture.channels} channels; ${channels} are needed.`, { field });
  }
  const base64 = /^data:[^,]*;base64,([\w+/=\s]*)$/.exec(picture)?.[1];
  if (base64 === undefined) {
    throw new UserError(`The ${field} is a data: URL without base64.`, {
      hint: "It has the form data:image/png;base64,…",
      field,
    });
  }
  return decodeImage(Buffer.from(base64, "base64"), { channels, name: `the ${field}` });
}

function isHostImage(value: unknown): boolean {
  const { width, height, channels, data } = (value ?? {}) as Partial<HostImage>;
  return (
    data instanceof Uint8Array && (channels === 1 || channels === 3) && data.length === width! * height! * channels
  );
}
