import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { ModelProtoSchema, type NodeProtoSchema, TensorProto_DataType, type ValueInfoProtoSchema } from "onnx-buf";
import type { TensorInfo } from "./session.ts";

/**
 * An ONNX model written out node by node: for trying whether a device starts, and for tests of the runtime. Models of
 * networks are written by `graph/onnx.ts`.
 */
export function smallModel(model: {
  readonly nodes: readonly MessageInitShape<typeof NodeProtoSchema>[];
  readonly inputs: readonly TensorInfo[];
  readonly outputs: readonly TensorInfo[];
}): Uint8Array<ArrayBuffer> {
  return toBinary(
    ModelProtoSchema,
    create(ModelProtoSchema, {
      irVersion: 10n,
      opsetImport: [
        { domain: "", version: 21n },
        { domain: "com.microsoft", version: 1n },
      ],
      graph: {
        name: "small",
        node: [...model.nodes],
        input: model.inputs.map(valueInfo),
        output: model.outputs.map(valueInfo),
      },
    }),
  );
}

/** Whether this model of one node runs tells whether a device starts. */
export function probeModel(): Uint8Array<ArrayBuffer> {
  return smallModel({
    nodes: [{ opType: "Abs", input: ["x"], output: ["y"] }],
    inputs: [{ name: "x", dtype: "float32", shape: [1] }],
    outputs: [{ name: "y", dtype: "float32", shape: [1] }],
  });
}

const ELEMENT_TYPES = {
  float32: TensorProto_DataType.FLOAT,
  float64: TensorProto_DataType.DOUBLE,
  float16: TensorProto_DataType.FLOAT16,
  bfloat16: TensorProto_DataType.BFLOAT16,
  float8_e4m3fn: TensorProto_DataType.FLOAT8E4M3FN,
  float8_e5m2: TensorProto_DataType.FLOAT8E5M2,
  int64: TensorProto_DataType.INT64,
  int32: TensorProto_DataType.INT32,
  int16: TensorProto_DataType.INT16,
  int8: TensorProto_DataType.INT8,
  uint8: TensorProto_DataType.UINT8,
  uint16: TensorProto_DataType.UINT16,
  uint32: TensorProto_DataType.UINT32,
  bool: TensorProto_DataType.BOOL,
} as const;

function valueInfo({ name, dtype, shape }: TensorInfo): MessageInitShape<typeof ValueInfoProtoSchema> {
  const dim = shape.map((axis) =>
    typeof axis === "number"
      ? { value: { case: "dimValue" as const, value: BigInt(axis) } }
      : { value: { case: "dimParam" as const, value: axis } },
  );
  return {
    name,
    type: { value: { case: "tensorType", value: { elemType: ELEMENT_TYPES[dtype], shape: { dim } } } },
  };
}
