import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../../src/core/errors.ts";
import { type DecodedImage, decodeImage } from "../../../src/io/images.ts";
import { type CaseKind, type Comparison, compare } from "../case.ts";

const sizes = z.array(z.number());
const description = z.object({
  files: z.array(
    z.object({
      file: z.string(),
      note: z.string().default(""),
      expect: z.enum(["decodes", "error"]),
      format: z.string().optional(),
      width: z.number().optional(),
      height: z.number().optional(),
      rgb: sizes.optional(),
      upright_width: z.number().optional(),
      upright_height: z.number().optional(),
      upright_rgb: sizes.optional(),
    }),
  ),
});
type ImageFile = z.infer<typeof description>["files"][number];

/** `images/`: odd image files. PNG exact; where the note says "accept N off" or "accept a difference of N", that. */
export const imageCases: CaseKind = {
  kind: "images",
  async discover(folder) {
    const list = join(folder, "images", "images.json");
    if (!existsSync(list)) return [];
    const { files } = description.parse(JSON.parse(await readFile(list, "utf8")));
    return files.map((file) => ({
      name: `images/${file.file}`,
      run: () => (file.expect === "error" ? refused : decoded)(join(folder, "images", file.file), file),
    }));
  },
};

async function refused(path: string): Promise<Comparison[]> {
  try {
    await decodeImage(path);
  } catch (error) {
    if (error instanceof UserError && error.message.includes(path)) return [verdict("refused by name", true)];
    throw error;
  }
  return [verdict("refused by name", false)];
}

async function decoded(path: string, file: ImageFile): Promise<Comparison[]> {
  const tolerance = { absolute: accepted(file.note) };
  // The reference pixels are those under the alpha channel, not blended.
  const stored = await decodeImage(path, { background: "ignore", upright: false });
  const upright = await decodeImage(path, { background: "ignore" });
  const results = [compare("size", [stored.width, stored.height], [file.width ?? 0, file.height ?? 0], {})];
  const expected = file.rgb ?? formula(file.note, stored);
  if (expected) results.push(compare("rgb", stored.data, expected, tolerance));
  if (file.upright_rgb) {
    const size = [file.upright_width ?? 0, file.upright_height ?? 0];
    results.push(compare("upright size", [upright.width, upright.height], size, {}));
    results.push(compare("upright rgb", upright.data, file.upright_rgb, tolerance));
  }
  return results;
}

/** How far a sample may be off: what the note says, otherwise nothing. */
function accepted(note: string): number {
  return Number(/accept (?:a difference of )?(\d+)/.exec(note)?.[1] ?? 0);
}

/** The pixels of the one file whose note gives a formula instead of numbers. */
function formula(note: string, { width, height }: DecodedImage): Uint8Array | undefined {
  if (!note.includes("red = x mod 256, green = 7*y mod 256, blue = 0")) return undefined;
  return Uint8Array.from({ length: width * height * 3 }, (_, i) => {
    const pixel = Math.floor(i / 3);
    return [pixel % width, 7 * Math.floor(pixel / width), 0][i % 3]! % 256;
  });
}

function verdict(what: string, pass: boolean): Comparison {
  return { what, absolute: pass ? 0 : Number.POSITIVE_INFINITY, relative: 0, tolerance: "a clear message", pass };
}
