import { createRequire } from "node:module";
import { Command } from "commander";
import { compareCommand } from "./compare.ts";
import { type Console, consoleOn } from "./console.ts";
import { demoCommand } from "./demo.ts";
import { demoEmojiCommand } from "./demo-emoji.ts";
import { encodeCommand } from "./encode.ts";
import { exportCommand } from "./export.ts";
import { generateCommand } from "./generate.ts";
import { infoCommand } from "./info.ts";
import { inspectCommand } from "./inspect.ts";
import { noiseCommand } from "./noise.ts";
import { reportError } from "./report-error.ts";
import { sampleCommand } from "./sample.ts";
import { samplersCommand } from "./samplers.ts";
import { tokensCommand } from "./tokens.ts";
import { trainCommand } from "./train.ts";

/** Adds a command to the program. */
export type Register = (program: Command, io: Console) => void;

const COMMANDS: readonly Register[] = [
  trainCommand,
  encodeCommand,
  sampleCommand,
  generateCommand,
  infoCommand,
  tokensCommand,
  compareCommand,
  samplersCommand,
  inspectCommand,
  noiseCommand,
  exportCommand,
  demoCommand,
  demoEmojiCommand,
];

/** The version in package.json, which lies two folders above both the source and the build. */
export function version(): string {
  return (createRequire(import.meta.url)("../../package.json") as { version: string }).version;
}

/**
 * Runs a command line.
 *
 * @param words what stands behind the program's name
 * @returns the exit status: 0, 2 for a user's mistake, 130 after Ctrl-C, 1 for a bug
 */
export async function run(words: readonly string[], io: Console = consoleOn()): Promise<number> {
  const program = new Command("allegory")
    .description("Diffusion models in TypeScript: understand them, train them, run them.")
    .version(version())
    .configureOutput({
      writeOut: (text) => io.out.write(text),
      writeErr: (text) => io.err.write(text),
      // In a file or a pipe every option is one line.
      getOutHelpWidth: () => io.out.columns ?? 10_000,
      getErrHelpWidth: () => io.err.columns ?? 10_000,
    })
    .exitOverride()
    .showHelpAfterError("(`allegory --help` lists the commands, `allegory <command> --help` their options)");
  for (const register of COMMANDS) register(program, io);
  if (words.length === 0) {
    program.outputHelp();
    return 0;
  }
  try {
    await program.parseAsync(words, { from: "user" });
    return 0;
  } catch (error) {
    return reportError(error, (text) => io.err.write(text));
  }
}
