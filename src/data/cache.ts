import { mkdir } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { messageOf, UserError } from "../core/errors.ts";

/**
 * The folder for what can be made again: the given one, else `ALLEGORY_CACHE`, else `allegory` in `XDG_CACHE_HOME`
 * (default `~/.cache`; on Windows `LOCALAPPDATA`). Made if it is not there.
 *
 * @throws UserError when it cannot be made
 */
export async function cacheFolder(given?: string): Promise<string> {
  const { ALLEGORY_CACHE, XDG_CACHE_HOME, LOCALAPPDATA } = process.env;
  const general = (process.platform === "win32" ? LOCALAPPDATA : XDG_CACHE_HOME) || join(homedir(), ".cache");
  const folder = given || ALLEGORY_CACHE || join(general, "allegory");
  try {
    await mkdir(folder, { recursive: true });
  } catch (error) {
    throw new UserError(`The cache folder ${folder} cannot be made: ${messageOf(error)}.`, {
      hint: "Set ALLEGORY_CACHE to a folder that can be written, or switch the cache off.",
      cause: error,
    });
  }
  return folder;
}
