import { invariant, UserError } from "../core/errors.ts";
import { describeShape, float32, type HostTensor } from "../core/host-tensor.ts";

/** A decoded image: `data` is [height, width, channels], one byte a sample, 1 channel (gray) or 3 (sRGB). */
export interface HostImage {
  readonly width: number;
  readonly height: number;
  readonly channels: 1 | 3;
  readonly data: Uint8Array;
}

/** Wraps `data` (not copied) as an image. */
export function hostImage(width: number, height: number, channels: 1 | 3, data: Uint8Array): HostImage {
  invariant(
    data.length === width * height * channels,
    `${data.length} bytes for a ${width}×${height}×${channels} image`,
  );
  return { width, height, channels, data };
}

const half = new Float32Array(1);

/**
 * The byte a model's output stands for: -1 is 0 and 1 is 255, beyond is clamped. Rounded half to even in float32
 * arithmetic, as numpy does with `(255 * (x / 2 + 0.5).clip(0, 1)).round()`. NaN becomes 0.
 */
export function toByte(value: number): number {
  half[0] = Math.fround(value / 2) + 0.5;
  half[0] = 255 * Math.min(Math.max(half[0]!, 0), 1);
  const scaled = half[0]!;
  const below = Math.floor(scaled);
  const rest = scaled - below;
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : rest >= 0.5 ? below + 1 : 0;
}

/**
 * Images from a model's output.
 *
 * @param tensor [batch, channels, height, width] in [-1, 1], 1 or 3 channels
 * @throws UserError for another shape or number of channels
 */
export function imagesFromTensor(tensor: HostTensor<"float32">): HostImage[] {
  const [count, channels, height, width] = tensor.shape;
  if (tensor.shape.length !== 4 || (channels !== 1 && channels !== 3)) {
    throw new UserError(
      `A tensor of shape ${describeShape(tensor.shape)} cannot be shown as images; [batch, 1 or 3, height, width] can.`,
    );
  }
  const plane = height! * width!;
  return Array.from({ length: count! }, (_, n) => {
    const data = new Uint8Array(plane * channels);
    for (let c = 0; c < channels; c++) {
      const from = (n * channels + c) * plane;
      for (let i = 0; i < plane; i++) data[i * channels + c] = toByte(tensor.data[from + i]!);
    }
    return hostImage(width!, height!, channels, data);
  });
}

/**
 * The tensor [batch, channels, height, width] in [-1, 1] of images of one size: `byte / 127.5 - 1` in float32.
 *
 * @throws UserError when the images differ in size or channels, or there are none
 */
export function tensorFromImages(images: readonly HostImage[]): HostTensor<"float32"> {
  const { width, height, channels } = sameSize(images);
  const plane = width * height;
  const data = new Float32Array(images.length * channels * plane);
  images.forEach((image, n) => {
    for (let c = 0; c < channels; c++) {
      const to = (n * channels + c) * plane;
      for (let i = 0; i < plane; i++) data[to + i] = Math.fround(image.data[i * channels + c]! / 127.5) - 1;
    }
  });
  return float32([images.length, channels, height, width], data);
}

/** The images of uint8 pixels [batch, channels, height, width], as data sets hold them. */
export function imagesFromBytes(tensor: HostTensor<"uint8">): HostImage[] {
  const [count, channels, height, width] = tensor.shape as [number, 1 | 3, number, number];
  const plane = height * width;
  return Array.from({ length: count }, (_, n) => {
    const planes = tensor.data.subarray(n * channels * plane, (n + 1) * channels * plane);
    return hostImage(width, height, channels, interleaved(planes, channels));
  });
}

/** [channels, pixels] to [pixels, channels]. */
export function interleaved(planes: Uint8Array, channels: number): Uint8Array {
  const pixels = planes.length / channels;
  const result = new Uint8Array(planes.length);
  for (let c = 0; c < channels; c++)
    for (let i = 0; i < pixels; i++) result[i * channels + c] = planes[c * pixels + i]!;
  return result;
}

/** [pixels, channels] to [channels, pixels], written into `target`. */
export function deinterleave(data: Uint8Array, channels: number, target: Uint8Array): void {
  const pixels = data.length / channels;
  for (let c = 0; c < channels; c++) for (let i = 0; i < pixels; i++) target[c * pixels + i] = data[i * channels + c]!;
}

/** The size that all images share. */
export function sameSize(images: readonly HostImage[]): HostImage {
  const [first] = images;
  if (!first) throw new UserError("There is no image; at least one is needed.");
  const other = images.findIndex(
    (image) => image.width !== first.width || image.height !== first.height || image.channels !== first.channels,
  );
  if (other >= 0) {
    const describe = (image: HostImage) => `${image.width}×${image.height} with ${image.channels} channels`;
    throw new UserError(
      `Images of one size are needed: image 0 is ${describe(first)}, image ${other} is ${describe(images[other]!)}.`,
    );
  }
  return first;
}

/** A gray image as RGB; an RGB image as it is. */
export function asRgb(image: HostImage): HostImage {
  if (image.channels === 3) return image;
  const data = new Uint8Array(image.data.length * 3);
  for (let i = 0; i < image.data.length; i++) data.fill(image.data[i]!, i * 3, i * 3 + 3);
  return hostImage(image.width, image.height, 3, data);
}

/** The gray image of an RGB one: luma 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), in 16-bit fixed point. */
export function asGray(image: HostImage): HostImage {
  if (image.channels === 1) return image;
  const data = new Uint8Array(image.width * image.height);
  for (let i = 0; i < data.length; i++) {
    const sum = 19595 * image.data[i * 3]! + 38470 * image.data[i * 3 + 1]! + 7471 * image.data[i * 3 + 2]!;
    data[i] = (sum + 0x8000) >> 16;
  }
  return hostImage(image.width, image.height, 1, data);
}
