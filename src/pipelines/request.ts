import type { z } from "zod";
import { UserError } from "../core/errors.ts";

/**
 * Reads a request: the plain object that the command line, the server and a program give alike.
 *
 * @param what what to call it in messages, for example "The request"
 * @throws UserError that names each wrong field with what was given and what is accepted
 */
export function readRequest<S extends z.ZodObject>(schema: S, input: unknown, what = "The request"): z.output<S> {
  const result = schema.safeParse(input, { reportInput: true });
  if (result.success) return result.data;
  const { issues } = result.error;
  const lines = issues.map((issue) => {
    if (issue.code === "unrecognized_keys") {
      return `  ${issue.keys.join(", ")}: not known; known are ${Object.keys(schema.shape).join(", ")}`;
    }
    return `  ${issue.path.join(".") || "the whole"}: ${JSON.stringify(issue.input)} was given. ${issue.message}`;
  });
  throw new UserError(`${what} cannot be used.\n${lines.join("\n")}`, {
    field: String(issues[0]?.path[0] ?? "request"),
  });
}
