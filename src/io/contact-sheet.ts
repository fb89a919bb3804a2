import sharp from "sharp";
import { asRgb, type HostImage, hostImage } from "./host-image.ts";
import { escapeXml, imageGrid } from "./image-grid.ts";
import { parseColour } from "./images.ts";

export interface ContactSheetOptions {
  /** Over each column and beside each row, in a font of the system. */
  readonly columns: readonly string[];
  readonly rows: readonly string[];
  /** A line above everything. */
  readonly title?: string;
  /** Every pixel becomes a square of this many pixels. */
  readonly scale?: number;
  readonly gap?: number;
  readonly background?: string;
}

/** Pixels a letter is wide at the most, and a line high, at 12 points. */
const LETTER = 7.5;
const LINE = 20;

/**
 * Lays pictures of one size out as a table with headings, row by row; where there is no picture, the place is empty.
 *
 * @throws UserError when the pictures differ in size, or there is none
 */
export async function contactSheet(
  images: readonly (HostImage | undefined)[],
  { columns, rows, title, scale = 1, gap = 4, background = "#ffffff" }: ContactSheetOptions,
): Promise<HostImage> {
  const colour = parseColour(background);
  const some = images.find((image) => image !== undefined);
  const empty = some && emptyLike(some, colour);
  const grid = asRgb(
    await imageGrid(
      images.flatMap((image) => (image ? [image] : empty ? [empty] : [])),
      { columns: columns.length, gap, scale, background },
    ),
  );
  const left = Math.ceil(Math.max(...rows.map((row) => row.length)) * LETTER) + 12;
  const top = LINE + (title === undefined ? 0 : LINE);
  const cell = { width: some!.width * scale + gap, height: some!.height * scale + gap };
  // Headings over narrow pictures reach over the edges.
  const over = Math.max(...columns.map((column) => column.length * LETTER - cell.width), 0) / 2;
  const width = Math.max(left + grid.width + Math.ceil(over), Math.ceil((title?.length ?? 0) * LETTER) + 16);
  const height = top + grid.height;
  const ink = colour[0] + colour[1] + colour[2] > 384 ? "#222222" : "#eeeeee";
  const texts = [
    ...(title === undefined ? [] : [`<text x="8" y="15" font-weight="bold">${escapeXml(title)}</text>`]),
    ...columns.map(
      (column, i) =>
        `<text x="${left + gap / 2 + (i + 0.5) * cell.width}" y="${top - 5}" text-anchor="middle">${escapeXml(column)}</text>`,
    ),
    ...rows.map(
      (row, i) =>
        `<text x="${left - 4}" y="${top + gap / 2 + (i + 0.5) * cell.height + 4}" text-anchor="end">${escapeXml(row)}</text>`,
    ),
  ];
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="12" fill="${ink}">${texts.join("")}</svg>`;
  const data = await sharp({ create: { width, height, channels: 3, background } })
    .composite([
      { input: Buffer.from(grid.data), raw: { width: grid.width, height: grid.height, channels: 3 }, left, top },
      { input: Buffer.from(svg) },
    ])
    .removeAlpha()
    .raw()
    .toBuffer();
  return hostImage(width, height, 3, new Uint8Array(data));
}

function emptyLike({ width, height, channels }: HostImage, colour: readonly number[]): HostImage {
  const data = new Uint8Array(width * height * channels);
  for (let i = 0; i < data.length; i++) data[i] = colour[i % channels]!;
  return hostImage(width, height, channels, data);
}
