/**
 * JSON as Python's `json` module reads and writes it: with the bare words NaN, Infinity and -Infinity, which strict JSON
 * does not have. `DPMSolverMultistepScheduler`, for one, is saved with `"lambda_min_clipped": -Infinity`.
 */

/** Stands for NaN between two passes. Not a text that a configuration holds. */
const MARK = "\u0000";

/**
 * Parses JSON, the bare words of Python included.
 *
 * @throws SyntaxError as `JSON.parse` does, about the text as it was given
 */
export function parsePythonJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    // Strings are matched first, so that what stands in them is left alone. JSON has no word for infinity, but numbers
    // that large.
    const strict = text.replace(
      /("(?:[^"\\]|\\.)*")|(?<![\w.])(Infinity|NaN)(?!\w)/g,
      (_, string?: string, word?: string) => string ?? (word === "NaN" ? JSON.stringify(MARK) : "1e999"),
    );
    if (strict === text) throw error;
    try {
      return JSON.parse(strict, (_, value) => (value === MARK ? Number.NaN : value));
    } catch {
      throw error;
    }
  }
}

/** Writes JSON, numbers that are not finite as the bare words that Python reads (`JSON.stringify` writes null). */
export function pythonJson(value: unknown, indent?: number): string {
  const marked = JSON.stringify(
    value,
    (_, inner) => (typeof inner === "number" && !Number.isFinite(inner) ? `${MARK}${inner}` : inner),
    indent,
  );
  return marked.replace(/"\\u0000(-?Infinity|NaN)"/g, "$1");
}
