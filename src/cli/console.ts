import { type Output, type ProgressLine, progressLine, silent } from "./progress-line.ts";

/** Where a command writes: results on one stream, progress and remarks on another. */
export interface Console {
  /** A line of the result. */
  print(text: string): void;
  /** A result as JSON, on one line. */
  json(value: unknown): void;
  /** A remark that is no result. */
  remark(text: string): void;
  /** Progress of something that ends soon: removed when done, not shown outside a terminal. */
  progress(): ProgressLine;
  readonly out: Output;
  readonly err: Output;
}

/** A console on the process's streams, or on others for tests. */
export function consoleOn(out: Output = process.stdout, err: Output = process.stderr): Console {
  return {
    print: (text) => void out.write(`${text}\n`),
    json: (value) => void out.write(`${JSON.stringify(value)}\n`),
    remark: (text) => void err.write(`${text}\n`),
    progress: () => (err.isTTY ? progressLine(err) : silent),
    out,
    err,
  };
}
