import { CommanderError } from "commander";
import { UserError } from "../core/errors.ts";
import { INTERRUPTED_STATUS, Interrupted } from "./interrupt.ts";

/** The exit status of a user's mistake. */
const MISTAKE = 2;
/** The exit status of a bug of ours. */
const BUG = 1;

/**
 * Says what went wrong and gives the status to exit with: 0 after help was shown, 2 for a user's mistake, 130 after an
 * interruption, 1 for a bug, which is shown with its stack.
 */
export function reportError(error: unknown, write: (text: string) => void): number {
  // Commander has said what it had to say.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : MISTAKE;
  if (error instanceof Interrupted) return INTERRUPTED_STATUS;
  if (error instanceof UserError) {
    write(`error: ${error.message}\n`);
    return MISTAKE;
  }
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  if (code !== undefined && Object.hasOwn(SYSTEM, code)) {
    write(`error: ${(error as Error).message}\n${SYSTEM[code]}\n`);
    return MISTAKE;
  }
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
  write(`This is a bug in allegory; please report it with the text below and the command you gave.\n${stack}\n`);
  return BUG;
}

/** What the system refuses is not a bug. */
const SYSTEM: Readonly<Record<string, string>> = {
  EACCES: "Choose another path, or change its permissions.",
  EPERM: "Choose another path, or change its permissions.",
  EROFS: "The file system is read-only: choose another path.",
  ENOSPC: "The disk is full: make room or choose another path.",
  EDQUOT: "The disk quota is used up: make room or choose another path.",
  ENOTDIR: "A part of the path is a file: choose another path.",
  EISDIR: "This is a folder: name a file in it.",
  EEXIST: "There is a file of this name already: choose another path.",
};
