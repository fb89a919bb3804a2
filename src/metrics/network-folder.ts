import { UserError } from "../core/errors.ts";
import { float32, type HostTensor } from "../core/host-tensor.ts";
import { type JsonObject, readModelFolder } from "../io/index.ts";
import type { Session } from "../runtime/index.ts";

/**
 * The configuration and all weights of a judging network's folder.
 *
 * @throws UserError when the folder holds a network of another class
 */
export async function readNetworkFolder(
  folder: string,
  wanted: string,
): Promise<{ readonly config: JsonObject; readonly stored: ReadonlyMap<string, HostTensor> }> {
  const { className, config, weights } = await readModelFolder(folder);
  if (className !== wanted) {
    throw new UserError(`${folder} is a model of class ${className ?? "unknown"}; ${wanted} is needed.`);
  }
  const names = [...weights.tensors.keys()];
  const stored = new Map(await Promise.all(names.map(async (name) => [name, await weights.read(name)] as const)));
  return { config, stored };
}

/**
 * Runs a session of a fixed batch over any number of rows, the last batch filled up with zeros.
 *
 * @param rows [n, …], fed as `name`
 * @param widths the outputs that are wanted, each [batch, width]
 * @returns each of them for all rows: [n, width]
 */
export async function runInBatches<Output extends string>(
  session: Pick<Session, "run">,
  name: string,
  rows: HostTensor<"float32"> | HostTensor<"int64">,
  batch: number,
  widths: Readonly<Record<Output, number>>,
): Promise<Record<Output, HostTensor<"float32">>> {
  const [n = 0, ...rest] = rows.shape;
  const size = rest.reduce((product, axis) => product * axis, 1);
  const outputs = Object.entries(widths) as [Output, number][];
  const results = Object.fromEntries(
    outputs.map(([output, width]) => [output, float32([n, width], new Float32Array(n * width))]),
  ) as Record<Output, HostTensor<"float32">>;
  for (let first = 0; first < n; first += batch) {
    const here = Math.min(batch, n - first);
    const fed = {
      ...rows,
      shape: [batch, ...rest],
      data: filledUp(rows.data, first * size, here * size, batch * size),
    };
    const found = await session.run({ [name]: fed as HostTensor });
    for (const [output, width] of outputs) {
      results[output].data.set(found[output]!.data.subarray(0, here * width) as Float32Array, first * width);
    }
  }
  return results;
}

/** `count` elements from `from` on, and zeros up to `size`. */
function filledUp(data: Float32Array | BigInt64Array, from: number, count: number, size: number) {
  if (data instanceof Float32Array) {
    const part = new Float32Array(size);
    part.set(data.subarray(from, from + count));
    return part;
  }
  const part = new BigInt64Array(size);
  part.set(data.subarray(from, from + count));
  return part;
}
