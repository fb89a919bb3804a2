import { type InferenceSession, Tensor } from "onnxruntime-node";
import { type DType, type HostTensor, hostTensor } from "../core/host-tensor.ts";
import type { TensorInfo } from "./session.ts";

/** The dtypes that onnxruntime-node carries in and out; bfloat16 is not among them. */
const DTYPES: readonly string[] = [
  "float32",
  "float64",
  "float16",
  "int64",
  "int32",
  "int16",
  "int8",
  "uint8",
  "uint16",
  "uint32",
  "bool",
] satisfies DType[];

/** The name, dtype and shape that ONNX Runtime tells of an input or output. */
export function infoOf(model: string, meta: InferenceSession.ValueMetadata): TensorInfo {
  if (!meta.isTensor) throw new Error(`${model}: '${meta.name}' is not a tensor`);
  if (!DTYPES.includes(meta.type)) throw new Error(`${model}: '${meta.name}' has the unsupported type ${meta.type}`);
  return { name: meta.name, dtype: meta.type as DType, shape: meta.shape };
}

/** The tensor as ONNX Runtime takes it; the data are not copied. */
export function toOrt({ dtype, data, shape }: HostTensor): Tensor {
  return new Tensor(dtype as "float32", data as Float32Array, shape);
}

/** A result of ONNX Runtime; the data are not copied. */
export function fromOrt(tensor: Tensor): HostTensor {
  const data = tensor.data as Float32Array;
  // Newer versions of Node have a Float16Array, in which ONNX Runtime returns float16; ours are raw bits.
  const bits = tensor.type === "float16" ? new Uint16Array(data.buffer, data.byteOffset, data.length) : data;
  return hostTensor(tensor.type as DType, [...tensor.dims], bits as never);
}
