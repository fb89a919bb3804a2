import { arrayFor, type DType, type HostTensor, hostTensor } from "./host-tensor.ts";

/** A batch cut into equal parts along its first axis; they share its memory. */
export function cutBatch<D extends DType>({ dtype, shape, data }: HostTensor<D>, parts: number): HostTensor<D>[] {
  const length = data.length / parts;
  const part = [shape[0]! / parts, ...shape.slice(1)];
  return Array.from({ length: parts }, (_, i) =>
    hostTensor(dtype, part, data.subarray(i * length, (i + 1) * length) as HostTensor<D>["data"]),
  );
}

/** Parts of one shape put together again. */
export function joinBatch<D extends DType>(parts: readonly HostTensor<D>[]): HostTensor<D> {
  const [{ dtype, shape, data }] = parts as readonly [HostTensor<D>, ...HostTensor<D>[]];
  const all = arrayFor(dtype, parts.length * data.length);
  parts.forEach((part, i) => {
    (all as Float32Array).set(part.data as Float32Array, i * data.length);
  });
  return hostTensor(dtype, [parts.length * shape[0]!, ...shape.slice(1)], all);
}

/** No part of a batch is smaller: below this a share costs more than it saves. */
const LEAST = 4;

/**
 * Into how many equal parts a batch is best cut for sessions of one thread each: one for each thread, since many of ONNX
 * Runtime's CPU operators use only one; fewer where the batch cannot be cut so or is small.
 */
export function batchParts(batch: number, threads: number): number {
  for (let parts = Math.min(threads, Math.floor(batch / LEAST)); parts > 1; parts--) {
    if (batch % parts === 0) return parts;
  }
  return 1;
}
