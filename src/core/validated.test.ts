import { describe, expect, test } from "vitest";
import { z } from "zod";
import { UserError } from "./errors.ts";
import { nearest } from "./nearest.ts";
import { validated } from "./validated.ts";

const schema = z.strictObject({
  path: z.string().describe("where it lies"),
  count: z.number().int().min(1).max(9).default(3),
  kind: z.enum(["small", "large"]).optional(),
  patch: z.union([z.literal(1), z.literal(2)]).optional(),
  size: z.union([z.number(), z.tuple([z.number(), z.number()])]).optional(),
  share: z.number().gt(0).lt(1).optional(),
  list: z.array(z.number()).min(1).optional(),
});

const message = (input: unknown) => {
  try {
    validated(schema, input);
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as UserError).message;
  }
  return "";
};

describe("a wrong object is refused with what was given and what is accepted", () => {
  test.each([
    [{}, "path: it is needed: where it lies."],
    [{ path: 3 }, "path: 3 was given. Accepted is a text."],
    [{ path: "x", count: 0 }, "count: 0 was given. Accepted is at least 1."],
    [{ path: "x", count: 10 }, "count: 10 was given. Accepted is at most 9."],
    [{ path: "x", count: 1.5 }, "count: 1.5 was given. Accepted is a whole number."],
    [{ path: "x", kind: "smal" }, 'kind: "smal" was given. Accepted are small, large. Did you mean small?'],
    [{ path: "x", patch: 3 }, "patch: 3 was given. Accepted are 1, 2."],
    [{ path: "x", size: "big" }, 'size: "big" was given. Accepted is a number. Or: Accepted is a list.'],
    [{ path: "x", share: 0 }, "share: 0 was given. Accepted is more than 0."],
    [{ path: "x", share: 1 }, "share: 1 was given. Accepted is less than 1."],
    [{ path: "x", list: [] }, "list: [] was given. Accepted is a list of at least 1."],
    [{ path: "x", list: [1, "a"] }, 'list.1: "a" was given. Accepted is a number.'],
    [{ path: "x", cuont: 2 }, "cuont: there is no such field. Did you mean count?"],
    ["text", 'the whole: "text" was given. Accepted is an object of fields.'],
  ])("%j", (input, line) => {
    expect(message(input)).toBe(`The request cannot be used.\n  ${line}`);
  });

  test("all wrong fields at once, long values shortened", () => {
    const lines = message({ path: 1, kind: "x".repeat(500) }).split("\n");
    expect(lines).toHaveLength(3);
    expect(lines[2]!.length).toBeLessThan(200);
  });
});

test("a right object is given back with its defaults", () => {
  expect(validated(schema, { path: "x", size: [1, 2] })).toEqual({ path: "x", count: 3, size: [1, 2] });
});

test("the nearest word is a slip away, or there is none", () => {
  const words = ["steps", "seed", "sampler"];
  expect(nearest("stesp", words)).toBe("steps");
  expect(nearest("Seed", words)).toBe("seed");
  expect(nearest("sampller", words)).toBe("sampler");
  expect(nearest("guidance", words)).toBeUndefined();
});
