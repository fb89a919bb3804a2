import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { encodeImage, type HostImage, heatMap, imageGrid, writeFileAtomically, writeJsonObject } from "../io/index.ts";
import type { TextToImagePicture, TokenAttention } from "../pipelines/index.ts";

/** Maps in a row of the sheet. */
const COLUMNS = 6;
/** The longer side of a map on the sheet, in pixels, at the least. */
const SHEET_PIXELS = 192;

/**
 * Writes where each token of a picture's prompt was looked at: a heat map over the picture for each, all of them on one sheet,
 * and the numbers as JSON. Each map is as bright as it can be; the sheet says the share of all attention that its token got.
 *
 * @returns the folder that was made for the picture
 */
export async function writeAttention(
  folder: string,
  image: TextToImagePicture,
  attention: readonly TokenAttention[],
): Promise<string> {
  const own = await newFolder(folder, `seed${image.seed}`);
  const words = attention.filter(({ token }) => token.kind === "text");
  const { width, height } = image;
  const maps: HostImage[] = [];
  const labels: string[] = [];
  for (const { token, map } of words) {
    const picture = await heatMap(map, { width, height, over: image });
    const file = `${String(token.position).padStart(3, "0")}-${fileName(token.text)}.png`;
    await writeFileAtomically(join(own, file), await encodeImage(picture, "png"));
    maps.push(picture);
    labels.push(`${token.text} ${percent(mean(map.data))}`);
  }
  if (maps.length > 0) {
    const scale = Math.max(1, Math.ceil(SHEET_PIXELS / Math.max(width, height)));
    const sheet = await imageGrid([image, ...maps], {
      ...{ labels: ["picture", ...labels], columns: Math.min(COLUMNS, maps.length + 1), scale, gap: 4 },
    });
    await writeFileAtomically(join(own, "tokens.png"), await encodeImage(sheet, "png"));
  }
  await writeJsonObject(join(own, "tokens.json"), {
    prompt: image.prompt,
    seed: image.seed,
    tokens: attention.map(({ token: { position, id, text, kind }, map }) => ({
      ...{ position, id, text, kind, mean: mean(map.data) },
      ...(kind === "padding" ? {} : { height: map.shape[0], width: map.shape[1], map: Array.from(map.data) }),
    })),
  });
  return own;
}

/** A folder of this name, or with a number behind it where there is one. */
async function newFolder(parent: string, name: string): Promise<string> {
  await mkdir(parent, { recursive: true });
  for (let i = 1; ; i++) {
    const path = join(parent, i === 1 ? name : `${name}-${i}`);
    const made = await mkdir(path).then(
      () => true,
      (error: NodeJS.ErrnoException) => {
        if (error.code === "EEXIST") return false;
        throw error;
      },
    );
    if (made) return path;
  }
}

function fileName(text: string): string {
  const safe = text.replaceAll(/[^\p{L}\p{N}]+/gu, "");
  return safe === "" ? "token" : safe.slice(0, 32);
}

function mean(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function percent(share: number): string {
  return `${(100 * share).toPrecision(2)} %`;
}
