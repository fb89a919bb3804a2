import { invariant, UserError } from "../core/errors.ts";
import { float32, type HostTensor, hostTensor } from "../core/host-tensor.ts";
import { type PackedMatrix, type Tensor, topological } from "../graph/index.ts";
import { namedParameters } from "../nn/module.ts";
import type { Bind, Weighted } from "./weights.ts";

/** Weights of a row that share a scale, unless another number is asked for. */
const BLOCK_SIZE = 32;

/** How weights are stored in few bits. */
export interface QuantizeOptions {
  readonly bits?: 4 | 8;
  /** How many weights of a row share a scale; a power of two from 16 on. */
  readonly blockSize?: number;
}

/**
 * Names of the weights of linear layers in the graph of `outputs`: those that only multiply from the right, so that they
 * can be packed. Convolutions, norms and tables are none.
 */
export function linearWeights(network: Weighted, outputs: Iterable<Tensor>): string[] {
  const multiplied = new Set<Tensor>();
  const otherwise = new Set<Tensor>();
  for (const { operator, inputs, attributes } of topological(outputs)) {
    inputs.forEach((tensor, i) => {
      const { transA, transB, alpha } = attributes as { transA?: boolean; transB?: boolean; alpha?: number };
      const packs = operator.name === "matmul" && i === 1 && transB && !transA && alpha === 1;
      (packs ? multiplied : otherwise).add(tensor);
    });
  }
  return [...namedParameters(network)]
    .filter(([, { tensor, shape }]) => shape.length === 2 && multiplied.has(tensor) && !otherwise.has(tensor))
    .map(([name]) => name);
}

/**
 * Rounds a matrix [n, k] to `bits` bits with a scale for each block of a row: the number of largest magnitude is met
 * exactly, as in llama.cpp's Q4_0, so that the whole range of codes is used.
 *
 * @throws UserError for a block size that ONNX Runtime does not take
 */
export function quantizeMatrix(
  matrix: HostTensor<"float32">,
  { bits = 4, blockSize = BLOCK_SIZE }: QuantizeOptions = {},
): PackedMatrix {
  checkBlockSize(blockSize);
  const [n, k] = matrix.shape as [number, number];
  const blocks = Math.ceil(k / blockSize);
  const perByte = 8 / bits;
  const codes = new Uint8Array((n * blocks * blockSize) / perByte);
  const scales = new Float32Array(n * blocks);
  const middle = 2 ** (bits - 1);
  for (let row = 0; row < n; row++) {
    for (let block = 0; block < blocks; block++) {
      const from = row * k + block * blockSize;
      const length = Math.min(blockSize, k - block * blockSize);
      let extreme = 0;
      for (let i = 0; i < length; i++) {
        const value = matrix.data[from + i]!;
        if (Math.abs(value) > Math.abs(extreme)) extreme = value;
      }
      const index = row * blocks + block;
      // The lowest code stands for −middle, one further from the middle than the highest.
      scales[index] = -extreme / middle;
      const inverse = extreme === 0 ? 0 : 1 / scales[index]!;
      for (let i = 0; i < blockSize; i++) {
        const value = i < length ? matrix.data[from + i]! * inverse : 0;
        const code = Math.max(0, Math.min(2 * middle - 1, Math.round(value) + middle));
        const at = index * blockSize + i;
        if (bits === 8) codes[at] = code;
        else codes[at >> 1]! |= at % 2 === 0 ? code : code << 4;
      }
    }
  }
  return {
    bits,
    blockSize,
    codes: hostTensor("uint8", [n, blocks, blockSize / perByte], codes),
    scales: float32([n, blocks], scales),
  };
}

function checkBlockSize(blockSize: number): void {
  if (blockSize >= 16 && Number.isInteger(Math.log2(blockSize))) return;
  throw new UserError(`The block size ${blockSize} is no power of two from 16 on.`, { field: "blockSize" });
}

/** Bindings with some weights packed; ONNX Runtime's CPU provider then multiplies by them without unpacking them first. */
export function bindPacked(network: Weighted, bind: Bind, packed: ReadonlyMap<string, PackedMatrix>): Bind {
  const parameters = namedParameters(network);
  const byLeaf = new Map<Tensor, { readonly name: string; readonly matrix: PackedMatrix }>();
  for (const [name, matrix] of packed) {
    const parameter = parameters.get(name);
    invariant(parameter, `the network has no weight ${name}`);
    byLeaf.set(parameter.tensor, { name, matrix });
  }
  return (leaf) => {
    const found = byLeaf.get(leaf);
    return found ? { kind: "packed", name: found.name, ...found.matrix } : bind(leaf);
  };
}

/**
 * Bindings with some weights rounded as {@link quantizeMatrix} does, by the graph itself when it is loaded: the weights stay in
 * their file, and what changes them (an adapter) is rounded with them.
 */
export function bindRounded(
  network: Weighted,
  bind: Bind,
  names: readonly string[],
  { bits = 4, blockSize = BLOCK_SIZE }: QuantizeOptions = {},
): Bind {
  checkBlockSize(blockSize);
  const parameters = namedParameters(network);
  const rounded = new Set(names.map((name) => parameters.get(name)!.tensor));
  return (leaf) => {
    const of = bind(leaf);
    return of && rounded.has(leaf) ? { kind: "rounded", bits, blockSize, of } : of;
  };
}

/** Bytes that a weight takes in few bits, with its share of the block's scale. */
export function bytesPerRounded({ bits = 4, blockSize = BLOCK_SIZE }: QuantizeOptions = {}): number {
  return bits / 8 + 4 / blockSize;
}

/** Bytes of a packed matrix. */
export function packedBytes({ codes, scales }: PackedMatrix): number {
  return codes.data.byteLength + scales.data.byteLength;
}
