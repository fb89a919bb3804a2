import { type ConvOptions, concat, slice, type Tensor } from "../graph/index.ts";

/** Along which axes an image goes on at its other side. */
export interface CircularAxes {
  /** Left and right edges meet. */
  readonly x: boolean;
  /** Top and bottom edges meet. */
  readonly y: boolean;
}

let current: CircularAxes = { x: false, y: false };

/**
 * Runs `build` so that the convolutions in the graph it builds see, beyond an edge, the pixels of the opposite one instead
 * of zeros. A network of convolutions, attention without positions and pointwise layers then gives a rolled image for a
 * rolled image, and so images that tile.
 */
export function withCircularPadding<T>(axes: CircularAxes, build: () => T): T {
  const outer = current;
  current = axes;
  try {
    return build();
  } finally {
    current = outer;
  }
}

type Sides = readonly [top: number, left: number, bottom: number, right: number];

/** x with what a convolution is to see beyond its edges, and the zeros that are still to be added around it. */
export function circularlyPadded(
  x: Tensor,
  { padding = 0 }: Pick<ConvOptions, "padding">,
): { readonly x: Tensor; readonly padding: ConvOptions["padding"] } {
  if (!current.x && !current.y) return { x, padding };
  const [top, left, bottom, right]: Sides =
    typeof padding === "number" ? [padding, padding, padding, padding] : padding;
  const rows = current.y ? wrapped(x, 2, top, bottom) : x;
  return {
    x: current.x ? wrapped(rows, 3, left, right) : rows,
    padding: [current.y ? 0 : top, current.x ? 0 : left, current.y ? 0 : bottom, current.x ? 0 : right],
  };
}

/** The end of x before its beginning, and its beginning after its end. */
function wrapped(x: Tensor, axis: number, before: number, after: number): Tensor {
  const size = x.shape[axis]!;
  return concat(
    [...(before > 0 ? [slice(x, axis, size - before, size)] : []), x, ...(after > 0 ? [slice(x, axis, 0, after)] : [])],
    axis,
  );
}
