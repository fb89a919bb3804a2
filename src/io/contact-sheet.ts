import sharp from "sharp";
import { asRgb, type HostImage, hostImage } from "./host-image.ts";
import { escapeXml, imageGrid } from "./image-grid.ts";
import { parseColour } from "./images.ts";
import { textWidth } from "./text-width.ts";

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

/** In pixels: the height of letters, and of a line. */
const SIZE = 12;
const LINE = 20;
/** Pixels between two headings at least. */
const APART = 8;

/**
 * Lays pictures out as a table with headings, row by row; where there is no picture, the place is empty. Places are as large
 * as the largest picture and as wide as the headings; smaller pictures stand in their middle.
 *
 * @throws UserError when there is no picture
 */
export async function contactSheet(
  images: readonly (HostImage | undefined)[],
  { columns, rows, title, scale = 1, gap = 4, background = "#ffffff" }: ContactSheetOptions,
): Promise<HostImage> {
  const colour = parseColour(background);
  const some = images.filter((image) => image !== undefined);
  const widths = (texts: readonly string[]) => Promise.all(texts.map((text) => textWidth(text, { size: SIZE })));
  const heading = Math.max(0, ...(await widths(columns)));
  const place = {
    width: Math.max(...some.map((image) => image.width), Math.ceil((heading + APART - gap) / scale)),
    height: Math.max(...some.map((image) => image.height)),
    channels: some.every(({ channels }) => channels === 1) ? (1 as const) : (3 as const),
  };
  const places = some.length === 0 ? [] : images.map((image) => placed(image, place, colour));
  const grid = asRgb(await imageGrid(places, { columns: columns.length, gap, scale, background }));
  const left = Math.max(0, ...(await widths(rows))) + 12;
  const top = LINE + (title === undefined ? 0 : LINE);
  const cell = { width: place.width * scale + gap, height: place.height * scale + gap };
  const lettered = title === undefined ? 0 : await textWidth(title, { size: SIZE, bold: true });
  const width = Math.max(left + grid.width, lettered + 16);
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
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="${SIZE}" fill="${ink}">${texts.join("")}</svg>`;
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

/** A picture in the middle of a place. */
function placed(
  image: HostImage | undefined,
  { width, height, channels }: Pick<HostImage, "width" | "height" | "channels">,
  colour: readonly number[],
): HostImage {
  if (image?.width === width && image.height === height && image.channels === channels) return image;
  const data = new Uint8Array(width * height * channels);
  for (let i = 0; i < data.length; i++) data[i] = colour[i % channels]!;
  if (image) {
    const source = channels === 3 ? asRgb(image) : image;
    const left = (width - image.width) >> 1;
    const top = (height - image.height) >> 1;
    const row = image.width * channels;
    for (let y = 0; y < image.height; y++) {
      data.set(source.data.subarray(y * row, (y + 1) * row), ((top + y) * width + left) * channels);
    }
  }
  return hostImage(width, height, channels, data);
}
