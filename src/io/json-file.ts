import { readFile, stat } from "node:fs/promises";
import { messageOf, UserError } from "../core/errors.ts";
import { parsePythonJson, pythonJson } from "../core/python-json.ts";
import { writeFileAtomically } from "./atomic-file.ts";

/** A JSON object whose fields are not known yet. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** Configurations and index files are far smaller; what is larger is another file under this name. */
const MAX_JSON_BYTES = 100_000_000;

/**
 * Reads a file that holds one JSON object. NaN and infinities may be bare words, as Python writes them.
 *
 * @throws UserError naming the file when it is missing, too large, no JSON or no object
 */
export async function readJsonObject(path: string): Promise<JsonObject> {
  let text: string;
  try {
    const { size } = await stat(path);
    if (size > MAX_JSON_BYTES) throw new UserError(`${path} has ${size} bytes, too many for a configuration.`);
    text = await readFile(path, "utf8");
  } catch (error) {
    if (error instanceof UserError) throw error;
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    throw new UserError(missing ? `There is no file ${path}.` : `${path} cannot be read: ${messageOf(error)}.`, {
      cause: error,
    });
  }
  let value: unknown;
  try {
    value = parsePythonJson(text.replace(/^\ufeff/, ""));
  } catch (error) {
    const lfs = text.startsWith("version https://git-lfs");
    throw new UserError(
      lfs ? `${path} is a git-lfs pointer, not the file itself.` : `${path} is not JSON: ${messageOf(error)}.`,
      { hint: lfs ? "Run `git lfs pull` in the model's repository." : "Get or write the file again.", cause: error },
    );
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new UserError(`${path} holds ${Array.isArray(value) ? "a list" : String(value)}; a JSON object is needed.`);
  }
  return value as JsonObject;
}

/** Writes an object as diffusers does: two spaces, keys sorted at every depth, infinities as the bare words of Python. */
export async function writeJsonObject(path: string, value: JsonObject): Promise<void> {
  await writeFileAtomically(path, `${pythonJson(sorted(value), 2)}\n`);
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return Object.fromEntries(entries.map(([key, inner]) => [key, sorted(inner)]));
}
