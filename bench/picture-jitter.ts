import { type HostTensor, hostTensor } from "../src/core/host-tensor.ts";
import type { Random } from "../src/core/random.ts";

/** How far pictures are changed at most; each amount is drawn evenly from its whole range, for every picture anew. */
export interface Jitter {
  /** Pixels along each axis, either way. */
  readonly shift: number;
  /** Part of the size, either way. */
  readonly scale: number;
  /** Radians, either way. */
  readonly turn: number;
  /** Part of each colour's strength, either way. */
  readonly gain: number;
  /** Share of the picture, from 0 on, that is replaced by its mean over 3×3 pixels with weights 1 2 1. */
  readonly blur: number;
}

/**
 * Pictures a little moved, scaled, turned, tinted and blurred; where they do not reach, their edges go on.
 *
 * @param pictures [n, 3, h, w]
 */
export function jittered(pictures: HostTensor<"uint8">, random: Random, jitter: Jitter): HostTensor<"uint8"> {
  const [n, channels, height, width] = pictures.shape as [number, number, number, number];
  const out = new Uint8Array(pictures.data.length);
  const size = height * width;
  const plane = new Float32Array(size);
  for (let i = 0; i < n; i++) {
    const drawn = random.uniform([5 + channels], { low: -1, high: 1 }).data;
    const taken = sourceOf(height, width, {
      down: drawn[0]! * jitter.shift,
      right: drawn[1]! * jitter.shift,
      scale: 1 + drawn[2]! * jitter.scale,
      turn: drawn[3]! * jitter.turn,
    });
    const share = Math.abs(drawn[4]!) * jitter.blur;
    for (let c = 0; c < channels; c++) {
      const at = (i * channels + c) * size;
      resample(pictures.data.subarray(at, at + size), taken, width, plane);
      blur(plane, width, share);
      const gain = 1 + drawn[5 + c]! * jitter.gain;
      for (let p = 0; p < size; p++) out[at + p] = Math.min(Math.round(plane[p]! * gain), 255);
    }
  }
  return hostTensor("uint8", pictures.shape, out);
}

interface Movement {
  readonly down: number;
  readonly right: number;
  readonly scale: number;
  readonly turn: number;
}

/** Where in the picture each pixel of the moved one comes from: [pixels, (y, x)], within the picture. */
function sourceOf(height: number, width: number, { down, right, scale, turn }: Movement): Float32Array {
  const [middleY, middleX] = [(height - 1) / 2, (width - 1) / 2];
  const [cos, sin] = [Math.cos(turn) / scale, Math.sin(turn) / scale];
  const places = new Float32Array(2 * height * width);
  for (let y = 0, p = 0; y < height; y++) {
    for (let x = 0; x < width; x++, p += 2) {
      const [v, u] = [y - middleY - down, x - middleX - right];
      places[p] = Math.min(Math.max(middleY + cos * v - sin * u, 0), height - 1);
      places[p + 1] = Math.min(Math.max(middleX + sin * v + cos * u, 0), width - 1);
    }
  }
  return places;
}

/** Bilinear between the four pixels around each place. */
function resample(source: Uint8Array, places: Float32Array, width: number, target: Float32Array): void {
  const height = source.length / width;
  for (let p = 0; p < target.length; p++) {
    const [y, x] = [places[2 * p]!, places[2 * p + 1]!];
    const [top, left] = [Math.floor(y), Math.floor(x)];
    const [below, beside] = [Math.min(top + 1, height - 1) * width, Math.min(left + 1, width - 1)];
    const [dy, dx] = [y - top, x - left];
    const upper = source[top * width + left]! * (1 - dx) + source[top * width + beside]! * dx;
    const lower = source[below + left]! * (1 - dx) + source[below + beside]! * dx;
    target[p] = upper * (1 - dy) + lower * dy;
  }
}

/** Mixes a plane with its blurred self: along the rows, then along the columns, the edges repeated. */
function blur(plane: Float32Array, width: number, share: number): void {
  const height = plane.length / width;
  const rows = new Float32Array(plane.length);
  for (let y = 0, p = 0; y < height; y++) {
    for (let x = 0; x < width; x++, p++) {
      rows[p] = (plane[x > 0 ? p - 1 : p]! + 2 * plane[p]! + plane[x < width - 1 ? p + 1 : p]!) / 4;
    }
  }
  for (let y = 0, p = 0; y < height; y++) {
    for (let x = 0; x < width; x++, p++) {
      const blurred = (rows[y > 0 ? p - width : p]! + 2 * rows[p]! + rows[y < height - 1 ? p + width : p]!) / 4;
      plane[p] = plane[p]! + share * (blurred - plane[p]!);
    }
  }
}
