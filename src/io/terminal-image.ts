import type { HostImage } from "./host-image.ts";

export interface TerminalImageOptions {
  /** The most character columns it may take; wider images are scaled down. */
  readonly columns?: number;
  /** `"true"`: 24-bit colours; `"256"`: the 6×6×6 cube and grays of older terminals; `"none"`: shades of characters. */
  readonly colour?: "true" | "256" | "none";
}

/**
 * An image as lines of text. In colour each character shows two pixels, one above the other (an upper half block whose
 * background is the lower pixel); without, one shade character stands for 1×2 pixels.
 *
 * @returns lines separated by newlines, without one at the end
 */
export function terminalImage(image: HostImage, { columns = 80, colour = "true" }: TerminalImageOptions = {}): string {
  const width = Math.max(1, Math.min(image.width, Math.floor(columns)));
  const height = Math.max(1, Math.round((image.height * width) / image.width));
  const pixels = boxScaled(image, width, height);
  const at = (x: number, y: number): Pixel | undefined => (y < height ? pixels[y * width + x] : undefined);
  const lines: string[] = [];
  for (let y = 0; y < height; y += 2) {
    let line = "";
    let last = "";
    for (let x = 0; x < width; x++) {
      const top = at(x, y)!;
      const bottom = at(x, y + 1);
      if (colour === "none") {
        line += shade(bottom ? (luma(top) + luma(bottom)) / 2 : luma(top));
        continue;
      }
      const code = colour === "true" ? trueColour : cubeColour;
      const style = `\x1b[38;${code(top)}${bottom ? `;48;${code(bottom)}` : ";49"}m`;
      line += style === last ? "▀" : `${style}▀`;
      last = style;
    }
    lines.push(colour === "none" ? line : `${line}\x1b[0m`);
  }
  return lines.join("\n");
}

type Pixel = readonly [number, number, number];

/** Averages the image over a raster of boxes; every source pixel counts by the area it shares with the box. */
function boxScaled(image: HostImage, width: number, height: number): Pixel[] {
  const columns = Array.from({ length: width }, (_, x) => overlaps(x, image.width / width, image.width));
  const rows = Array.from({ length: height }, (_, y) => overlaps(y, image.height / height, image.height));
  return rows.flatMap((row) =>
    columns.map((column) => {
      const sum = [0, 0, 0];
      let weight = 0;
      for (const [y, wy] of row) {
        for (const [x, wx] of column) {
          weight += wx * wy;
          const from = (y * image.width + x) * image.channels;
          for (let c = 0; c < 3; c++) sum[c]! += wx * wy * image.data[from + (image.channels === 3 ? c : 0)]!;
        }
      }
      return sum.map((value) => Math.round(value / weight)) as unknown as Pixel;
    }),
  );
}

function overlaps(index: number, step: number, size: number): [number, number][] {
  const result: [number, number][] = [];
  for (let i = Math.floor(index * step); i < Math.min(size, (index + 1) * step); i++) {
    const share = Math.min(i + 1, (index + 1) * step) - Math.max(i, index * step);
    if (share > 1e-9) result.push([i, share]);
  }
  return result;
}

function trueColour([r, g, b]: Pixel): string {
  return `2;${r};${g};${b}`;
}

/** The nearest of xterm's colours 16–231 (a cube with levels 0, 95, 135, … 255) or 232–255 (grays 8, 18, … 238). */
function cubeColour(pixel: Pixel): string {
  const levels = pixel.map((value) => (value < 48 ? 0 : value < 115 ? 1 : Math.round((value - 55) / 40)));
  const cube = levels.map((level) => (level === 0 ? 0 : 55 + 40 * level));
  const gray = Math.min(23, Math.max(0, Math.round((luma(pixel) - 8) / 10)));
  const distance = (other: readonly number[]) => pixel.reduce((sum, value, c) => sum + (value - other[c]!) ** 2, 0);
  const useGray = distance([8 + 10 * gray, 8 + 10 * gray, 8 + 10 * gray]) < distance(cube);
  return `5;${useGray ? 232 + gray : 16 + 36 * levels[0]! + 6 * levels[1]! + levels[2]!}`;
}

function luma([r, g, b]: Pixel): number {
  return 0.299 * r + 0.587 * g + 0.114 * b;
}

function shade(value: number): string {
  return " ░▒▓█"[Math.min(4, Math.floor((value / 256) * 5))]!;
}
