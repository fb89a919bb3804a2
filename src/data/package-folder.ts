import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { UserError } from "../core/errors.ts";

/**
 * The folder of an installed npm package, as seen from here or from the user's project.
 *
 * @param holds what it is wanted for, as the message says it: "the MNIST digits"
 * @throws UserError when it is not installed
 */
export function packageFolder(name: string, holds: string): string {
  for (const from of [import.meta.url, join(process.cwd(), "package.json")]) {
    try {
      return dirname(createRequire(from).resolve(`${name}/package.json`));
    } catch {
      // Not installed there; the next place may have it.
    }
  }
  throw new UserError(`The npm package ${name}, which holds ${holds}, is not installed.`, {
    hint: `Run \`npm install ${name}\`, or give a folder of images.`,
    field: "data",
  });
}
