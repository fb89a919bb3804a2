import { createHash } from "node:crypto";
import { UserError } from "../core/errors.ts";
import { type HostTensor, hostTensor } from "../core/host-tensor.ts";
import { type HostImage, imagesFromBytes } from "../io/host-image.ts";

/** Images in memory, all of one size, as training takes them. */
export interface Dataset {
  /** For people: the folder or the set's name. */
  readonly name: string;
  /** [count, channels, height, width], one byte a sample: the layout of the networks, so a batch is a plain copy. */
  readonly images: Uint8Array;
  readonly count: number;
  readonly channels: 1 | 3;
  readonly height: number;
  readonly width: number;
  /** The class of each image, an index into `classNames`. */
  readonly labels?: Int32Array;
  readonly classNames?: readonly string[];
  /** What each image shows, in words: at least one caption an image. */
  readonly captions?: readonly (readonly string[])[];
  /** Whether batches mirror each image left to right with probability 1/2. */
  readonly flip: boolean;
  /** What the user should be told before training: files skipped, images enlarged … */
  readonly warnings: readonly string[];
}

/** The tensor [indices.length, channels, height, width] of some images, unflipped. */
export function imagesAt(dataset: Dataset, indices: ArrayLike<number>): HostTensor<"uint8"> {
  const size = dataset.channels * dataset.height * dataset.width;
  const data = new Uint8Array(indices.length * size);
  for (let i = 0; i < indices.length; i++) {
    data.set(dataset.images.subarray(indices[i]! * size, (indices[i]! + 1) * size), i * size);
  }
  return hostTensor("uint8", [indices.length, dataset.channels, dataset.height, dataset.width], data);
}

/** Some images as they look, for grids. */
export function picturesAt(dataset: Dataset, indices: ArrayLike<number>): HostImage[] {
  return imagesFromBytes(imagesAt(dataset, indices));
}

/**
 * A hash of everything a batch is made of. A checkpoint keeps it, so that resuming with other data is noticed.
 * Reads all pixels: about half a second a gigabyte.
 */
export function fingerprint(dataset: Dataset): string {
  const { count, channels, height, width, flip, labels, classNames, captions } = dataset;
  const hash = createHash("sha256").update(JSON.stringify({ count, channels, height, width, flip, classNames }));
  // One update takes less than 2 GiB.
  for (let at = 0; at < dataset.images.length; at += 2 ** 30) hash.update(dataset.images.subarray(at, at + 2 ** 30));
  if (labels) hash.update(new Uint8Array(labels.buffer, labels.byteOffset, labels.byteLength));
  if (captions) hash.update(JSON.stringify(captions));
  return hash.digest("hex");
}

/** What a network takes. */
export interface NetworkInput {
  readonly channels: number;
  readonly height?: number;
  readonly width?: number;
  /** The number of classes of a class-conditional network. */
  readonly classes?: number;
}

/**
 * Checks, before anything starts, that a data set can train a network.
 *
 * @throws UserError for fewer than 2 images, other channels or another size, missing labels or too many classes
 */
export function requireFit(dataset: Dataset, network: NetworkInput): void {
  const { name, count, channels, height, width, labels, classNames } = dataset;
  requireTwo(name, count);
  if (channels !== network.channels) {
    throw new UserError(
      `${name} has images with ${described(channels)}, the network takes ${described(network.channels)}.`,
      { hint: "Change the data's or the network's number of channels.", field: "channels" },
    );
  }
  if ((network.height ?? height) !== height || (network.width ?? width) !== width) {
    throw new UserError(
      `${name} has images of ${width}×${height} pixels, the network takes ${network.width}×${network.height}.`,
      { hint: "Change the data's or the network's size.", field: "size" },
    );
  }
  if (network.classes !== undefined) {
    if (!labels) {
      throw new UserError(`The network is class-conditional and ${name} has no labels.`, {
        hint: 'Put each class in a sub-folder of its own and choose labels "folders".',
        field: "labels",
      });
    }
    const classes = classNames?.length ?? labels.reduce((most, label) => Math.max(most, label + 1), 0);
    if (classes > network.classes) {
      throw new UserError(`${name} has ${classes} classes, the network takes ${network.classes}.`, {
        field: "classes",
      });
    }
  }
}

/** UserError for data too few to train on. */
export function requireTwo(name: string, count: number): void {
  if (count < 2) {
    throw new UserError(`${name} has ${count === 1 ? "1 image" : "no image"}; at least 2 are needed.`, {
      field: "data",
    });
  }
}

function described(channels: number): string {
  return channels === 1 ? "1 channel (gray)" : channels === 3 ? "3 channels (RGB)" : `${channels} channels`;
}

/** A part of a data set, for example a validation split: images `from` to `to - 1` (not copied). */
export function sliceOf(dataset: Dataset, from: number, to: number): Dataset {
  const size = dataset.channels * dataset.height * dataset.width;
  const end = Math.min(to, dataset.count);
  if (!(Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from < end)) {
    throw new UserError(`Images ${from} to ${to} of ${dataset.name} were asked for; it has ${dataset.count}.`);
  }
  return {
    ...dataset,
    images: dataset.images.subarray(from * size, end * size),
    count: end - from,
    ...(dataset.labels ? { labels: dataset.labels.subarray(from, end) } : {}),
    ...(dataset.captions ? { captions: dataset.captions.slice(from, end) } : {}),
  };
}

/** Some images of a data set as one of their own, copied. */
export function subsetOf(dataset: Dataset, indices: Uint32Array): Dataset {
  const { labels, captions } = dataset;
  return {
    ...dataset,
    images: imagesAt(dataset, indices).data,
    count: indices.length,
    ...(labels ? { labels: Int32Array.from(indices, (i) => labels[i]!) } : {}),
    ...(captions ? { captions: Array.from(indices, (i) => captions[i]!) } : {}),
  };
}
