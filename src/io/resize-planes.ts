import sharp from "sharp";
import { invariant } from "../core/errors.ts";
import { float32, type HostTensor } from "../core/host-tensor.ts";

/**
 * Scales an image of numbers from 0 to 1, [3, h, w], by Lanczos' kernel of three lobes, in another thread. Computed in 16
 * bits; of the same size nothing is changed.
 */
export async function resizePlanes(
  x: HostTensor<"float32">,
  { width, height }: { readonly width: number; readonly height: number },
): Promise<HostTensor<"float32">> {
  const [channels, h, w] = x.shape as [number, number, number];
  invariant(x.shape.length === 3 && channels === 3, `[3, h, w] is needed, [${x.shape}] was given`);
  if (w === width && h === height) return x;
  const plane = h * w;
  const mixed = new Uint16Array(x.data.length);
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < plane; i++)
      mixed[i * 3 + c] = Math.round(65535 * Math.min(Math.max(x.data[c * plane + i]!, 0), 1));
  }
  const data = await sharp(mixed, { raw: { width: w, height: h, channels: 3 } })
    .toColourspace("rgb16")
    .resize({ width, height, fit: "fill", kernel: "lanczos3" })
    .raw({ depth: "ushort" })
    .toBuffer();
  const scaled = new Uint16Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength));
  const result = new Float32Array(scaled.length);
  const pixels = width * height;
  for (let i = 0; i < pixels; i++) for (let c = 0; c < 3; c++) result[c * pixels + i] = scaled[i * 3 + c]! / 65535;
  return float32([3, height, width], result);
}
