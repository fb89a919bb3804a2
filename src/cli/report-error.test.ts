import { CommanderError } from "commander";
import { expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { Interrupted } from "./interrupt.ts";
import { reportError } from "./report-error.ts";

function reported(error: unknown) {
  let text = "";
  const status = reportError(error, (part) => {
    text += part;
  });
  return { status, text };
}

test("a user's mistake is told with its hint and ends with status 2", () => {
  const error = new UserError("The size is 3.", { hint: "Give a multiple of 4." });
  expect(reported(error)).toEqual({ status: 2, text: "error: The size is 3.\nGive a multiple of 4.\n" });
});

test("anything else is called a bug, with its stack, and ends with status 1", () => {
  const { status, text } = reported(new TypeError("x is undefined"));
  expect(status).toBe(1);
  expect(text).toMatch(/^This is a bug in allegory.*\n.*TypeError: x is undefined\n +at /);
  expect(reported("thrown text")).toMatchObject({ status: 1, text: expect.stringContaining("thrown text") });
});

test("what the system refuses is no bug", () => {
  const error = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
  expect(reported(error)).toEqual({
    status: 2,
    text: "error: ENOSPC: no space left on device, write\nThe disk is full: make room or choose another path.\n",
  });
});

test("an interruption ends with status 130 and says nothing more; nor does help, with status 0", () => {
  expect(reported(new Interrupted("stopped"))).toEqual({ status: 130, text: "" });
  expect(reported(new CommanderError(0, "commander.helpDisplayed", "(outputHelp)"))).toEqual({ status: 0, text: "" });
  expect(reported(new CommanderError(1, "commander.unknownOption", "error"))).toEqual({ status: 2, text: "" });
});
