import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const MAIN = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));
const TSX = import.meta.resolve("tsx");

/** How a run of the command ended. */
export interface Ended {
  readonly status: number | null;
  readonly out: string;
  readonly err: string;
}

export interface CommandOptions {
  readonly cwd: string;
  /** Called with all that was written so far, to send signals at the right moment. */
  readonly watch?: (text: string, kill: (signal: NodeJS.Signals) => void) => void;
}

/** Runs `allegory` from source as a process of its own. */
export function allegory(words: readonly string[], { cwd, watch }: CommandOptions): Promise<Ended> {
  const child = spawn(process.execPath, ["--import", TSX, MAIN, ...words], { cwd, stdio: ["ignore", "pipe", "pipe"] });
  let out = "";
  let err = "";
  const seen = () => watch?.(out + err, (signal) => child.kill(signal));
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    out += text;
    seen();
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    err += text;
    seen();
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject).on("close", (status) => resolve({ status, out, err }));
  });
}
