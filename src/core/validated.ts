import type { z } from "zod";
import { UserError } from "./errors.ts";
import { nearest } from "./nearest.ts";

/** The plain object that a command line, a file, an HTTP request or a program gives, checked against its schema. */
export interface ValidationOptions {
  /** What to call the object in messages, with an article. */
  readonly what?: string;
  readonly hint?: string;
}

/**
 * Checks an object that comes from outside.
 *
 * @throws UserError that names each wrong field with what was given and what is accepted, and for misspelt words the
 *   nearest accepted one
 */
export function validated<S extends z.ZodObject>(
  schema: S,
  input: unknown,
  { what = "The request", hint }: ValidationOptions = {},
): z.output<S> {
  const result = schema.safeParse(input, { reportInput: true });
  if (result.success) return result.data;
  const { issues } = result.error;
  const known = Object.keys(schema.shape);
  const lines = issues.flatMap((issue) => {
    if (issue.code === "unrecognized_keys") {
      return issue.keys.map((key) => `${key}: there is no such field.${suggestion(key, known)}`);
    }
    const name = issue.path.join(".");
    const about = (schema.shape[name] as z.ZodType | undefined)?.description;
    if (issue.input === undefined) return [`${name}: it is needed${about ? `: ${about}` : ""}.`];
    return [`${name || "the whole"}: ${shown(issue.input)} was given. ${accepted(issue)}`];
  });
  const first = issues[0]!;
  throw new UserError(`${what} cannot be used.\n${lines.map((line) => `  ${line}`).join("\n")}`, {
    hint,
    field: String(first.code === "unrecognized_keys" ? first.keys[0] : (first.path[0] ?? "request")),
  });
}

/** A value as JSON; of long ones, such as pictures, the beginning. */
function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}

function accepted(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case "invalid_value": {
      const words = issue.values.map(String);
      return `Accepted are ${words.join(", ")}.${typeof issue.input === "string" ? suggestion(issue.input, words) : ""}`;
    }
    case "invalid_union": {
      const values = issue.errors.flatMap((errors) =>
        errors.flatMap((e) => (e.code === "invalid_value" ? e.values : [])),
      );
      if (values.length > 0) return `Accepted are ${values.join(", ")}.`;
      return [...new Set(issue.errors.flatMap((errors) => errors.map(accepted)))].join(" Or: ");
    }
    case "invalid_type":
      return `Accepted is ${ARTICLES[issue.expected] ?? issue.expected}.`;
    case "too_small":
      return `Accepted is ${issue.origin === "array" ? "a list of " : ""}${issue.inclusive === false ? "more than" : "at least"} ${issue.minimum}.`;
    case "too_big":
      return `Accepted is ${issue.origin === "array" ? "a list of " : ""}${issue.inclusive === false ? "less than" : "at most"} ${issue.maximum}.`;
    default:
      return `${issue.message}.`;
  }
}

const ARTICLES: Readonly<Record<string, string>> = {
  array: "a list",
  boolean: "true or false",
  int: "a whole number",
  number: "a number",
  object: "an object of fields",
  string: "a text",
  tuple: "a list",
};

function suggestion(word: string, known: readonly string[]): string {
  const meant = nearest(word, known);
  return meant ? ` Did you mean ${meant}?` : "";
}
