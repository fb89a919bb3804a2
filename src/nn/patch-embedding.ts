import { UserError } from "../core/errors.ts";
import { add, reshape, slice, type Tensor, transpose, values } from "../graph/index.ts";
import { conv2d, type LayerInitial } from "./layers.ts";
import { module, parameter } from "./module.ts";

/** Options of the cut into patches. */
export interface PatchEmbeddingOptions {
  /** Height and width of a patch. */
  readonly patch: number;
  /** Patches along one side of the size the network was made for: positions are counted on that scale. */
  readonly baseSize: number;
  /** Positions are divided by this. */
  readonly scale?: number;
  /**
   * Positions come from a stored table of this many rows and columns, of which the middle is cut out, instead of being
   * computed for each size.
   */
  readonly tableSize?: number;
  /** How the convolution starts. */
  readonly initial?: LayerInitial;
}

/** Cuts an image [n, channels, h, w] into patches and adds their positions: tokens [n, h/patch·w/patch, width]. */
export function patchEmbedding(
  channels: number,
  width: number,
  { patch, baseSize, scale = 1, tableSize, initial }: PatchEmbeddingOptions,
) {
  const parts = {
    pos_embed:
      tableSize === undefined
        ? undefined
        : parameter(
            [1, tableSize * tableSize, width],
            { kind: "values", values: () => positionTable(width, [tableSize, tableSize], { baseSize, scale }) },
            { trainable: false },
          ),
    proj: conv2d(channels, width, { kernel: patch, stride: patch, initial }),
  };
  return module(parts, (x: Tensor) => {
    const [height, columns] = x.shape.slice(2) as [number, number];
    if (height % patch !== 0 || columns % patch !== 0) {
      throw new UserError(
        `This network takes heights and widths that are multiples of its patch size ${patch}; given ${height}×${columns}.`,
        { field: "size" },
      );
    }
    const size = [height / patch, columns / patch] as const;
    const cut = parts.proj(x); // [n, width, rows, columns]
    const tokens = transpose(reshape(cut, [x.shape[0]!, width, size[0] * size[1]]), [0, 2, 1]);
    const positions = parts.pos_embed
      ? middle(parts.pos_embed.tensor, tableSize!, size)
      : values([1, size[0] * size[1], width], positionTable(width, size, { baseSize, scale }));
    return add(tokens, positions);
  });
}

/** The middle of a table of positions [1, size·size, width]. */
function middle(table: Tensor, size: number, [rows, columns]: readonly [number, number]): Tensor {
  const width = table.shape[2]!;
  if (rows > size || columns > size) {
    throw new UserError(`This network has positions for at most ${size}×${size} patches; given ${rows}×${columns}.`, {
      field: "size",
    });
  }
  const top = Math.floor((size - rows) / 2);
  const left = Math.floor((size - columns) / 2);
  const square = reshape(table, [1, size, size, width]);
  const cut = slice(slice(square, 1, top, top + rows), 2, left, left + columns);
  return reshape(cut, [1, rows * columns, width]);
}

/**
 * Sines and cosines of column and row (the first half of the channels is the column's, as in Peebles & Xie's code), with
 * positions stretched to `baseSize` rows and columns: [rows·columns, width].
 */
function positionTable(
  width: number,
  [rows, columns]: readonly [number, number],
  { baseSize, scale }: { baseSize: number; scale: number },
): Float32Array {
  if (width % 4 !== 0)
    throw new UserError(`The width of a network on patches must be a multiple of 4; it is ${width}.`);
  const quarter = width / 4;
  const table = new Float32Array(rows * columns * width);
  const at = (i: number, count: number) => i / (count / baseSize) / scale;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const start = (row * columns + column) * width;
      for (let k = 0; k < quarter; k++) {
        const frequency = 10_000 ** (-k / quarter);
        const x = at(column, columns) * frequency;
        const y = at(row, rows) * frequency;
        table[start + k] = Math.sin(x);
        table[start + quarter + k] = Math.cos(x);
        table[start + 2 * quarter + k] = Math.sin(y);
        table[start + 3 * quarter + k] = Math.cos(y);
      }
    }
  }
  return table;
}

/** Tokens [n, rows·columns, patch·patch·channels] put together to an image [n, channels, rows·patch, columns·patch]. */
export function unpatchify(x: Tensor, channels: number, patch: number, rows: number, columns: number): Tensor {
  const n = x.shape[0]!;
  const cut = reshape(x, [n, rows, columns, patch, patch, channels]);
  return reshape(transpose(cut, [0, 5, 1, 3, 2, 4]), [n, channels, rows * patch, columns * patch]);
}
