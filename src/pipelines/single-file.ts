import { basename, dirname } from "node:path";
import { type HostTensor, sizeOf } from "../core/host-tensor.ts";
import { type LazyTensor, type ModelWeights, openWeightFile, readTensor } from "../io/index.ts";
import {
  type OriginalCheckpoint,
  type OriginalComponent,
  type OriginalOptions,
  originalCheckpoint,
  type StoredWeight,
} from "../models/index.ts";

/** CLIP's other text encoder, OpenCLIP, is padded with this token, which has id 0. */
export const OPEN_CLIP_PADDING = "!";

/** A single-file checkpoint, its weights not read yet. */
export interface SingleFile extends OriginalCheckpoint {
  /** The folder in which sessions find the weights: the option `externalData`. */
  readonly externalData: string;
  /** The weights of a component to be read one at a time, for writing them. */
  tensors(component: OriginalComponent): Map<string, LazyTensor>;
}

/**
 * Opens a single-file checkpoint of Stable Diffusion 1.x, 2.x or XL. Weights stay in the file, where ONNX Runtime reads
 * them, also those that are parts of larger matrices.
 *
 * @throws UserError for other files, with the names that do not fit
 */
export async function openSingleFile(path: string, options: Omit<OriginalOptions, "what"> = {}): Promise<SingleFile> {
  const file = await openWeightFile(path);
  const { weights, externalData } = externalWeights(file);
  const checkpoint = originalCheckpoint(weights, { ...options, what: path });
  const real = file.files[0]!;
  return {
    ...checkpoint,
    externalData,
    tensors: (component) => new Map([...component.weights].map(([name, stored]) => [name, lazy(real, stored)])),
  };
}

/** The weights of one file as they are bound, and the folder they lie in. */
export function externalWeights(file: ModelWeights): { weights: Map<string, StoredWeight>; externalData: string } {
  const weights = new Map<string, StoredWeight>();
  for (const [name, { dtype, shape, offset, length, path }] of file.tensors) {
    weights.set(name, { dtype, shape, file: basename(path), offset, length });
  }
  return { weights, externalData: dirname(file.files[0]!) };
}

function lazy(path: string, stored: StoredWeight): LazyTensor {
  if (!("file" in stored)) return { ...stored, read: async () => stored };
  const { dtype, shape, offset, length } = stored;
  const laidOut = stored.transposed ? [shape[1]!, shape[0]!] : shape;
  return {
    dtype,
    shape,
    read: async () => {
      const tensor = await readTensor(path, { dtype, shape: laidOut, offset, length });
      return stored.transposed ? transposed(tensor) : tensor;
    },
  };
}

/** A matrix with rows and columns swapped. */
function transposed(tensor: HostTensor): HostTensor {
  const [rows, columns] = tensor.shape as [number, number];
  const data = tensor.data.slice() as Float32Array;
  const source = tensor.data as Float32Array;
  for (let i = 0; i < sizeOf(tensor.shape); i++) data[(i % columns) * rows + Math.floor(i / columns)] = source[i]!;
  return { dtype: tensor.dtype, shape: [columns, rows], data } as HostTensor;
}
