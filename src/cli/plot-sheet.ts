import { contactSheet, type HostImage, imageGrid } from "../io/index.ts";
import type { PlotPlace, RequestAxis } from "./request-axes.ts";

/** Small pictures are shown larger, by whole numbers, up to about this many pixels. */
const PLACE_PIXELS = 96;

/**
 * The pictures of a plot's places with the values of the axes as headings.
 *
 * @param images of each place; several are laid out as a grid
 */
export async function plotSheet(
  places: readonly (Pick<PlotPlace, "column" | "row"> & { readonly images: readonly HostImage[] })[],
  { x, y, title }: { readonly x?: RequestAxis; readonly y?: RequestAxis; readonly title: string },
): Promise<HostImage> {
  const columns = x?.values.map(({ label }) => label) ?? [""];
  const rows = y?.values.map(({ label }) => label) ?? [""];
  const cells: (HostImage | undefined)[] = Array(rows.length * columns.length).fill(undefined);
  for (const { column, row, images } of places) {
    cells[row * columns.length + column] = images.length === 1 ? images[0] : await imageGrid(images);
  }
  const longest = Math.max(...cells.flatMap((cell) => (cell ? [cell.width, cell.height] : [])));
  return contactSheet(cells, { rows, columns, title, scale: Math.max(1, Math.floor(PLACE_PIXELS / longest)) });
}
