import sharp from "sharp";
import { escapeXml } from "./image-grid.ts";

/** How text is written on pictures. */
export interface TextStyle {
  /** In pixels. */
  readonly size?: number;
  readonly bold?: boolean;
}

/** Room for each letter, by the font's size: twice what the widest of usual alphabets take. */
const ROOM = 2.5;

/** How many pixels wide a line of text is in the system's font, which is not known before it is drawn. */
export async function textWidth(text: string, { size = 12, bold = false }: TextStyle = {}): Promise<number> {
  if (text.trim() === "") return 0;
  const [width, height] = [Math.ceil([...text].length * ROOM * size) + 2 * size, 2 * size];
  const weight = bold ? ' font-weight="bold"' : "";
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="${size}"${weight}><text x="${size}" y="${1.5 * size}">${escapeXml(text)}</text></svg>`;
  const { data } = await sharp(Buffer.from(svg))
    .ensureAlpha()
    .extractChannel(3)
    .raw()
    .toBuffer({ resolveWithObject: true });
  let [left, right] = [width, 0];
  for (let i = 0; i < data.length; i++) {
    if (data[i] === 0) continue;
    left = Math.min(left, i % width);
    right = Math.max(right, (i % width) + 1);
  }
  return Math.max(0, right - left);
}
