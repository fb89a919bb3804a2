#!/usr/bin/env node
import { run } from "./program.ts";

// `allegory … | head` closes the pipe early: there is no one left to write for.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

process.exitCode = await run(process.argv.slice(2));
