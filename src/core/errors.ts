/**
 * A mistake of the user's: something given that cannot be accepted.
 *
 * The message says what was given, what is accepted and what to do about it. The command line ends with exit code 2
 * and the server with HTTP 400 on a `UserError`; every other error is a bug of ours and is reported as one.
 */
export class UserError extends Error {
  override readonly name = "UserError";

  /**
   * @param message what was given and what is accepted, one sentence or more
   * @param options.hint what to do about it
   * @param options.field the option or request field at fault, where there is one
   */
  constructor(
    message: string,
    readonly options: { readonly hint?: string; readonly field?: string; readonly cause?: unknown } = {},
  ) {
    super(options.hint ? `${message}\n${options.hint}` : message, { cause: options.cause });
  }
}

/** Throws when a condition that our own code must guarantee does not hold: reaching it is a bug, not a user's mistake. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`allegory bug: ${message}`);
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
