import { create, toBinary } from "@bufbuild/protobuf";
import {
  AttributeProtoSchema,
  AttributeProto_AttributeType as AttributeType,
  TensorProto_DataType as DataType,
  GraphProtoSchema,
  ModelProtoSchema,
  type NodeProto,
  OperatorSetIdProtoSchema,
  type TensorProto,
  TensorShapeProto_DimensionSchema,
  TensorShapeProtoSchema,
  TypeProto_TensorSchema,
  TypeProtoSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from "onnx-buf";
import type { DType, HostTensor } from "../core/host-tensor.ts";
import type { Float } from "./onnx.ts";
import type { TensorType } from "./tensor.ts";

/** The pieces of an ONNX file. */

/** Versions of the operator sets that the graphs are written in. */
const OPSETS = { "": 20, "com.microsoft": 1, "com.microsoft.nchwc": 1 } as const;
const IR_VERSION = 10n;

/** A set of operators. */
export type Domain = keyof typeof OPSETS;

/** The numbers by which ONNX knows dtypes, as `Cast` takes them. */
export const ONNX_TYPES: Record<DType, DataType> = {
  float32: DataType.FLOAT,
  float64: DataType.DOUBLE,
  float16: DataType.FLOAT16,
  bfloat16: DataType.BFLOAT16,
  float8_e4m3fn: DataType.FLOAT8E4M3FN,
  float8_e5m2: DataType.FLOAT8E5M2,
  int64: DataType.INT64,
  int32: DataType.INT32,
  int16: DataType.INT16,
  int8: DataType.INT8,
  uint8: DataType.UINT8,
  uint16: DataType.UINT16,
  uint32: DataType.UINT32,
  bool: DataType.BOOL,
};

/** A model of nodes, in an order in which they can be run. */
export function modelBytes(graph: {
  readonly nodes: readonly NodeProto[];
  readonly initializers: readonly TensorProto[];
  readonly inputs: Iterable<readonly [string, TensorType]>;
  readonly outputs: Iterable<readonly [string, TensorType]>;
}): Uint8Array {
  const model = create(ModelProtoSchema, {
    irVersion: IR_VERSION,
    producerName: "allegory",
    graph: create(GraphProtoSchema, {
      name: "allegory",
      node: [...graph.nodes],
      initializer: [...graph.initializers],
      input: [...graph.inputs].map(([name, type]) => valueInfo(name, type)),
      output: [...graph.outputs].map(([name, type]) => valueInfo(name, type)),
    }),
    opsetImport: Object.entries(OPSETS)
      .filter(([domain]) => domain === "" || graph.nodes.some((node) => node.domain === domain))
      .map(([domain, version]) => create(OperatorSetIdProtoSchema, { domain, version: BigInt(version) })),
  });
  return toBinary(ModelProtoSchema, model);
}

/** FNV-1a over at most the first 4 KiB; equal hashes are compared byte by byte. */
export function hash(bytes: Uint8Array): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < Math.min(bytes.length, 4096); i++) value = Math.imul(value ^ bytes[i]!, 0x01000193);
  return value >>> 0;
}

/** The bytes of an array, not copied. */
export function bytesOf({ buffer, byteOffset, byteLength }: HostTensor["data"]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
}

function valueInfo(name: string, type: TensorType): ValueInfoProto {
  const dim = type.shape.map((axis) =>
    create(TensorShapeProto_DimensionSchema, { value: { case: "dimValue", value: BigInt(axis) } }),
  );
  const tensor = create(TypeProto_TensorSchema, {
    elemType: ONNX_TYPES[type.dtype],
    shape: create(TensorShapeProtoSchema, { dim }),
  });
  return create(ValueInfoProtoSchema, {
    name,
    type: create(TypeProtoSchema, { value: { case: "tensorType", value: tensor } }),
  });
}

/** An attribute of a node. */
export function attribute(name: string, value: number | Float | string | readonly number[]) {
  if (typeof value === "number")
    return create(AttributeProtoSchema, { name, type: AttributeType.INT, i: BigInt(value) });
  if (typeof value === "string")
    return create(AttributeProtoSchema, { name, type: AttributeType.STRING, s: new TextEncoder().encode(value) });
  if ("float" in value) return create(AttributeProtoSchema, { name, type: AttributeType.FLOAT, f: value.float });
  return create(AttributeProtoSchema, { name, type: AttributeType.INTS, ints: value.map(BigInt) });
}
