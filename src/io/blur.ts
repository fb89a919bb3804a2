import sharp from "sharp";
import { invariant } from "../core/errors.ts";
import { type HostImage, hostImage } from "./host-image.ts";

/** A gray image blurred by a Gaussian of this standard deviation in pixels (0.3 to 1000), in another thread. */
export async function blurImage({ width, height, channels, data }: HostImage, deviation: number): Promise<HostImage> {
  invariant(channels === 1, "a gray image is needed");
  const blurred = await sharp(data, { raw: { width, height, channels } })
    .blur({ sigma: deviation, minAmplitude: 0.01, precision: "float" })
    .toColourspace("b-w")
    .raw()
    .toBuffer();
  return hostImage(width, height, 1, new Uint8Array(blurred.buffer, blurred.byteOffset, blurred.byteLength));
}
