import { stat } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import { readJsonObject } from "../io/index.ts";
import { taskOf } from "./training-tasks.ts";

/**
 * The fields of a recipe file, not checked beyond its task and their names; of a run folder, those that it was started
 * with, so that it can be continued.
 *
 * @throws UserError for a missing file or one that is no JSON object, for a task that there is not, and for fields that
 *   recipes of its task do not have, with the nearest known
 */
export async function readRecipeFile(path: string): Promise<Record<string, unknown>> {
  const found = await stat(path).catch(() => undefined);
  if (!found) {
    throw new UserError(`There is no recipe file ${path}.`, {
      hint: "Give a JSON file or a run folder, or leave it out and say everything by options.",
    });
  }
  const isRun = found.isDirectory();
  const file = isRun ? join(path, "recipe.json") : path;
  const { $schema: _, ...fields } = await readJsonObject(file);
  const task = taskOf(fields, file);
  const known = Object.keys(task.schema.shape);
  const unknown = Object.keys(fields).filter((name) => !known.includes(name));
  if (unknown.length > 0) {
    const lines = unknown.map((name) => {
      const meant = nearest(name, known);
      return `  ${name}${meant ? ` (did you mean ${meant}?)` : ""}`;
    });
    throw new UserError(`${file} has fields that no recipe of ${task.title} has:\n${lines.join("\n")}`, {
      hint: `It may have ${known.join(", ")}.`,
      field: unknown[0],
    });
  }
  return isRun ? { ...fields, run: path } : fields;
}
