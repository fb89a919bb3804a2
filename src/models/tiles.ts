import { invariant, UserError } from "../core/errors.ts";
import { describeShape, float32, type HostTensor } from "../core/host-tensor.ts";

/** How an image is cut into tiles. Sizes in pixels of the input. */
export interface TileOptions {
  /** Height and width of a tile. */
  readonly tile: number;
  /** How far neighbours overlap at least. */
  readonly overlap: number;
  /** Tiles start at multiples of this: the encoder's reduction, so that a tile's latents fall onto the grid of all. */
  readonly multiple?: number;
}

/**
 * Runs a network on overlapping tiles of an image instead of all of it, and blends the results: an autoencoder's memory then
 * no longer grows with the picture. All tiles have one shape, so one session serves them all.
 *
 * @param x [n, c, h, w]
 * @param run the network, for a tile [n, c, tile, tile] (less where x is smaller); any scale, the same for height and width
 * @returns [n, channels of the results, h·scale, w·scale]
 * @throws UserError where the tiles cannot cover the image
 */
export async function inTiles(
  x: HostTensor<"float32">,
  run: (tile: HostTensor<"float32">) => Promise<HostTensor<"float32">>,
  { tile, overlap, multiple = 1 }: TileOptions,
): Promise<HostTensor<"float32">> {
  if (!(overlap >= 0 && overlap < tile) || tile % multiple !== 0) {
    throw new UserError(
      `Tiles of ${tile} pixels that overlap by ${overlap} are not possible: the overlap must be less than the tile, and the tile a multiple of ${multiple}.`,
    );
  }
  const [n, , height, width] = x.shape as [number, number, number, number];
  const rows = starts(height, tile, overlap, multiple);
  const columns = starts(width, tile, overlap, multiple);
  const size = [Math.min(tile, height), Math.min(tile, width)] as const;
  if (rows.length === 1 && columns.length === 1) return run(x);

  let sum: Float32Array | undefined;
  let weights: Float64Array | undefined;
  let shape: [number, number, number, number] | undefined;
  for (const top of rows) {
    for (const left of columns) {
      const result = await run(cut(x, top, left, size));
      const scale = result.shape[2]! / size[0];
      invariant(result.shape[3]! / size[1] === scale, `a tile became ${describeShape(result.shape)}`);
      shape ??= [n, result.shape[1]!, Math.round(height * scale), Math.round(width * scale)];
      sum ??= new Float32Array(shape[0] * shape[1] * shape[2] * shape[3]);
      weights ??= new Float64Array(shape[2] * shape[3]);
      const down = ramp(result.shape[2]!, overlap * scale, top > 0, top < rows.at(-1)!);
      const along = ramp(result.shape[3]!, overlap * scale, left > 0, left < columns.at(-1)!);
      blend(result, down, along, { sum, weights, shape, top: top * scale, left: left * scale });
    }
  }
  const pixels = weights!.length;
  return float32(
    shape!,
    sum!.map((value, i) => value / weights![i % pixels]!),
  );
}

/** Where tiles start along one axis: evenly, the last one ending with the image. */
function starts(size: number, tile: number, overlap: number, multiple: number): number[] {
  if (size <= tile) return [0];
  if ((size - tile) % multiple !== 0) {
    throw new UserError(`An image side of ${size} pixels is not a multiple of ${multiple}, as tiles need.`, {
      field: "size",
    });
  }
  // In steps of `multiple`, so that rounding never makes a gap.
  const room = (size - tile) / multiple;
  const count = Math.ceil(room / Math.max(1, Math.floor((tile - overlap) / multiple))) + 1;
  return Array.from({ length: count }, (_, i) => Math.floor((i * room) / (count - 1)) * multiple);
}

/** Weights along one axis of a tile: rising over the overlap where there is a neighbour before, falling where one follows. */
function ramp(length: number, overlap: number, before: boolean, after: boolean): Float64Array {
  const width = Math.max(1, overlap);
  return Float64Array.from({ length }, (_, i) => {
    const rising = before ? Math.min(1, (i + 0.5) / width) : 1;
    return after ? Math.min(rising, (length - i - 0.5) / width) : rising;
  });
}

function cut(
  { shape, data }: HostTensor<"float32">,
  top: number,
  left: number,
  [height, width]: readonly [number, number],
): HostTensor<"float32"> {
  const [n, c, h, w] = shape as [number, number, number, number];
  const tile = new Float32Array(n * c * height * width);
  for (let plane = 0; plane < n * c; plane++) {
    for (let row = 0; row < height; row++) {
      const from = (plane * h + top + row) * w + left;
      tile.set(data.subarray(from, from + width), (plane * height + row) * width);
    }
  }
  return float32([n, c, height, width], tile);
}

interface Canvas {
  readonly sum: Float32Array;
  /** Of each pixel, the weights of all tiles that reached it. */
  readonly weights: Float64Array;
  readonly shape: readonly [number, number, number, number];
  readonly top: number;
  readonly left: number;
}

function blend(
  { shape, data }: HostTensor<"float32">,
  down: Float64Array,
  along: Float64Array,
  { sum, weights, shape: [n, c, h, w], top, left }: Canvas,
): void {
  const [, , height, width] = shape as [number, number, number, number];
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const weight = down[row]! * along[column]!;
      const pixel = (top + row) * w + left + column;
      weights[pixel] = weights[pixel]! + weight;
      for (let plane = 0; plane < n * c; plane++) {
        const at = plane * h * w + pixel;
        sum[at] = sum[at]! + weight * data[(plane * height + row) * width + column]!;
      }
    }
  }
}
