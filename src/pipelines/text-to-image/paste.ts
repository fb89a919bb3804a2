import { cutBatch } from "../../core/batch-parts.ts";
import { float32 } from "../../core/host-tensor.ts";
import type { Samples } from "../../diffusion/index.ts";
import { type HostImage, hostImage, imagesFromTensor, resizePlanes } from "../../io/index.ts";
import type { Box } from "./mask.ts";

/** A picture, and [3, height, width] from 0 to 1 before rounding. */
export interface DrawnPicture {
  readonly image: HostImage;
  readonly float: Samples;
}

/** The pictures of what an autoencoder gives: [n, 3, height, width] in −1 … 1 and a little beyond. */
export function drawnPictures(decoded: Samples): DrawnPicture[] {
  const images = imagesFromTensor(decoded);
  return cutBatch(decoded, images.length).map(({ shape, data }, i) => ({
    image: images[i]!,
    float: float32(
      shape.slice(1),
      data.map((value) => Math.min(Math.max(value / 2 + 0.5, 0), 1)),
    ),
  }));
}

/** Where what was drawn belongs in a picture of which the rest is kept. */
export interface Paste {
  readonly original: HostImage;
  readonly box: Box;
  /** Of the box's size, one channel: how much of what was drawn shows in each pixel, 255 being all. */
  readonly share: HostImage;
}

/**
 * Puts what was drawn back into its picture. Where nothing of it shows, the bytes are the original's.
 *
 * @param drawn [3, h, w] from 0 to 1, of any size: it is scaled to the box
 */
export async function pasted(drawn: Samples, { original, box, share }: Paste): Promise<DrawnPicture> {
  const { width, height } = original;
  const { data: fresh } = await resizePlanes(drawn, box);
  const pixels = width * height;
  const float = new Float32Array(3 * pixels);
  for (let i = 0; i < pixels; i++) {
    for (let c = 0; c < 3; c++) float[c * pixels + i] = original.data[i * 3 + c]! / 255;
  }
  const bytes = original.data.slice();
  const plane = box.width * box.height;
  for (let y = Math.max(0, -box.top); y < Math.min(box.height, height - box.top); y++) {
    for (let x = Math.max(0, -box.left); x < Math.min(box.width, width - box.left); x++) {
      const from = y * box.width + x;
      const part = share.data[from]! / 255;
      if (part === 0) continue;
      const to = (box.top + y) * width + box.left + x;
      for (let c = 0; c < 3; c++) {
        const value = part * fresh[c * plane + from]! + (1 - part) * float[c * pixels + to]!;
        float[c * pixels + to] = value;
        bytes[to * 3 + c] = Math.round(255 * value);
      }
    }
  }
  return { image: hostImage(width, height, 3, bytes), float: float32([3, height, width], float) };
}
