import { expect, test } from "vitest";
import { bar, progressLine } from "./progress-line.ts";

/** A stream that remembers what was written to it. */
function recorder(terminal: { columns: number } | undefined) {
  const listeners = new Set<() => void>();
  return {
    text: "",
    isTTY: terminal !== undefined,
    get columns() {
      return terminal?.columns;
    },
    write(text: string) {
      this.text += text;
    },
    on: (_: "resize", listener: () => void) => listeners.add(listener),
    off: (_: "resize", listener: () => void) => listeners.delete(listener),
    resize() {
      for (const listener of listeners) listener();
    },
    listeners,
  };
}

test("in a terminal the line is redrawn in place and never wider than the terminal, whose width may change", () => {
  const terminal = { columns: 12 };
  const stream = recorder(terminal);
  const line = progressLine(stream);
  line.update("step 1 of 100000");
  expect(stream.text).toBe("\rstep 1 of …\x1b[K");
  stream.text = "";
  terminal.columns = 40;
  stream.resize();
  expect(stream.text).toBe("\rstep 1 of 100000\x1b[K");
  stream.text = "";
  line.note("saved");
  expect(stream.text).toBe("\r\x1b[Ksaved\n\rstep 1 of 100000\x1b[K");
  line.end();
  expect(stream.text.endsWith("\n")).toBe(true);
  expect(stream.listeners.size).toBe(0);
});

test("a line that is cleared leaves nothing in the terminal", () => {
  const stream = recorder({ columns: 80 });
  const line = progressLine(stream);
  line.update("half");
  line.clear();
  expect(stream.text).toBe("\rhalf\x1b[K\r\x1b[K");
});

test("in a file there are plain lines now and then, and the last", () => {
  const stream = recorder(undefined);
  let time = 0;
  const line = progressLine(stream, { every: 10, now: () => time });
  for (; time <= 25; time++) line.update(`at ${time}`);
  line.note("saved");
  line.end();
  expect(stream.text).toBe("at 0\nat 10\nat 20\nsaved\nat 25\n");
});

test("a bar is as full as the share", () => {
  expect(bar(0, 4)).toBe("░░░░");
  expect(bar(0.5, 4)).toBe("██░░");
  expect(bar(2, 4)).toBe("████");
});
