import { extname } from "node:path";
import sharp from "sharp";
import { UserError } from "../core/errors.ts";
import { writeFileAtomically } from "./atomic-file.ts";
import { asRgb, type HostImage, hostImage, sameSize } from "./host-image.ts";
import { type EncodeOptions, parseColour, saveImage } from "./images.ts";

export interface GridOptions {
  /** Images in a row; by default the grid is about square. */
  readonly columns?: number;
  /** Pixels between images and around them. */
  readonly gap?: number;
  /** The colour between images. */
  readonly background?: string;
  /** Every pixel becomes a square of this many pixels, so that small images can be seen. */
  readonly scale?: number;
  /** A line of text under each image, in a font of the system. */
  readonly labels?: readonly string[];
}

/** Height in pixels of a line of labels. */
const LABEL_HEIGHT = 16;

/** Lays images of one size out in a grid, row by row. Gray images stay gray if the background is gray. */
export async function imageGrid(images: readonly HostImage[], options: GridOptions = {}): Promise<HostImage> {
  const { width: w, height: h, channels } = sameSize(images);
  const { gap = 2, background = "#ffffff", scale = 1, labels } = options;
  const columns = options.columns ?? Math.ceil(Math.sqrt(images.length));
  for (const [name, value, least] of [
    ["columns", columns, 1],
    ["gap", gap, 0],
    ["scale", scale, 1],
  ] as const) {
    if (!Number.isInteger(value) || value < least) {
      throw new UserError(`${name} of a grid is ${value}; a whole number >= ${least} is needed.`, { field: name });
    }
  }
  if (labels && labels.length !== images.length) {
    throw new UserError(`${labels.length} labels were given for ${images.length} images; one each is needed.`);
  }
  const colour = parseColour(background);
  const gray = channels === 1 && !labels && colour[0] === colour[1] && colour[1] === colour[2];
  const c = gray ? 1 : 3;
  const rows = Math.ceil(images.length / columns);
  const cellWidth = w * scale + gap;
  const cellHeight = h * scale + gap + (labels ? LABEL_HEIGHT : 0);
  const width = Math.min(columns, images.length) * cellWidth + gap;
  const height = rows * cellHeight + gap;
  const data = new Uint8Array(width * height * c);
  for (let i = 0; i < data.length; i++) data[i] = colour[i % c]!;
  images.forEach((image, n) => {
    const source = gray ? image : asRgb(image);
    const left = gap + (n % columns) * cellWidth;
    const top = gap + Math.floor(n / columns) * cellHeight;
    for (let y = 0; y < h * scale; y++) {
      const from = Math.floor(y / scale) * w;
      const to = ((top + y) * width + left) * c;
      for (let x = 0; x < w * scale; x++) {
        const pixel = (from + Math.floor(x / scale)) * c;
        for (let k = 0; k < c; k++) data[to + x * c + k] = source.data[pixel + k]!;
      }
    }
  });
  const grid = hostImage(width, height, c, data);
  if (!labels) return grid;
  const ink = colour[0] + colour[1] + colour[2] > 384 ? "#222222" : "#eeeeee";
  const texts = labels.map((label, n) => {
    const x = gap + (n % columns) * cellWidth + (w * scale) / 2;
    const y = gap + Math.floor(n / columns) * cellHeight + h * scale + LABEL_HEIGHT - 4;
    return `<text x="${x}" y="${y}">${escapeXml(label)}</text>`;
  });
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="12" text-anchor="middle" fill="${ink}">${texts.join("")}</svg>`;
  const labelled = await sharp(grid.data, { raw: { width, height, channels: 3 } })
    .composite([{ input: Buffer.from(svg) }])
    .removeAlpha()
    .raw()
    .toBuffer();
  return hostImage(width, height, 3, new Uint8Array(labelled));
}

/** Writes images of one size as a grid; the extension (.png, .jpg, .webp) chooses the format. */
export async function saveGrid(
  path: string,
  images: readonly HostImage[],
  options: GridOptions & EncodeOptions = {},
): Promise<void> {
  await saveImage(path, await imageGrid(images, options), options);
}

/** Text as it may stand in an SVG. */
export function escapeXml(text: string): string {
  const entities: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;" };
  return text.replace(/[&<>"']/g, (c) => entities[c]!);
}

export interface AnimationOptions {
  /** Frames a second; GIF keeps hundredths of a second. */
  readonly fps?: number;
  /** Seconds the last frame stays before the animation starts again. */
  readonly hold?: number;
  /** How often it is played; 0 is for ever. */
  readonly loop?: number;
}

/** Writes frames of one size as an animation; the extension (.gif or .webp) chooses the format. */
export async function saveAnimation(
  path: string,
  frames: readonly HostImage[],
  { fps = 12, hold = 1.5, loop = 0 }: AnimationOptions = {},
): Promise<void> {
  const { width, height } = sameSize(frames);
  const extension = extname(path).toLowerCase();
  if (extension !== ".gif" && extension !== ".webp") {
    throw new UserError(`Animations cannot be written to ${path}; accepted extensions are .gif and .webp.`);
  }
  if (!(fps > 0 && fps <= 100)) {
    throw new UserError(`fps is ${fps}; more than 0 and at most 100 is accepted.`, { field: "fps" });
  }
  const bytes = width * height * 3;
  const strip = new Uint8Array(bytes * frames.length);
  frames.forEach((frame, n) => {
    strip.set(asRgb(frame).data, n * bytes);
  });
  const delay = frames.map((_, n) => Math.round(1000 / fps + (n === frames.length - 1 ? hold * 1000 : 0)));
  const animation = sharp(strip, {
    raw: { width, height: height * frames.length, channels: 3, pageHeight: height },
    limitInputPixels: false,
  });
  const encoded =
    extension === ".gif"
      ? await animation.gif({ delay, loop, effort: 7 }).toBuffer()
      : await animation.webp({ delay, loop, quality: 90 }).toBuffer();
  await writeFileAtomically(path, encoded);
}
