import { readFile } from "node:fs/promises";
import { extname } from "node:path";
import sharp, { type Metadata, type Sharp } from "sharp";
import { messageOf, UserError } from "../core/errors.ts";
import { writeFileAtomically } from "./atomic-file.ts";
import { exifBlock, exifTexts, withExifBlock } from "./exif.ts";
import { asGray, asRgb, type HostImage, hostImage } from "./host-image.ts";
import { pngText, withPngText } from "./png-text.ts";

/** Widths and heights in pixels; one number for a square. */
export type ImageSize = number | { readonly width: number; readonly height: number };

export interface DecodeOptions {
  /** 3 (sRGB) or 1 (gray, BT.601 luma). */
  readonly channels?: 1 | 3;
  /** Scale until this is filled, then cut the middle out. Without it the image keeps its size. */
  readonly size?: ImageSize;
  /** The colour behind transparent pixels, `#rrggbb`; `"ignore"` drops the alpha channel instead of blending. */
  readonly background?: string;
  /** Turn the image upright as its EXIF orientation says. */
  readonly upright?: boolean;
  /** What to call the image in messages; the path, where it is one. */
  readonly name?: string;
}

/** A decoded image with the size it had in its file (upright if that was asked for). */
export interface DecodedImage extends HostImage {
  readonly original: { readonly width: number; readonly height: number };
}

const FORMATS = ["png", "jpeg", "webp", "avif", "gif"] as const;
const ACCEPTED = "PNG, JPEG, WebP, AVIF and GIF (its first frame) are read";

/**
 * Decodes an image by its content, whatever its name: 8 or 16 bits, gray, palette, RGB or CMYK, with or without alpha.
 * Colours with an embedded profile are converted to sRGB; CMYK without one by (1 - C)(1 - K).
 *
 * @param source a path or the file's bytes
 * @throws UserError when it is no image of an accepted format, is truncated or damaged
 */
export async function decodeImage(source: string | Uint8Array, options: DecodeOptions = {}): Promise<DecodedImage> {
  const { channels = 3, size, background = "#ffffff", upright = true } = options;
  const name = options.name ?? (typeof source === "string" ? source : "the image");
  const target = size === undefined ? undefined : checkedSize(size);
  if (background !== "ignore") parseColour(background);
  const bytes = typeof source === "string" ? await readBytes(source) : source;
  try {
    const metadata = await sharp(bytes).metadata();
    checkFormat(metadata, name);
    const turned = upright && (metadata.orientation ?? 1) >= 5;
    const original = turned
      ? { width: metadata.height, height: metadata.width }
      : { width: metadata.width, height: metadata.height };
    let image = sharp(bytes);
    if (needsOwnConversion(metadata, background)) {
      const raw = await convertedToRgb(image, metadata, background);
      image = sharp(raw.data, { raw: { width: raw.width, height: raw.height, channels: 3 } });
      // The orientation is lost with the metadata; sharp turns only what it read itself.
      if (upright) image = await turnedUpright(image, metadata.orientation ?? 1);
    } else {
      if (upright) image = image.autoOrient();
      if (metadata.hasAlpha) image = image.flatten({ background });
    }
    if (target) image = image.resize({ ...target, fit: "cover", position: "centre" });
    const { data, info } = await image
      .toColourspace("srgb")
      .raw({ depth: "uchar" })
      .toBuffer({ resolveWithObject: true });
    const rgb = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const decoded = hostImage(info.width, info.height, 3, rgb);
    return { ...(channels === 1 ? asGray(decoded) : decoded), original };
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`${name} cannot be decoded: ${messageOf(error).trim()}.`, {
      hint: bytes.length === 0 ? "The file is empty." : `The file is damaged or no image; ${ACCEPTED}.`,
      cause: error,
    });
  }
}

async function readBytes(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    throw new UserError(missing ? `There is no file ${path}.` : `${path} cannot be read: ${messageOf(error)}.`, {
      cause: error,
    });
  }
}

function checkFormat(metadata: Metadata, name: string): void {
  const format = metadata.format === "heif" && metadata.compression === "av1" ? "avif" : metadata.format;
  if (!(FORMATS as readonly (string | undefined)[]).includes(format)) {
    throw new UserError(`${name} is a ${format?.toUpperCase() ?? "file of unknown format"} image; ${ACCEPTED}.`, {
      hint: "Convert it first.",
    });
  }
}

