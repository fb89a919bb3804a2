import { bytesPerElement, type DType, sizeOf } from "../core/host-tensor.ts";
import { graphCost, type Tensor, topological } from "../graph/index.ts";
import { namedParameters, parameterCount } from "../nn/module.ts";
import { bytesPerRounded, linearWeights } from "./quantize.ts";
import type { Weighted } from "./weights.ts";

/** What running a network takes, in bytes. */
export interface InferenceMemory {
  /** The weights that are used, as they lie in their file. */
  readonly stored: number;
  /** The weights as ONNX Runtime holds them, with what it keeps beside them. */
  readonly weights: number;
  /** Intermediate results at the worst moment, with what the memory arena adds by the sizes it rounds to. */
  readonly activations: number;
  /** Both and the process itself. */
  readonly total: number;
}

/** Networks of more bytes in float32 are loaded and run with an eye on memory; smaller ones are a little faster without. */
const LARGE_BYTES = 256e6;

/** Whether a network's weights take so much that loading must not need them twice. */
export function isLarge(network: Weighted): boolean {
  return 4 * parameterCount(network) > LARGE_BYTES;
}

// Measured, see estimateMemory.

/** A process of Node with Allegory, ONNX Runtime and its second thread, and nothing loaded. */
const PROCESS_BYTES = 157e6;
/** Of large networks: what is computed ahead, and what loading leaves. */
const LARGE_WEIGHTS = 1.07;
/** Of others: ONNX Runtime packs matrices, and holds convolutions' weights in another order. */
const SMALL_WEIGHTS = 1.2;
/** What the arena holds beside the results that are needed, as a multiple of these, and at most in bytes. */
const ARENA = 3.5;
const ARENA_BYTES = 200e6;
/** Where memory is planned ahead, the plan's block is held beside what the first run took. */
const PLANNED = 2;

/**
 * Estimates the memory that a network's inference takes on the CPU provider as pipelines run it, before anything is loaded.
 *
 * Measured were U-Nets of 35, 137 and 860 million parameters, from float32 and float16 and in 8 and 4 bits, on latents
 * of 8×8 to 64×64, and Stable Diffusion 1.5's decoder: estimates were between 11 % too low and 11 % too high. Other
 * networks were not measured.
 *
 * @param network whose weights count, where `outputs` use them
 * @param outputs the results, built for the shapes in question by `forInference`
 * @param options.dtype how the weights are stored
 * @param options.quantize bits to which the weights of linear layers are rounded; default: not at all
 */
export function estimateMemory(
  network: Weighted,
  outputs: Iterable<Tensor>,
  {
    dtype = "float32",
    quantize,
  }: {
    readonly dtype?: Extract<DType, "float32" | "float16" | "bfloat16" | "float8_e4m3fn" | "float8_e5m2">;
    readonly quantize?: 4 | 8;
  } = {},
): InferenceMemory {
  const wanted = [...outputs];
  const used = new Set(topological(wanted).flatMap(({ inputs }) => inputs));
  const rounded = new Set(quantize ? linearWeights(network, wanted) : []);
  let stored = 0;
  let held = 0;
  for (const [name, { tensor, shape }] of namedParameters(network)) {
    if (!used.has(tensor)) continue;
    stored += sizeOf(shape) * bytesPerElement(dtype);
    held += sizeOf(shape) * (quantize && rounded.has(name) ? bytesPerRounded({ bits: quantize }) : 4);
  }
  const large = isLarge(network);
  // Converted while they are loaded, the weights of small networks are there in both forms.
  const converted = dtype === "float32" && !quantize ? 0 : stored;
  const weights = Math.round(large ? LARGE_WEIGHTS * held : SMALL_WEIGHTS * held + converted);
  const { peakBytes } = graphCost(wanted);
  const activations = Math.round((large ? 1 : PLANNED) * (peakBytes + Math.min(ARENA * peakBytes, ARENA_BYTES)));
  return { stored, weights, activations, total: PROCESS_BYTES + weights + activations };
}
