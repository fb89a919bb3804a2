import { bytesPerElement, type DType, sizeOf } from "../core/host-tensor.ts";
import { graphCost, type Tensor } from "../graph/index.ts";
import { namedParameters } from "../nn/module.ts";
import type { Weighted } from "./weights.ts";

/** What running a network takes, in bytes. An estimate: measured runs of U-Nets lie within a third of it. */
export interface InferenceMemory {
  /** The weights as they lie in their file. */
  readonly stored: number;
  /** The weights as ONNX Runtime holds them, with what it keeps beside them. */
  readonly weights: number;
  /** Intermediate results at the worst moment, with what the memory arena adds by the sizes it rounds to. */
  readonly activations: number;
  /** Both and the process itself. */
  readonly total: number;
}

/** A process of Node with ONNX Runtime and nothing loaded. */
const PROCESS_BYTES = 140e6;
/** Convolutions' weights are held in another order, and beside them what is computed ahead. */
const WEIGHTS_FACTOR = 1.2;
/** Half-precision weights become float32 ones while the session loads, which then needs both. */
const HALF_FACTOR = 1.65;
/** Softmax keeps its input, and the arena grows by doubling. */
const ACTIVATIONS_FACTOR = 3;

/**
 * Estimates the memory that a network's inference takes on the CPU provider, before anything is loaded.
 *
 * @param network whose weights count
 * @param outputs the results, built for the shapes in question (so batch, size and `withScoreLimit` count)
 * @param options.dtype how the weights are stored
 */
export function estimateMemory(
  network: Weighted,
  outputs: Iterable<Tensor>,
  { dtype = "float32" }: { readonly dtype?: Extract<DType, "float32" | "float16" | "bfloat16"> } = {},
): InferenceMemory {
  let numbers = 0;
  for (const { shape } of namedParameters(network).values()) numbers += sizeOf(shape);
  const stored = numbers * bytesPerElement(dtype);
  const weights =
    dtype === "float32" ? Math.round(WEIGHTS_FACTOR * stored) : Math.round(stored + HALF_FACTOR * 4 * numbers);
  const activations = Math.round(ACTIVATIONS_FACTOR * graphCost(outputs).peakBytes);
  return { stored, weights, activations, total: PROCESS_BYTES + weights + activations };
}
