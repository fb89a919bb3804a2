import { stat } from "node:fs/promises";
import { extname } from "node:path";
import { UserError } from "../core/errors.ts";
import { GRIDS } from "../diffusion/index.ts";

const PICTURES = [".png", ".jpg", ".jpeg", ".webp"] as const;
const ANIMATIONS = [".gif", ".webp"] as const;

export type PictureFormat = "png" | "jpeg" | "webp";

/** Whether a path is meant as a picture's file: whether it has a picture's extension. */
export function isPictureFile(path: string): boolean {
  return (PICTURES as readonly string[]).includes(extname(path).toLowerCase());
}

/** The format of a picture's file. Throws a UserError before anything is computed for a path that cannot be written. */
export function pictureFormat(path: string): PictureFormat {
  const extension = extname(path).toLowerCase();
  if (!isPictureFile(path)) throw wrongExtension("A picture", path, PICTURES);
  return extension === ".png" ? "png" : extension === ".webp" ? "webp" : "jpeg";
}

/** Throws a UserError for a path that no animation can be written to. */
export function checkAnimationFile(path: string): void {
  if (!(ANIMATIONS as readonly string[]).includes(extname(path).toLowerCase())) {
    throw wrongExtension("An animation", path, ANIMATIONS);
  }
}

/** Throws a UserError when there is a folder where a file is to be written. */
export async function checkNoFolder(path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isDirectory()) throw new UserError(`${path} is a folder; the path of a file is needed.`);
}

function wrongExtension(what: string, path: string, accepted: readonly string[]): UserError {
  const isSpread = (GRIDS as readonly string[]).includes(path);
  return new UserError(`${what} cannot be written to ${path}.`, {
    hint: isSpread
      ? `How steps are spread is said with --spread ${path}; here a path is needed that ends in ${accepted.join(", ")}.`
      : `Accepted extensions are ${accepted.join(", ")}.`,
  });
}
