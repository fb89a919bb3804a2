import { float32 } from "../../core/host-tensor.ts";
import type { Samples } from "../../diffusion/index.ts";
import type { PictureWords } from "./request.ts";

/** Pictures that are drawn at once. */
export interface Batch {
  /** The index of the first among all. */
  readonly first: number;
  /** How many of them are wanted: the last batch is filled up to the size of the others, since another needs a session. */
  readonly wanted: number;
  /** The index of each among all pictures. */
  readonly indices: readonly number[];
  readonly batch: readonly PictureWords[];
}

/** Batches of pictures of one kind, as even as can be. */
export function batchesOf(
  pictures: readonly PictureWords[],
  most: number,
  kindOf: (picture: PictureWords) => number,
): Batch[] {
  const kinds = pictures.map(kindOf);
  const starts = kinds.flatMap((kind, i) => (kind === kinds[i - 1] ? [] : [i]));
  return starts.flatMap((start, run) => {
    const length = (starts[run + 1] ?? pictures.length) - start;
    const count = Math.ceil(length / most);
    const size = Math.ceil(length / count);
    return Array.from({ length: count }, (_, b): Batch => {
      const indices = Array.from({ length: size }, (_, i) => start + Math.min(b * size + i, length - 1));
      const batch = indices.map((i) => pictures[i]!);
      return { first: start + b * size, wanted: Math.min(size, length - b * size), indices, batch };
    });
  });
}

/** The first of a batch's pictures. */
export function firstPictures(x: Samples, count: number): Samples {
  if (count === x.shape[0]) return x;
  const size = (x.data.length / x.shape[0]!) * count;
  return float32([count, ...x.shape.slice(1)], x.data.subarray(0, size));
}
