/** A stream that may be a terminal. */
export interface Output {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
  on?(event: "resize", listener: () => void): unknown;
  off?(event: "resize", listener: () => void): unknown;
}

/** One line that tells how far something is. */
export interface ProgressLine {
  /** Shows the present state: redrawn in place in a terminal, a line now and then in a file. */
  update(text: string): void;
  /** Writes a line that stays. */
  note(text: string): void;
  /** Leaves the last state standing. */
  end(): void;
  /** Removes the line from a terminal; in a file nothing more is written. */
  clear(): void;
}

/**
 * A progress line on a stream. In a terminal it never takes more than the width, which may change; elsewhere (a file, a
 * pipe) it is plain lines at least `every` milliseconds apart, and the last.
 */
export function progressLine(
  stream: Output,
  { every = 10_000, now = Date.now }: { readonly every?: number; readonly now?: () => number } = {},
): ProgressLine {
  const terminal = stream.isTTY === true;
  let shown = "";
  let written: string | undefined;
  let last = Number.NEGATIVE_INFINITY;
  const draw = () => {
    if (shown) stream.write(`\r${cut(shown, (stream.columns ?? 80) - 1)}\x1b[K`);
  };
  const erase = () => {
    if (terminal && shown) stream.write("\r\x1b[K");
  };
  if (terminal) stream.on?.("resize", draw);
  const finish = () => {
    shown = "";
    if (terminal) stream.off?.("resize", draw);
  };
  return {
    update(text) {
      shown = text;
      if (terminal) draw();
      else if (now() - last >= every) {
        last = now();
        written = text;
        stream.write(`${text}\n`);
      }
    },
    note(text) {
      erase();
      stream.write(`${text}\n`);
      if (terminal) draw();
    },
    end() {
      if (terminal && shown) stream.write("\n");
      else if (!terminal && shown && shown !== written) stream.write(`${shown}\n`);
      finish();
    },
    clear() {
      erase();
      finish();
    },
  };
}

/** A progress line that shows nothing. */
export const silent: ProgressLine = { update() {}, note() {}, end() {}, clear() {} };

/** A bar of `width` characters. */
export function bar(share: number, width = 20): string {
  const full = Math.round(Math.min(Math.max(share, 0), 1) * width);
  return "█".repeat(full) + "░".repeat(width - full);
}

function cut(text: string, width: number): string {
  const letters = [...text];
  return letters.length <= width ? text : `${letters.slice(0, Math.max(0, width - 1)).join("")}…`;
}
