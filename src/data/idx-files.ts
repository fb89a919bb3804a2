import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import { messageOf, UserError } from "../core/errors.ts";
import { describeShape, sizeOf } from "../core/host-tensor.ts";
import { type Dataset, requireTwo } from "./dataset.ts";

/** A gzip file that unpacks to more than this is refused; Fashion-MNIST's largest file has 47 MB. */
const MAX_UNPACKED_BYTES = 4 * 2 ** 30;

/** The content of an IDX file of unsigned bytes. */
export interface IdxArray {
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

/**
 * Parses an IDX file (the format of MNIST: two zero bytes, the type, the number of axes, then each axis as a
 * big-endian 32-bit number). Only unsigned bytes (type 8) are read.
 *
 * @throws UserError when it is something else, truncated or longer than its header says
 */
export function parseIdx(bytes: Uint8Array, source: string): IdxArray {
  const axes = bytes[3] ?? 0;
  if (bytes.length < 4 || bytes[0] !== 0 || bytes[1] !== 0 || axes < 1 || axes > 4) {
    throw new UserError(`${source} is not an IDX file: it does not begin with 0, 0, a type and 1 to 4 axes.`);
  }
  if (bytes[2] !== 8) throw new UserError(`${source} is an IDX file of type ${bytes[2]}; unsigned bytes (8) are read.`);
  const start = 4 + 4 * axes;
  if (bytes.length < start) throw new UserError(`${source} is truncated within its header.`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const shape = Array.from({ length: axes }, (_, i) => view.getUint32(4 + 4 * i));
  const size = sizeOf(shape);
  if (start + size !== bytes.length) {
    const problem = start + size > bytes.length ? "truncated" : "longer than its header says";
    throw new UserError(
      `${source} is ${problem}: shape ${describeShape(shape)} needs ${start + size} bytes, it has ${bytes.length}.`,
      { hint: "Get the file again." },
    );
  }
  return { shape, data: bytes.subarray(start) };
}

/** Reads an IDX file, gzipped or not (told by its content). */
export async function readIdx(path: string): Promise<IdxArray> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    throw new UserError(missing ? `There is no file ${path}.` : `${path} cannot be read: ${messageOf(error)}.`, {
      cause: error,
    });
  }
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) {
    try {
      bytes = await promisify(gunzip)(bytes, { maxOutputLength: MAX_UNPACKED_BYTES });
    } catch (error) {
      throw new UserError(`${path} cannot be unpacked: ${messageOf(error)}.`, {
        hint: "Get the file again.",
        cause: error,
      });
    }
  }
  return parseIdx(bytes, path);
}

export interface IdxOptions {
  readonly name?: string;
  /** Width and height to which images are padded with zeros all around, for example 32 for MNIST's 28. */
  readonly padTo?: number;
  readonly classNames?: readonly string[];
  readonly flip?: boolean;
}

/**
 * A data set from IDX files: images [count, height, width] and, if given, labels [count].
 *
 * @throws UserError when a file cannot be read, counts differ, a label has no class name, there are fewer than 2 images
 */
export async function idxFiles(imagesPath: string, labelsPath?: string, options: IdxOptions = {}): Promise<Dataset> {
  const { name = basename(imagesPath), flip = false } = options;
  const { shape, data } = await readIdx(imagesPath);
  if (shape.length !== 3) {
    throw new UserError(`${imagesPath} has shape ${describeShape(shape)}; images need [count, height, width].`);
  }
  const [count, height, width] = shape as [number, number, number];
  requireTwo(imagesPath, count);
  const labelling = labelsPath === undefined ? {} : await readLabels(labelsPath, count, options.classNames);
  const padded = options.padTo === undefined ? { data, height, width } : pad(data, count, height, width, options.padTo);
  return {
    name,
    images: padded.data,
    count,
    channels: 1,
    height: padded.height,
    width: padded.width,
    ...labelling,
    flip,
    warnings: [],
  };
}

async function readLabels(
  path: string,
  count: number,
  given: readonly string[] | undefined,
): Promise<{ labels: Int32Array; classNames: readonly string[] }> {
  const { shape, data } = await readIdx(path);
  if (shape.length !== 1 || shape[0] !== count) {
    throw new UserError(`${path} has shape ${describeShape(shape)}; labels of ${count} images need [${count}].`);
  }
  const classes = data.reduce((most, label) => Math.max(most, label), 0) + 1;
  const classNames = given ?? Array.from({ length: classes }, (_, i) => String(i));
  if (classes > classNames.length) {
    throw new UserError(`${path} has label ${classes - 1}, but there are only ${classNames.length} class names.`);
  }
  return { labels: Int32Array.from(data), classNames };
}

/** Zeros around each image, the extra row and column of an odd difference at the bottom and right. */
function pad(data: Uint8Array, count: number, height: number, width: number, side: number) {
  if (!Number.isInteger(side) || side < Math.max(height, width)) {
    throw new UserError(
      `padTo is ${side}; for images of ${width}×${height} a whole number >= ${Math.max(height, width)} is needed.`,
      {
        field: "padTo",
      },
    );
  }
  const top = Math.floor((side - height) / 2);
  const left = Math.floor((side - width) / 2);
  const padded = new Uint8Array(count * side * side);
  for (let n = 0; n < count; n++) {
    for (let y = 0; y < height; y++) {
      const from = (n * height + y) * width;
      padded.set(data.subarray(from, from + width), (n * side + top + y) * side + left);
    }
  }
  return { data: padded, height: side, width: side };
}
