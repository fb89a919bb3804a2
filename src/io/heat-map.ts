import sharp from "sharp";
import type { HostTensor } from "../core/host-tensor.ts";
import { asRgb, type HostImage, hostImage } from "./host-image.ts";

export interface HeatMapOptions {
  readonly width: number;
  readonly height: number;
  /** What is brightest; default the largest number of the map. */
  readonly maximum?: number;
  /** A picture of this size that shines through, gray. */
  readonly over?: HostImage;
}

/** How much of a picture below shows where the map is 0. */
const BELOW = 0.5;

/**
 * A map of numbers from 0 on, [h, w], as a picture: black, red, yellow and white as a body that glows ever hotter, smooth
 * between the numbers.
 */
export async function heatMap(map: HostTensor<"float32">, options: HeatMapOptions): Promise<HostImage> {
  const { width, height, over } = options;
  const maximum = options.maximum ?? map.data.reduce((most, value) => Math.max(most, value), 0);
  const [h, w] = map.shape as [number, number];
  const levels = Uint16Array.from(map.data, (value) => Math.round(65535 * share(value, maximum)));
  const buffer = await sharp(levels, { raw: { width: w, height: h, channels: 1 } })
    .toColourspace("grey16")
    .resize({ width, height, fit: "fill", kernel: "cubic" })
    .raw({ depth: "ushort" })
    .toBuffer();
  const smooth = new Uint16Array(buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength));
  const below = over && asRgb(over);
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < smooth.length; i++) {
    const heat = smooth[i]! / 65535;
    const gray = below
      ? (BELOW * (below.data[i * 3]! * 299 + below.data[i * 3 + 1]! * 587 + below.data[i * 3 + 2]! * 114)) / 255_000
      : 0;
    for (let c = 0; c < 3; c++) {
      const glow = Math.min(Math.max(3 * heat - c, 0), 1);
      data[i * 3 + c] = Math.round(255 * (gray + (1 - gray) * glow));
    }
  }
  return hostImage(width, height, 3, data);
}

function share(value: number, maximum: number): number {
  return maximum > 0 ? Math.min(Math.max(value / maximum, 0), 1) : 0;
}
