import { create, toBinary } from "@bufbuild/protobuf";
import { ModelProtoSchema, TensorProto_DataType } from "onnx-buf";

/**
 * Making onnxruntime-node leave outputs where they are.
 *
 * Given a preallocated tensor for an output, onnxruntime-node 1.30 does write the result there, but then copies every
 * output once more into fresh JavaScript memory for its return value: for 44 MB of state 23 ms of 29 ms, and garbage of the
 * same size. Nothing switches that off. But the copying starts only after the run, output by output,
 * and stops at an output that is not a tensor, with `NOT_A_TENSOR`. So a model whose *first* output is an empty
 * sequence, all others preallocated, runs to its end, copies nothing, and reports an error that says so.
 *
 * Should a later version return normally, the preallocated outputs are filled just the same, and the result is unused.
 */

/** The name of the first output; the session drops it from its own list of outputs. */
export const MARKER = "allegory.in-place";

const NOT_A_TENSOR = "Non tensor type is temporarily not supported";

/** `model` with the marker as its first output. Concatenated protobuf messages merge, repeated fields in order. */
export function markInPlace(model: Uint8Array): Uint8Array {
  const marker = toBinary(
    ModelProtoSchema,
    create(ModelProtoSchema, {
      graph: {
        node: [{ opType: "SequenceEmpty", name: MARKER, output: [MARKER] }],
        output: [
          {
            name: MARKER,
            type: {
              value: {
                case: "sequenceType",
                value: { elemType: { value: { case: "tensorType", value: { elemType: TensorProto_DataType.FLOAT } } } },
              },
            },
          },
        ],
      },
    }),
  );
  const marked = new Uint8Array(marker.length + model.length);
  marked.set(marker);
  marked.set(model, marker.length);
  return marked;
}

/** Whether an error of a marked model's run means that the run ended well. */
export function endedInPlace(error: unknown): boolean {
  return error instanceof Error && error.message.includes(NOT_A_TENSOR);
}
