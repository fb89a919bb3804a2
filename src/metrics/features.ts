import { UserError } from "../core/errors.ts";
import { describeShape, type HostTensor } from "../core/host-tensor.ts";

/** Feature vectors, one a row: [samples, features]. All arithmetic on them is in float64. */
export type Features = HostTensor<"float32"> | HostTensor<"float64">;

/** A checked feature matrix, in float64. */
export interface FeatureRows {
  readonly count: number;
  readonly width: number;
  readonly data: Float64Array;
}

/**
 * The rows of feature matrices that are to be compared.
 *
 * @param least how many rows a measure needs
 * @throws UserError for another rank, too few rows, different widths or numbers that are not finite
 */
export function comparableRows<const F extends readonly Features[]>(
  matrices: F,
  least: number,
): { readonly [K in keyof F]: FeatureRows } {
  const rows = matrices.map(({ shape, data }) => {
    const [count = 0, width = 0] = shape;
    if (shape.length !== 2 || width < 1) {
      throw new UserError(`Features of shape ${describeShape(shape)} were given; [samples, features] is needed.`);
    }
    if (count < least) {
      throw new UserError(`${count} samples were given; at least ${least} are needed.`, { field: "count" });
    }
    const bad = data.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) throw new UserError(`Feature ${bad % width} of sample ${Math.floor(bad / width)} is ${data[bad]}.`);
    return { count, width, data: data instanceof Float64Array ? data : Float64Array.from(data) };
  });
  const widths = new Set(rows.map(({ width }) => width));
  if (widths.size > 1) {
    throw new UserError(`Features of different widths were given: ${[...widths].join(" and ")}.`, {
      hint: "Only features of one and the same network can be compared.",
    });
  }
  return rows as unknown as { readonly [K in keyof F]: FeatureRows };
}
