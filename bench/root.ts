import { existsSync } from "node:fs";

/** A file of the project: benchmarks run as they are written, or compiled and a folder deeper. */
export function projectFile(path: string): URL {
  let root = new URL(".", import.meta.url);
  while (!existsSync(new URL("package.json", root))) root = new URL("..", root);
  return new URL(path, root);
}