/** What libvips' own conversions to 8-bit RGB would not keep exact, or alpha that is to be dropped before scaling. */
function needsOwnConversion(metadata: Metadata, background: string): boolean {
  const deep = metadata.depth === "ushort" && !metadata.icc;
  const plainCmyk = metadata.space === "cmyk" && !metadata.icc;
  return deep || plainCmyk || (background === "ignore" && metadata.hasAlpha === true);
}

async function convertedToRgb(image: Sharp, metadata: Metadata, background: string): Promise<HostImage> {
  const cmyk = metadata.space === "cmyk" && !metadata.icc;
  const deep = metadata.depth === "ushort" && !metadata.icc;
  const { data, info } = await (cmyk
    ? image.pipelineColourspace("cmyk").toColourspace("cmyk")
    : image.toColourspace(deep ? "rgb16" : "srgb")
  )
    .raw({ depth: deep ? "ushort" : "uchar" })
    .toBuffer({ resolveWithObject: true });
  const samples = deep ? new Uint16Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength)) : data;
  const pixels = info.width * info.height;
  const rgb = new Uint8Array(pixels * 3);
  if (cmyk) {
    for (let i = 0; i < pixels; i++) {
      const light = 255 - samples[i * 4 + 3]!;
      for (let c = 0; c < 3; c++) rgb[i * 3 + c] = light - Math.round((samples[i * 4 + c]! * light) / 255);
    }
  } else {
    const maximum = deep ? 65535 : 255;
    const colours = info.channels >= 3 ? 3 : 1;
    const alpha = info.channels === 2 || info.channels === 4;
    const behind = background === "ignore" || !alpha ? undefined : parseColour(background);
    for (let i = 0; i < pixels; i++) {
      const opacity = behind ? samples[i * info.channels + info.channels - 1]! / maximum : 1;
      for (let c = 0; c < 3; c++) {
        const value = (samples[i * info.channels + (colours === 3 ? c : 0)]! * 255) / maximum;
        rgb[i * 3 + c] = Math.round(behind ? value * opacity + behind[c]! * (1 - opacity) : value);
      }
    }
  }
  return hostImage(info.width, info.height, 3, rgb);
}

/** EXIF orientation (TIFF 6.0 tag 274) 1 to 8 undone: mirrored, then turned clockwise. */
async function turnedUpright(image: Sharp, orientation: number): Promise<Sharp> {
  if (orientation < 2 || orientation > 8) return image;
  const mirrored = [2, 4, 5, 7].includes(orientation);
  const angle = [0, 0, 0, 180, 180, 270, 90, 90, 270][orientation]!;
  const flopped = mirrored ? await asRaw(image.flop()) : image;
  return angle === 0 ? flopped : asRaw(flopped.rotate(angle));
}

async function asRaw(image: Sharp): Promise<Sharp> {
  const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
  return sharp(data, { raw: { width: info.width, height: info.height, channels: info.channels } });
}

function checkedSize(size: ImageSize): { width: number; height: number } {
  const { width, height } = typeof size === "number" ? { width: size, height: size } : size;
  for (const side of [width, height]) {
    if (!Number.isInteger(side) || side < 1 || side > 16384) {
      throw new UserError(
        `An image size of ${width}×${height} was given; whole numbers from 1 to 16384 are accepted.`,
        {
          field: "size",
        },
      );
    }
  }
  return { width, height };
}

/** [red, green, blue] of `#rrggbb` or `#rgb`, or of black, white and gray. */
export function parseColour(colour: string): [number, number, number] {
  const named: Record<string, string> = { black: "#000000", white: "#ffffff", gray: "#808080" };
  const text = Object.hasOwn(named, colour) ? named[colour]! : colour;
  const short = /^#([0-9a-f])([0-9a-f])([0-9a-f])$/i.exec(text);
  const long = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(text);
  const parts = long?.slice(1) ?? short?.slice(1).map((digit) => digit + digit);
  if (!parts) {
    throw new UserError(`"${colour}" is no colour; accepted are #rrggbb, #rgb, black, white and gray.`, {
      field: "background",
    });
  }
  return parts.map((part) => Number.parseInt(part, 16)) as [number, number, number];
}

/** The formats images are written in, by file extension. */
export type ImageFormat = "png" | "jpeg" | "webp";

export interface EncodeOptions {
  /** 1 to 100, for JPEG and WebP (100 is lossless in WebP). */
  readonly quality?: number;
  /**
   * Notes kept in the file, for example the request that made the image: PNG text chunks. In JPEG and WebP they are JSON in
   * the EXIF image description, but for the one called `parameters`, which is the EXIF user comment, where the web UI of
   * AUTOMATIC1111 writes it and other programs look for it.
   */
  readonly text?: Readonly<Record<string, string>>;
}

/** Encodes an image as the bytes of a file. */
export async function encodeImage(
  image: HostImage,
  format: ImageFormat,
  options: EncodeOptions = {},
): Promise<Uint8Array> {
  const { quality = 92, text } = options;
  const { width, height, channels } = image;
  let pipeline = sharp(image.data, { raw: { width, height, channels } });
  // Without this sharp writes gray as RGB.
  if (channels === 1) pipeline = pipeline.toColourspace("b-w");
  if (format === "png") {
    const png = await pipeline.png({ compressionLevel: 9 }).toBuffer();
    return text ? withPngText(png, text) : png;
  }
  // libvips writes comments in ASCII only: it makes the place for the block, whose content is ours.
  if (text) pipeline = pipeline.withExif({ IFD0: { ImageDescription: "-" } });
  const encoded =
    format === "jpeg"
      ? await pipeline.jpeg({ quality, chromaSubsampling: "4:4:4" }).toBuffer()
      : await pipeline.webp({ quality, lossless: quality === 100 }).toBuffer();
  if (!text) return encoded;
  const { [COMMENT_NOTE]: comment, ...others } = text;
  const description = Object.keys(others).length === 0 ? undefined : asciiJson(others);
  return withExifBlock(encoded, format, exifBlock({ description, comment }));
}

/** The note that is an EXIF user comment in JPEG and WebP. */
const COMMENT_NOTE = "parameters";

function asciiJson(value: unknown): string {
  return JSON.stringify(value).replace(
    /[\x7f-\uffff]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/**
 * The notes in an image's file that {@link encodeImage} wrote, and the text chunks of any PNG and the user comment of any
 * JPEG or WebP; empty where it has none.
 *
 * @throws UserError when the bytes are no image
 */
export async function imageText(bytes: Uint8Array, name = "the image"): Promise<Record<string, string>> {
  const { exif, format } = await sharp(bytes)
    .metadata()
    .catch((error) => {
      throw new UserError(`${name} cannot be decoded: ${messageOf(error).trim()}.`, { hint: ACCEPTED, cause: error });
    });
  if (format === "png") return pngText(bytes);
  const { description, comment } = exif ? exifTexts(exif) : {};
  // Cameras and other programs write comments, too.
  const ours = comment !== undefined && /^(?:Negative prompt:|Steps: \d)/m.test(comment);
  return {
    ...notesIn(description),
    ...(comment === undefined || comment === "" ? {} : { [ours ? COMMENT_NOTE : "UserComment"]: comment }),
  };
}

/** Notes that stand as JSON in a description. */
function notesIn(description: string | undefined): Record<string, string> {
  if (!description?.startsWith("{")) return {};
  try {
    const entries = Object.entries(JSON.parse(description)).filter(([, value]) => typeof value === "string");
    return Object.fromEntries(entries) as Record<string, string>;
  } catch {
    return {};
  }
}

/** Writes an image; the extension (.png, .jpg, .jpeg, .webp) chooses the format. */
export async function saveImage(path: string, image: HostImage, options: EncodeOptions = {}): Promise<void> {
  await writeFileAtomically(path, await encodeImage(image, formatOf(path), options));
}

function formatOf(path: string): ImageFormat {
  const extension = extname(path).toLowerCase();
  if (extension === ".png") return "png";
  if (extension === ".jpg" || extension === ".jpeg") return "jpeg";
  if (extension === ".webp") return "webp";
  throw new UserError(`Images cannot be written to ${path}; accepted extensions are .png, .jpg, .jpeg and .webp.`);
}

/**
 * Scales a decoded image: whole multiples by repeating pixels (`"nearest"`), anything by `"lanczos"`. Of other proportions the
 * middle is cut out, or with `"fill"` the image is stretched.
 */
export async function resizeImage(
  image: HostImage,
  size: ImageSize,
  { kernel = "lanczos", fit = "cover" }: { kernel?: "lanczos" | "nearest"; fit?: "cover" | "fill" } = {},
): Promise<HostImage> {
  const { width, height } = checkedSize(size);
  const rgb = asRgb(image);
  const { data } = await sharp(rgb.data, { raw: { width: rgb.width, height: rgb.height, channels: 3 } })
    .resize({ width, height, fit, position: "centre", kernel: kernel === "nearest" ? "nearest" : "lanczos3" })
    .raw()
    .toBuffer({ resolveWithObject: true });
  const resized = hostImage(width, height, 3, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return image.channels === 1 ? asGray(resized) : resized;
}
